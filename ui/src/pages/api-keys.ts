// Keys for the API and for this dashboard.

import { api } from '../api';
import { copyLine } from '../copy';
import { formDialog, showDialog } from '../dialog';
import { button, field, h, select } from '../dom';
import { pageHead } from '../frame';
import { poll } from '../poll';
import type { Page } from '../router';
import { can } from '../session';
import { table, time } from '../table';
import type { ApiKey, Role } from '../types';
import { failureLine } from './parts';
import { removeButton } from './remove-button';

const EVERY_MS = 15_000;

const ROLES = [
  ['viewer', 'viewer – sees, and watches'], ['user', 'user – works with sandboxes'], ['admin', 'admin – everything'],
] as const;

export function apiKeysPage(): Page {
  const failure = failureLine();
  const list = table<ApiKey>('API keys', [
    { title: 'Name', cell: (key) => [h('strong', {}, key.name), key.prefix ? h('span', { class: 'sub' }, h('code', {}, `${key.prefix}…`)) : null] },
    { title: 'Role', cell: (key) => key.role },
    { title: 'Made', cell: (key) => time(key.created_at) },
    { title: 'Last used', cell: (key) => time(key.last_used_at, 'never') },
    { title: 'Actions', cell: (key) => h('div', { class: 'buttons' }, removal(key)), kind: 'act' },
  ], (key) => key.id, 'There is no API key.');
  const refresh = poll(EVERY_MS, () => failure.guard(async () => list.show(await api.apiKeys())));

  function removal(key: ApiKey): HTMLElement {
    return removeButton({
      kind: 'key',
      name: key.name,
      text: `Whoever uses “${key.name}” is logged out at once.`,
      remove: () => api.removeApiKey(key.id),
      removed: () => refresh.now(),
    });
  }

  const create = can('admin') && button('New key', () => createDialog(() => refresh.now()), { class: 'primary' });
  return {
    title: 'API keys',
    view: h('section', {}, pageHead('API keys', 'For this dashboard and for programs. A key is shown once, when it is made.', create),
      failure.view, list.view),
    leave: refresh.stop,
  };
}

function createDialog(created: () => void): void {
  const name = h('input', { name: 'name', required: true, maxlength: 64, autocomplete: 'off', spellcheck: 'false', autofocus: true });
  const role = select('role', ROLES, 'user');
  formDialog('New API key', [field('Name', name), field('Role', role)], 'Create', async () => {
    const answer = await api.createApiKey(name.value.trim(), role.value as Role);
    created();
    setTimeout(() => {
      const done = button('Done', () => shown.close(), { class: 'primary', autofocus: true });
      const shown = showDialog('The new key', [
        h('p', {}, 'It is shown only now.'), copyLine('API key', answer.key), h('div', { class: 'actions' }, done),
      ]);
    }, 0);
  });
}
