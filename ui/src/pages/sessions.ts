// Live sessions, as they come and go.

import { api } from '../api';
import { confirmDialog } from '../dialog';
import { button, h } from '../dom';
import { bytes } from '../format';
import { pageHead } from '../frame';
import { attempt, notice } from '../notice';
import { poll } from '../poll';
import type { Page } from '../router';
import { can } from '../session';
import { table, time } from '../table';
import type { Session } from '../types';
import { failureLine } from './parts';
import { watchHref } from './watch';

const EVERY_MS = 2000;

export function sessionsPage(): Page {
  const failure = failureLine();
  const list = table<Session>('Live sessions', [
    { title: 'Sandbox', cell: (session) => h('strong', {}, session.sandbox) },
    { title: 'Kind', cell: (session) => [session.kind, session.recording ? h('span', { class: 'badge recorded' }, 'recorded') : null] },
    { title: 'Who', cell: (session) => [h('span', { class: 'break' }, session.credential), h('span', { class: 'sub' }, session.client ?? 'on this machine')] },
    { title: 'Started', cell: (session) => time(session.started_at) },
    { title: 'In', cell: (session) => bytes(session.bytes_in), kind: 'numeric' },
    { title: 'Out', cell: (session) => bytes(session.bytes_out), kind: 'numeric' },
    { title: 'Actions', cell: (session) => h('div', { class: 'buttons' }, watchLink(session), endButton(session)), kind: 'act' },
  ], (session) => session.id, 'Nobody is logged in.');
  const refresh = poll(EVERY_MS, () => failure.guard(async () => list.show(await api.sessions())));

  function endButton(session: Session): HTMLElement | null {
    if (!can('user')) return null;
    const control: HTMLButtonElement = button('End', () => void attempt(async () => {
      const text = `The ${session.kind} of ${session.credential} in ${session.sandbox} is ended at once.`;
      if (!(await confirmDialog({ title: 'End this session?', text, action: 'End session' }))) return;
      await api.endSession(session.id);
      notice('The session was ended.');
      refresh.now();
    }, control), { class: 'danger-text', 'aria-label': `End the ${session.kind} in ${session.sandbox}` });
    return control;
  }

  return {
    title: 'Sessions',
    view: h('section', {}, pageHead('Sessions', 'Who is logged in now. The list refreshes by itself.'), failure.view, list.view),
    leave: refresh.stop,
  };
}

function watchLink(session: Session): HTMLElement | null {
  const href = watchHref(session);
  if (href === null) return null;
  return h('a', { class: 'button', href, 'aria-label': `Watch the ${session.kind} in ${session.sandbox}` }, 'Watch');
}
