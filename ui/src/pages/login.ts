// Logging in with an API key. The key goes to the gateway and nowhere else.

import { api } from '../api';
import { field, h } from '../dom';
import type { Page } from '../router';

export function loginPage(done: () => void, problemOfLink: string | null): Page {
  const key = h('input', {
    type: 'password', name: 'key', required: true, autocomplete: 'current-password', spellcheck: 'false', autocapitalize: 'off',
    autofocus: true, placeholder: 'sgk_…',
  });
  const send = h('button', { type: 'submit', class: 'primary' }, 'Log in');
  const problem = h('p', { class: 'problem', role: 'alert', hidden: problemOfLink === null }, problemOfLink);
  const form = h(
    'form',
    { class: 'login', on: { submit: (event) => void submit(event) } },
    h('h1', {}, 'Log in'),
    field('API key', key, 'Make one with: sandgate api-key create'),
    problem,
    h('div', { class: 'actions' }, send),
    h('p', { class: 'about' }, 'The link that “sandgate up” prints logs in without a key.'),
  );

  async function submit(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    send.disabled = true;
    problem.hidden = true;
    try {
      await api.login({ key: key.value.trim() });
      key.value = '';
      done();
    } catch (error) {
      problem.textContent = error instanceof Error ? error.message : String(error);
      problem.hidden = false;
      key.select();
    } finally {
      send.disabled = false;
    }
  }

  queueMicrotask(() => requestAnimationFrame(() => key.focus()));
  return { title: 'Log in', view: form };
}
