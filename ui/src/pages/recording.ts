// One recording: a player for terminals, a list of lines for the rest.

import { api } from '../api';
import { fill, h } from '../dom';
import { pageHead } from '../frame';
import { type Cast, parseCast } from '../player/asciicast';
import { type Player, player } from '../player/player';
import { isTimeline, timelineRow } from '../player/timeline';
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

function timeline(text: string): HTMLElement[] {
  const lines = text.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('#'));
  const rows = lines.slice(0, MOST_LINES).map((line) => {
    const [when, what] = timelineRow(line);
    return h('li', {}, h('span', { class: 'when' }, when), h('span', { class: 'break' }, what));
  });
  const more = lines.length > rows.length ? h('p', { class: 'about' }, `${lines.length - rows.length} more lines are in the file.`) : null;
  return [h('ol', { class: 'timeline' }, ...rows), ...(more ? [more] : [])];
}
