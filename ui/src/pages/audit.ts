// The audit trail, newest first.

import { api } from '../api';
import { button, field, h } from '../dom';
import { pageHead } from '../frame';
import type { Page } from '../router';
import { table, time } from '../table';
import type { AuditEntry } from '../types';
import { failureLine } from './parts';

const LIMIT = 100;

export function auditPage(_: string[], query: URLSearchParams): Page {
  const failure = failureLine();
  const list = table<AuditEntry>('Audit trail', [
    { title: 'When', cell: (entry) => time(entry.at) },
    { title: 'Action', cell: (entry) => h('code', {}, entry.action) },
    { title: 'Sandbox', cell: (entry) => entry.sandbox ? h('strong', {}, entry.sandbox) : '–' },
    { title: 'Who', cell: (entry) => [h('span', { class: 'break' }, entry.actor ?? '–'), entry.client ? h('span', { class: 'sub' }, entry.client) : null] },
    { title: 'Detail', cell: (entry) => h('span', { class: 'break' }, entry.detail ?? ''), kind: 'wide' },
  ], (entry) => String(entry.id), 'Nothing in the trail fits.');

  const sandbox = h('input', { name: 'sandbox', type: 'search', autocomplete: 'off', spellcheck: 'false', value: query.get('sandbox') ?? '' });
  const action = h('input', { name: 'action', type: 'search', autocomplete: 'off', spellcheck: 'false', placeholder: 'session.', value: query.get('action') ?? '' });
  let entries: AuditEntry[] = [];
  let next: number | string | null = null;
  let turn = 0;

  async function load(how: 'fresh' | 'older'): Promise<void> {
    turn += 1;
    const mine = turn;
    older.disabled = true;
    await failure.guard(async () => {
      const page = await api.audit({
        limit: LIMIT, sandbox: sandbox.value.trim(), action: action.value.trim(), before: how === 'older' ? next : null,
      });
      if (mine !== turn) return;
      entries = how === 'older' ? [...entries, ...page.entries] : page.entries;
      next = page.next;
      list.show(entries);
      older.hidden = next === null;
    });
    older.disabled = false;
  }

  const older = button('Older entries', () => void load('older'), { hidden: true });
  const filters = h('form', { class: 'filters', role: 'search', on: { submit: (event) => {
    event.preventDefault();
    const search = new URLSearchParams();
    if (sandbox.value.trim()) search.set('sandbox', sandbox.value.trim());
    if (action.value.trim()) search.set('action', action.value.trim());
    history.replaceState(null, '', `/audit${search.size > 0 ? `?${search}` : ''}`);
    void load('fresh');
  } } }, field('Sandbox', sandbox), field('Action begins with', action), h('button', { type: 'submit' }, 'Show'));
  void load('fresh');
  return {
    title: 'Audit',
    view: h('section', {}, pageHead('Audit', 'What was done, by whom, and what was refused.'), filters, failure.view, list.view,
      h('div', { class: 'more' }, older)),
  };
}
