// One recording: a player for terminals, a list of lines for the rest.

import { api } from '../api';
import { fill, h } from '../dom';
import { clock } from '../format';
import { pageHead } from '../frame';
import { type Cast, parseCast } from '../player/asciicast';
import { type Player, player } from '../player/player';
import type { Page } from '../router';
import { failureLine } from './parts';
import { verifyButton } from './recordings';

/** Lines of a timeline that are shown; the file has them all. */
const MOST_LINES = 5000;

export function recordingPage([id = '']: string[]): Page {
  const failure = failureLine();
  const body = h('div', {}, h('p', { class: 'empty', role: 'status' }, 'Loading…'));
  const convert = h('a', { class: 'button', href: api.recordingHref(id, 'v2'), download: `${id}-v2.cast`, hidden: true }, 'Download v2');
  let playing: Player | null = null;
  let left = false;

  void failure.guard(async () => {
    let text: string;
    try {
      text = await api.recordingText(id);
    } finally {
      fill(body);
    }
    if (left) return;
    if (isTimeline(text)) {
      fill(body, ...timeline(text));
      return;
    }
    const cast: Cast = parseCast(text);
    convert.hidden = false;
    playing = player(cast);
    fill(body, cast.truncated && h('p', { class: 'problem' }, 'The recording ends in the middle: the gateway was ended while it wrote.'), playing.view);
    playing.start();
  });

  return {
    title: 'Recording',
    view: h('section', {}, pageHead('Recording', id, h('a', { class: 'button', href: '/recordings' }, 'All recordings'),
      h('a', { class: 'button', href: api.recordingHref(id), download: '' }, 'Download'), convert, verifyButton(id, 'the recording')),
    failure.view, body),
    leave: () => {
      left = true;
      playing?.stop();
    },
  };
}

/** A terminal's header has `term` (or `width`, in v2); a timeline's lines are objects throughout. */
export function isTimeline(text: string): boolean {
  const lines = text.split('\n', 50).filter((line) => line.trim() !== '' && !line.startsWith('#'));
  const parsed = lines.slice(0, 2).map((line): unknown => {
    try {
      return JSON.parse(line);
    } catch {
      return null;
    }
  });
  const [first, second] = parsed;
  if (typeof first !== 'object' || first === null) return false;
  return !('term' in first || 'width' in first) && !Array.isArray(second);
}

function timeline(text: string): HTMLElement[] {
  const lines = text.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('#'));
  const rows = lines.slice(0, MOST_LINES).map((line) => {
    const [when, what] = timelineRow(line);
    return h('li', {}, h('span', { class: 'when' }, when), h('span', { class: 'break' }, what));
  });
  const more = lines.length > rows.length ? h('p', { class: 'about' }, `${lines.length - rows.length} more lines are in the file.`) : null;
  return [h('ol', { class: 'timeline' }, ...rows), ...(more ? [more] : [])];
}

/** When, and the rest as `name: value`. What the lines hold depends on the kind of session. */
export function timelineRow(line: string): [string, string] {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return ['', line];
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return ['', line];
  const { at, time, t, ...rest } = value as Record<string, unknown>;
  const when = at ?? time ?? t;
  const text = Object.entries(rest)
    .filter(([, content]) => content !== null)
    .map(([name, content]) => `${name}: ${typeof content === 'string' ? content : JSON.stringify(content)}`)
    .join('  ');
  return [typeof when === 'number' ? clock(when) : typeof when === 'string' ? when : '', text];
}
