// Public keys that log in by SSH.

import { api } from '../api';
import { formDialog } from '../dialog';
import { button, field, h } from '../dom';
import { pageHead } from '../frame';
import { notice } from '../notice';
import { poll } from '../poll';
import type { Page } from '../router';
import { can } from '../session';
import { table, time } from '../table';
import type { PublicKey } from '../types';
import { failureLine } from './parts';
import { removeButton } from './remove-button';

const EVERY_MS = 15_000;

export function keysPage(): Page {
  const failure = failureLine();
  const list = table<PublicKey>('Public keys', [
    { title: 'Name', cell: (key) => [h('strong', {}, key.name), key.cert_authority ? h('span', { class: 'sub' }, 'authority of certificates') : null] },
    { title: 'Opens', cell: (key) => key.sandboxes === null ? 'every sandbox' : key.sandboxes.join(', ') },
    { title: 'Fingerprint', cell: (key) => h('code', { class: 'break' }, key.fingerprint), kind: 'wide' },
    { title: 'Added', cell: (key) => time(key.created_at) },
    { title: 'Last used', cell: (key) => time(key.last_used_at, 'never') },
    { title: 'Actions', cell: (key) => can('admin') ? h('div', { class: 'buttons' }, removal(key)) : null, kind: 'act' },
  ], (key) => key.id, 'No public key logs in.');
  const refresh = poll(EVERY_MS, () => failure.guard(async () => list.show(await api.keys())));

  function removal(key: PublicKey): HTMLElement {
    return removeButton({
      kind: 'key',
      name: key.name,
      text: `The connections of “${key.name}” end at once.`,
      remove: () => api.removeKey(key.name),
      removed: () => refresh.now(),
    });
  }

  const add = can('admin') && button('Add a key', () => addDialog(() => refresh.now()), { class: 'primary' });
  return {
    title: 'Public keys',
    view: h('section', {}, pageHead('Public keys', 'Who has one of them logs in by SSH with the name of a sandbox as user.', add),
      failure.view, list.view),
    leave: refresh.stop,
  };
}

function addDialog(added: () => void): void {
  const name = h('input', { name: 'name', required: true, maxlength: 64, autocomplete: 'off', spellcheck: 'false', autofocus: true });
  const text = h('textarea', { name: 'public_key', required: true, rows: 4, spellcheck: 'false', autocomplete: 'off' });
  const sandboxes = h('input', { name: 'sandboxes', autocomplete: 'off', spellcheck: 'false' });
  formDialog('Add a public key', [
    field('Name', name), field('Public key', text, 'The line of a file such as id_ed25519.pub.'),
    field('Sandboxes', sandboxes, 'Names with commas; empty: every one.'),
  ], 'Add', async () => {
    const names = sandboxes.value.split(',').map((one) => one.trim()).filter(Boolean);
    await api.addKey({ name: name.value.trim(), public_key: text.value.trim(), sandboxes: names });
    notice('The key was added.');
    added();
  });
}
