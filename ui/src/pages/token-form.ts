// The dialog that makes a token, and the one that shows it, once.

import { api } from '../api';
import { copyLine } from '../copy';
import { formDialog, showDialog } from '../dialog';
import { button, field, h, select, unique } from '../dom';
import { exact } from '../format';
import { type NewToken, SCOPES, type Scope, type TokenCreated } from '../types';

const LIFETIMES = [
  ['', 'Default'], ['3600', '1 hour'], ['28800', '8 hours'], ['86400', '1 day'], ['604800', '7 days'], ['2592000', '30 days'],
] as const;

/** What a token's sessions leave behind. The empty choice is not sent: then the gateway's own setting holds. */
const RECORD = [
  ['', 'As the gateway and sandbox are set'], ['terminal', 'Terminals'], ['all', 'Everything'],
] as const;

const SCOPE_TEXT: Record<Scope, string> = {
  shell: 'shell – a login shell',
  exec: 'exec – single commands, rsync, git',
  sftp: 'sftp – files',
  forward: 'forward – ports and sockets',
  agent: 'agent – the client’s SSH agent',
};

export async function createTokenDialog(created: () => void): Promise<void> {
  const sandbox = h('select', { name: 'sandbox', required: true, autofocus: true });
  void api.sandboxes().then(
    (list) => sandbox.append(...list.map((box) => h('option', { value: box.name }, box.name))),
    () => {},
  );
  const label = h('input', { name: 'label', maxlength: 64, autocomplete: 'off', placeholder: 'optional' });
  const ttl = select('ttl', LIFETIMES);
  const record = select('record', RECORD);
  const boxes = SCOPES.map((scope) => h('input', { type: 'checkbox', name: 'scope', value: scope, id: unique('scope'), checked: true }));
  const scopes = h('fieldset', {}, h('legend', {}, 'Good for'), ...boxes.map((box) =>
    h('label', { class: 'check', for: box.id }, box, SCOPE_TEXT[box.value as Scope])));

  formDialog(
    'New token',
    [
      field('Sandbox', sandbox),
      field('Label', label, 'For people; says what it is for.'),
      h('div', { class: 'pair' }, field('Lifetime', ttl), field('Record', record)),
      scopes,
    ],
    'Create',
    async () => {
      const chosen = boxes.filter((box) => box.checked).map((box) => box.value as Scope);
      if (chosen.length === 0) throw new Error('Choose at least one thing that it is good for.');
      const token: NewToken = { sandbox: sandbox.value, scopes: chosen, label: label.value.trim() };
      if (ttl.value) token.ttl_seconds = Number(ttl.value);
      if (record.value) token.record = record.value;
      const answer = await api.createToken(token);
      created();
      // After the form has closed, so that the focus goes to the new dialog.
      setTimeout(() => showToken(answer), 0);
    },
  );
}

function showToken(answer: TokenCreated): void {
  const done = button('Done', () => shown.close(), { class: 'primary', autofocus: true });
  const shown = showDialog('The new token', [
    h('p', {}, `It is shown only now. It ends ${exact(answer.expires_at)}.`),
    h('p', { class: 'label' }, 'Log in with'),
    copyLine('SSH command', answer.ssh_command),
    h('p', { class: 'label' }, 'The token alone'),
    copyLine('Token', answer.token),
    h('div', { class: 'actions' }, done),
  ]);
}
