// Small things that several pages show.

import { type Child, h } from '../dom';

/** A line that says why a page is not up to date, while it is not. */
export function failureLine(): { view: HTMLElement; guard: (what: () => Promise<void>) => Promise<void> } {
  const view = h('p', { class: 'problem', role: 'alert', hidden: true });
  return {
    view,
    guard: async (what) => {
      try {
        await what();
        view.hidden = true;
      } catch (error) {
        const text = error instanceof Error ? error.message : String(error);
        if (view.textContent !== text) view.textContent = text;
        view.hidden = false;
      }
    },
  };
}

/** Names and values; a value that is not there is left out. */
export function facts(pairs: (readonly [string, Child])[]): HTMLElement {
  return h('dl', { class: 'facts' }, ...pairs.flatMap(([name, value]) =>
    value === null || value === undefined || value === '' || value === false ? [] : [h('dt', {}, name), h('dd', {}, value)]));
}
