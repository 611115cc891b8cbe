// The player: the stage, and what moves it.

import { button, field, h, select } from '../dom';
import { clock as face } from '../format';
import { openEmulator } from '../terminal/emulator';
import type { Cast } from './asciicast';
import { PlayClock, SPEEDS } from './clock';
import { Stage } from './stage';
import { TextIndex } from './text';

/** Seconds that an arrow key moves. */
const STEP = 5;

export interface Player {
  view: HTMLElement;
  /** Needs the view to be in the document. */
  start: () => void;
  stop: () => void;
}

export function player(cast: Cast): Player {
  const clock = new PlayClock(cast.events.map((event) => event.at), cast.seconds);
  const index = new TextIndex(cast.events);
  let stage: Stage | null = null;
  let frame = 0;
  let before = 0;
  let stop = () => {};

  const screen = h('div', { class: 'emulator' });
  const toggle = button('Play', () => playOrPause(), { class: 'primary' });
  const slider = h('input', { type: 'range', min: 0, max: Math.max(cast.seconds, 0.01), step: 'any', value: 0, 'aria-label': 'Position' });
  const shown = h('output', { class: 'time' });
  const speed = select('speed', SPEEDS.map((value) => [String(value), `${value}×`] as const), '1');
  speed.setAttribute('aria-label', 'Speed');
  const idle = h('input', { type: 'checkbox', id: 'idle', checked: true });
  const search = h('input', { type: 'search', name: 'search', autocomplete: 'off', spellcheck: 'false' });
  const hits = h('span', { class: 'hits', role: 'status' });

  slider.addEventListener('input', () => {
    clock.seek(slider.valueAsNumber);
    draw();
  });
  // The browser's own steps of a range are far too small or large here.
  slider.addEventListener('keydown', (event) => {
    const by = { ArrowLeft: -STEP, ArrowDown: -STEP, ArrowRight: STEP, ArrowUp: STEP, PageDown: -STEP * 6, PageUp: STEP * 6 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    clock.seek(clock.now + by);
    draw();
  });
  speed.addEventListener('change', () => {
    clock.speed = Number(speed.value);
  });
  idle.addEventListener('change', () => {
    clock.skipIdle = idle.checked;
  });

  let found: number[] = [];
  let at = -1;
  function look(step: 1 | -1, again: boolean): void {
    if (!again) {
      found = index.find(search.value);
      // The first one from here on, and the first of all after the last.
      const later = found.findIndex((time) => time > clock.now);
      at = later === -1 ? 0 : later;
    } else if (found.length > 0) {
      at = (at + step + found.length) % found.length;
    }
    const time = found[at];
    hits.textContent = search.value === '' ? '' : found.length === 0 ? 'not found' : `${at + 1} of ${found.length}, at ${face(time ?? 0)}`;
    if (time === undefined || search.value === '') return;
    clock.pause();
    clock.seek(time);
    draw();
  }
  let looked = '';
  const form = h('form', { class: 'search', role: 'search', on: { submit: (event) => {
    event.preventDefault();
    look(1, looked === search.value);
    looked = search.value;
  } } }, field('Find text', search), h('button', { type: 'submit' }, 'Next'), button('Previous', () => {
    look(-1, looked === search.value);
    looked = search.value;
  }), hits);

  function playOrPause(): void {
    if (clock.playing) clock.pause();
    else clock.play();
    before = performance.now();
    draw();
  }

  function draw(): void {
    stage?.show(clock.now);
    slider.value = String(clock.now);
    slider.setAttribute('aria-valuetext', `${face(clock.now)} of ${face(cast.seconds)}`);
    shown.value = `${face(clock.now)} / ${face(cast.seconds)}`;
    const text = clock.playing ? 'Pause' : 'Play';
    if (toggle.textContent !== text) toggle.textContent = text;
    cancelAnimationFrame(frame);
    if (clock.playing) frame = requestAnimationFrame(tick);
  }

  function tick(now: number): void {
    clock.advance((now - before) / 1000);
    before = now;
    draw();
  }

  const view = h(
    'div',
    { class: 'player' },
    screen,
    h('div', { class: 'controls' }, toggle, slider, shown, speed, h('label', { class: 'check', for: 'idle' }, idle, 'Skip idle time')),
    form,
  );
  return {
    view,
    start: () => {
      const emulator = openEmulator(screen, 'display');
      stage = new Stage(emulator, cast);
      emulator.shrink();
      const observer = new ResizeObserver(() => emulator.shrink());
      observer.observe(screen);
      stop = () => {
        observer.disconnect();
        emulator.dispose();
      };
      draw();
    },
    stop: () => {
      clock.pause();
      cancelAnimationFrame(frame);
      stop();
    },
  };
}
