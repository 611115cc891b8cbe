// A line of text to copy.

import { button, h } from './dom';
import { notice } from './notice';

/** The text in a box, with a button. Without a clipboard (plain HTTP from afar) the text is selected instead. */
export function copyLine(label: string, text: string): HTMLElement {
  const code = h('code', { tabindex: 0, 'aria-label': label }, text);
  const copy = button('Copy', () => void run(), { 'aria-label': `Copy: ${label}` });
  async function run(): Promise<void> {
    try {
      await navigator.clipboard.writeText(text);
      notice('Copied.');
    } catch {
      getSelection()?.selectAllChildren(code);
      notice('Selected; copy it with the keyboard.');
    }
  }
  return h('div', { class: 'copy' }, code, copy);
}
