// Tables that refresh under the reader's hands: a row that has not changed is left alone, and the focus stays where it was.

import { type Child, fill, h } from './dom';
import { exact, relative } from './format';

export interface Column<T> {
  title: string;
  cell: (item: T) => Child | Child[];
  /** `numeric` aligns right, `act` holds buttons, `wide` may break anywhere. */
  kind?: 'numeric' | 'act' | 'wide';
}

export interface Table<T> {
  view: HTMLElement;
  show: (items: T[]) => void;
}

/** `empty` is said when there are no rows. On narrow screens each row is a card, so the roles are written out. */
export function table<T>(caption: string, columns: Column<T>[], key: (item: T) => string, empty: string): Table<T> {
  const body = h('tbody', { role: 'rowgroup' });
  const none = h('p', { class: 'empty', hidden: true }, empty);
  const element = h(
    'table',
    { role: 'table', hidden: true },
    h('caption', { class: 'hidden-text' }, caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, ...columns.map((column) =>
      h('th', { role: 'columnheader', scope: 'col', class: column.kind }, column.title)))),
    body,
  );
  const loading = h('p', { class: 'empty', role: 'status' }, 'Loading…');
  const rows = new Map<string, { row: HTMLTableRowElement; state: string }>();

  function draw(item: T): HTMLTableRowElement {
    return h('tr', { role: 'row' }, ...columns.map((column) => {
      const content = column.cell(item);
      const cell = h('td', { role: 'cell', class: column.kind, 'data-label': column.title });
      fill(cell, ...(Array.isArray(content) ? content : [content]));
      return cell;
    }));
  }

  function show(items: T[]): void {
    const keys = new Set(items.map(key));
    for (const [name, { row }] of rows) {
      if (!keys.has(name)) {
        row.remove();
        rows.delete(name);
      }
    }
    let before: Element | null = null;
    for (const item of items) {
      const name = key(item);
      const state = JSON.stringify(item);
      let known = rows.get(name);
      if (!known) {
        known = { row: draw(item), state };
        rows.set(name, known);
      } else if (known.state !== state) {
        const row = draw(item);
        keepFocus(known.row, row);
        known = { row, state };
        rows.set(name, known);
      }
      const place: Element | null = before ? before.nextElementSibling : body.firstElementChild;
      if (place !== known.row) body.insertBefore(known.row, place);
      before = known.row;
    }
    loading.hidden = true;
    element.hidden = items.length === 0;
    none.hidden = items.length > 0;
    refreshTimes(body);
  }

  return { view: h('div', { class: 'table' }, loading, none, element), show };
}

/** Puts `next` in the place of `old`; the control that had the focus is found again by its text, and open details stay open. */
function keepFocus(old: HTMLElement, next: HTMLElement): void {
  const controls = 'a, button, summary, select, input';
  const index = old.contains(document.activeElement) ? document.activeElement?.textContent : undefined;
  const open = old.querySelector('details')?.open === true;
  old.replaceWith(next);
  if (open) next.querySelector('details')?.setAttribute('open', '');
  if (index !== undefined) {
    const all = [...next.querySelectorAll<HTMLElement>(controls)];
    (all.find((control) => control.textContent === index) ?? all[0])?.focus();
  }
}

/** A time as `5 min ago`, with the exact one as its title. */
export function time(iso: string | null | undefined, none = '–'): HTMLElement | string {
  if (!iso) return none;
  return h('time', { datetime: iso, title: exact(iso) }, relative(iso));
}

function refreshTimes(within: HTMLElement): void {
  for (const element of within.querySelectorAll('time')) element.textContent = relative(element.dateTime);
}
