// Elements without a framework. Text always becomes a text node; nothing here, and nothing elsewhere, parses HTML.

export type Child = Node | string | number | null | undefined | false;

type Listeners = { [K in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[K]) => void };

/** Attributes by their HTML names; `true` sets an empty one, `false` and `undefined` leave it out. */
export type Attributes = {
  on?: Listeners;
  /** A style attribute is refused by the content security policy. */
  style?: never;
} & { [name: string]: string | number | boolean | undefined | Listeners };

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'on') {
      for (const [event, listener] of Object.entries(value as Listeners)) {
        element.addEventListener(event, listener as EventListener);
      }
    } else if (value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? '' : String(value));
    }
  }
  append(element, children);
  return element;
}

function append(parent: HTMLElement, children: Child[]): void {
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) {
      parent.append(child instanceof Node ? child : String(child));
    }
  }
}

/** Replaces what is in `parent`. */
export function fill(parent: HTMLElement, ...children: Child[]): void {
  parent.replaceChildren();
  append(parent, children);
}

let ids = 0;

/** An identifier for `for` and `aria-*`. */
export function unique(prefix: string): string {
  ids += 1;
  return `${prefix}-${ids}`;
}

/** A button. */
export function button(text: string, click: () => void, attributes: Attributes = {}): HTMLButtonElement {
  return h('button', { type: 'button', ...attributes, on: { click } }, text);
}

/** A labelled control, with an optional line of help. */
export function field(label: string, control: HTMLElement, help?: string): HTMLElement {
  control.id ||= unique('field');
  const hint = help === undefined ? null : h('small', { id: `${control.id}-help` }, help);
  if (hint) control.setAttribute('aria-describedby', hint.id);
  return h('div', { class: 'field' }, h('label', { for: control.id }, label), control, hint);
}

/** A `select` of values with their texts. */
export function select(name: string, choices: readonly (readonly [string, string])[], chosen?: string): HTMLSelectElement {
  const element = h('select', { name }, ...choices.map(([value, text]) => h('option', { value }, text)));
  if (chosen !== undefined) element.value = chosen;
  return element;
}
