// Short messages at the bottom of the window, read out by screen readers.

import { h } from './dom';

/** Milliseconds that a message stays: long enough to read two lines. */
const STAYS = 6000;

/** At most this many at once; the oldest goes. */
const MOST = 4;

let area: HTMLElement | null = null;

export function notice(text: string, kind: 'done' | 'problem' = 'done'): void {
  area ??= h('div', { class: 'notices', role: 'status', 'aria-live': 'polite' });
  if (!area.isConnected) document.body.append(area);
  const line = h('p', { class: `notice ${kind}` }, text);
  area.append(line);
  while (area.childElementCount > MOST) area.firstElementChild?.remove();
  setTimeout(() => line.remove(), STAYS);
}

/** Does something for a button: one run at a time, and the message of an error is shown. */
export async function attempt(what: () => Promise<void>, control?: HTMLButtonElement): Promise<void> {
  if (control) control.disabled = true;
  try {
    await what();
  } catch (error) {
    notice(error instanceof Error ? error.message : String(error), 'problem');
  } finally {
    if (control) control.disabled = false;
  }
}
