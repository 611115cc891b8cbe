// Recordings of sessions, newest first.

import { api } from '../api';
import { button, field, h } from '../dom';
import { bytes, duration } from '../format';
import { pageHead } from '../frame';
import { attempt, notice } from '../notice';
import type { Page } from '../router';
import { can } from '../session';
import { table, time } from '../table';
import type { Recording } from '../types';
import { failureLine } from './parts';
import { removeButton } from './remove-button';

const LIMIT = 50;

export function recordingsPage(_: string[], query: URLSearchParams): Page {
  const failure = failureLine();
  const list = table<Recording>('Recordings', [
    { title: 'Sandbox', cell: (recording) => h('strong', {}, recording.sandbox) },
    { title: 'Kind', cell: (recording) => [recording.kind, recording.complete ? null : h('span', { class: 'badge incomplete' }, 'not complete')] },
    { title: 'Started', cell: (recording) => time(recording.started_at) },
    { title: 'Length', cell: (recording) => duration(recording.seconds), kind: 'numeric' },
    { title: 'Size', cell: (recording) => bytes(recording.bytes), kind: 'numeric' },
    { title: 'Actions', cell: (recording) => h('div', { class: 'buttons' }, ...actions(recording)), kind: 'act' },
  ], (recording) => recording.id, 'Nothing was recorded.');

  const sandbox = h('input', { name: 'sandbox', type: 'search', autocomplete: 'off', spellcheck: 'false', value: query.get('sandbox') ?? '' });
  let recordings: Recording[] = [];
  let next: number | string | null = null;
  let turn = 0;

  async function load(how: 'fresh' | 'older'): Promise<void> {
    turn += 1;
    const mine = turn;
    await failure.guard(async () => {
      const page = await api.recordings({ limit: LIMIT, sandbox: sandbox.value.trim(), before: how === 'older' ? next : null });
      if (mine !== turn) return;
      recordings = how === 'older' ? [...recordings, ...page.recordings] : page.recordings;
      next = page.next;
      list.show(recordings);
      older.hidden = next === null;
    });
  }

  function actions(recording: Recording): HTMLElement[] {
    const what = `the ${recording.kind} in ${recording.sandbox}`;
    const play = recording.format === 'asciicast-v3' ? 'Play' : 'Read';
    const buttons: HTMLElement[] = [
      h('a', { class: 'button', href: `/recordings/${encodeURIComponent(recording.id)}`, 'aria-label': `${play} ${what}` }, play),
      h('a', { class: 'button', href: api.recordingHref(recording.id), download: fileName(recording), 'aria-label': `Download ${what}` }, 'Download'),
      verifyButton(recording.id, what),
    ];
    if (can('admin')) {
      buttons.push(removeButton({
        kind: 'recording',
        name: `the recording of ${what}`,
        text: `The recording of ${what} is gone for good.`,
        remove: () => api.removeRecording(recording.id),
        removed: () => load('fresh'),
      }));
    }
    return buttons;
  }

  const older = button('Older recordings', () => void load('older'), { hidden: true });
  const filters = h('form', { class: 'filters', role: 'search', on: { submit: (event) => {
    event.preventDefault();
    const name = sandbox.value.trim();
    history.replaceState(null, '', `/recordings${name ? `?${new URLSearchParams({ sandbox: name })}` : ''}`);
    void load('fresh');
  } } }, field('Sandbox', sandbox), h('button', { type: 'submit' }, 'Show'));
  void load('fresh');
  return {
    title: 'Recordings',
    view: h('section', {}, pageHead('Recordings', 'What was shown and done in sessions.'), filters, failure.view, list.view,
      h('div', { class: 'more' }, older)),
  };
}

export function fileName(recording: Recording, version: 'v3' | 'v2' = 'v3'): string {
  const ending = recording.format === 'timeline' ? 'jsonl' : 'cast';
  return `${recording.sandbox}-${recording.id}${version === 'v2' ? '-v2' : ''}.${ending}`;
}

export function verifyButton(id: string, what: string): HTMLButtonElement {
  const control: HTMLButtonElement = button('Verify', () => void attempt(async () => {
    const answer = await api.verifyRecording(id);
    const detail = answer.detail ? ` ${answer.detail}` : '';
    if (answer.valid) notice(`The recording is as it was written.${detail}`);
    else notice(`The recording was changed.${detail}`, 'problem');
  }, control), { 'aria-label': `Verify ${what}` });
  return control;
}
