// What is around every page of the dashboard: skip link, navigation, theme, who is logged in.

import { api } from './api';
import { button, fill, h, select } from './dom';
import { attempt } from './notice';
import { can } from './session';
import { type Choice, chooseTheme, chosenTheme } from './theme';
import type { Role, Whoami } from './types';

const LINKS: readonly (readonly [string, string, Role])[] = [
  ['/sandboxes', 'Sandboxes', 'viewer'],
  ['/sessions', 'Sessions', 'viewer'],
  ['/tokens', 'Tokens', 'viewer'],
  ['/keys', 'Keys', 'viewer'],
  ['/images', 'Images', 'viewer'],
  ['/recordings', 'Recordings', 'viewer'],
  ['/audit', 'Audit', 'viewer'],
  ['/api-keys', 'API keys', 'admin'],
  ['/reference', 'API', 'viewer'],
  ['/status', 'Status', 'viewer'],
];

export class Frame {
  private readonly links = h('ul', {});
  private readonly main = h('main', { id: 'main', tabindex: -1 });
  private readonly who = h('span', { class: 'who' });
  private readonly out: HTMLButtonElement;
  private readonly view: HTMLElement;
  private shown = false;

  constructor(signedOut: () => void) {
    this.out = button('Log out', () => void attempt(async () => {
      await api.logout();
      signedOut();
    }, this.out), { class: 'quiet' });
    const skip = h('a', { class: 'skip', href: '#main' }, 'Skip to content');
    skip.addEventListener('click', (event) => {
      event.preventDefault();
      this.main.focus();
    });
    const header = h(
      'header',
      {},
      h('a', { class: 'brand', href: '/sandboxes' }, 'sandgate'),
      h('nav', { 'aria-label': 'Pages' }, this.links),
      h('div', { class: 'account' }, themeSwitch(), this.who, this.out),
    );
    this.view = h('div', { class: 'frame' }, skip, header, this.main);
  }

  /** Shows a page within the frame, or alone when nobody is logged in. */
  show(page: HTMLElement, who: Whoami | null): void {
    this.who.textContent = who ? `${who.name} (${who.role})` : '';
    this.out.hidden = !who;
    fill(this.links, ...(who ? LINKS.filter(([, , role]) => can(role)).map(([href, text]) => {
      const here = location.pathname === href || location.pathname.startsWith(`${href}/`);
      return h('li', {}, h('a', { href, 'aria-current': here ? 'page' : undefined }, text));
    }) : []));
    fill(this.main, page);
    if (!this.view.isConnected) fill(document.body, this.view);
    scrollTo(0, 0);
    this.links.querySelector('[aria-current]')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
    // A screen reader starts at the new page; a field that wants the focus has it already. The first page is the browser's affair.
    if (this.shown && !this.main.contains(document.activeElement)) this.main.focus({ preventScroll: true });
    this.shown = true;
  }
}

function themeSwitch(): HTMLElement {
  const choices = [['auto', 'System'], ['light', 'Light'], ['dark', 'Dark']] as const;
  const control = select('theme', choices, chosenTheme());
  control.setAttribute('aria-label', 'Theme');
  control.addEventListener('change', () => chooseTheme(control.value as Choice));
  return control;
}

/** The head of a page: its name, a line about it, and what can be done. */
export function pageHead(title: string, about: string, ...actions: (HTMLElement | false | null)[]): HTMLElement {
  return h('div', { class: 'head' }, h('div', {}, h('h1', {}, title), h('p', { class: 'about' }, about)),
    h('div', { class: 'actions' }, ...actions));
}
