// Access tokens: who may log in to which sandbox by SSH, and for how long.

import { api } from '../api';
import { confirmDialog } from '../dialog';
import { button, h, unique } from '../dom';
import { pageHead } from '../frame';
import { attempt, notice } from '../notice';
import { poll } from '../poll';
import type { Page } from '../router';
import { can } from '../session';
import { table, time } from '../table';
import type { Token } from '../types';
import { failureLine } from './parts';
import { createTokenDialog } from './token-form';

const EVERY_MS = 10_000;

export function tokensPage(): Page {
  const failure = failureLine();
  let tokens: Token[] = [];
  const all = h('input', { type: 'checkbox', id: unique('all') });
  const list = table<Token>('Access tokens', [
    { title: 'Token', cell: (token) => [h('code', {}, `${token.prefix}…`), token.label ? h('span', { class: 'sub' }, token.label) : null] },
    { title: 'Sandbox', cell: (token) => h('strong', {}, token.sandbox) },
    { title: 'State', cell: (token) => h('span', { class: `badge ${token.state}` }, token.state) },
    { title: 'Good for', cell: (token) => [token.scopes.join(', '), limits(token)] },
    { title: 'Ends', cell: (token) => time(token.expires_at) },
    { title: 'Last used', cell: (token) => time(token.last_used_at, 'never') },
    { title: 'Actions', cell: (token) => h('div', { class: 'buttons' }, revokeButton(token)), kind: 'act' },
  ], (token) => token.id, 'There is no token that works. Make one to log in by SSH.');
  const show = () => list.show(tokens.filter((token) => all.checked || token.state === 'active'));
  all.addEventListener('change', show);
  const refresh = poll(EVERY_MS, () => failure.guard(async () => {
    tokens = await api.tokens();
    show();
  }));

  function revokeButton(token: Token): HTMLElement | null {
    if (!can('user') || token.state !== 'active') return null;
    const control: HTMLButtonElement = button('Revoke', () => void attempt(async () => {
      const text = `${token.prefix}… for ${token.sandbox} stops working, and the sessions that use it end.`;
      if (!(await confirmDialog({ title: 'Revoke this token?', text, action: 'Revoke' }))) return;
      await api.revokeToken(token.id);
      notice('The token was revoked.');
      refresh.now();
    }, control), { class: 'danger-text', 'aria-label': `Revoke ${token.prefix}` });
    return control;
  }

  const create = can('user') && button('New token', () => void createTokenDialog(() => refresh.now()), { class: 'primary' });
  return {
    title: 'Tokens',
    view: h('section', {}, pageHead('Tokens', 'The user name of an SSH login. A token is shown once, when it is made.', create),
      failure.view,
      h('p', { class: 'filters' }, h('label', { class: 'check', for: all.id }, all, 'Also those that have ended')),
      list.view),
    leave: refresh.stop,
  };
}

/** What holds it further: networks, and what of the files. */
function limits(token: Token): HTMLElement | null {
  const parts = [
    token.sources?.length ? `from ${token.sources.join(', ')}` : '',
    token.files?.root ? `files in ${token.files.root}` : '',
    token.files?.read_only ? 'files read-only' : '',
  ].filter(Boolean);
  return parts.length > 0 ? h('span', { class: 'sub break' }, parts.join(' · ')) : null;
}
