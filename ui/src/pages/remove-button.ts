// The button that removes what a row shows. It asks first, since nothing brings that back.

import { confirmDialog } from '../dialog';
import { button } from '../dom';
import { attempt, notice } from '../notice';

export interface Removal {
  /** What sort of thing it is, such as `key`. */
  kind: string;
  /** Which one, for those who do not see the row. */
  name: string;
  /** What comes of it, as a sentence. */
  text: string;
  remove: () => Promise<void>;
  /** Afterwards, and only if it was removed. */
  removed: () => void | Promise<void>;
}

export function removeButton({ kind, name, text, remove, removed }: Removal): HTMLButtonElement {
  const control: HTMLButtonElement = button('Remove', () => void attempt(async () => {
    if (!(await confirmDialog({ title: `Remove this ${kind}?`, text, action: 'Remove' }))) return;
    await remove();
    notice(`The ${kind} was removed.`);
    await removed();
  }, control), { class: 'danger-text', 'aria-label': `Remove ${name}` });
  return control;
}
