// The list of sandboxes.

import { api } from '../api';
import { button, h } from '../dom';
import { bytes } from '../format';
import { pageHead } from '../frame';
import { notice } from '../notice';
import { poll } from '../poll';
import type { Page } from '../router';
import { can } from '../session';
import { table, time } from '../table';
import type { Sandbox } from '../types';
import { sandboxActions } from './sandbox-actions';
import { createSandboxDialog } from './sandbox-form';
import { failureLine } from './parts';
import { UsageLines } from './usage';

const EVERY_MS = 4000;

export function sandboxesPage(): Page {
  const failure = failureLine();
  const usage = new UsageLines();
  const list = table<Sandbox>('Sandboxes', [
    { title: 'Name', cell: (box) => h('a', { href: `/sandboxes/${encodeURIComponent(box.name)}` }, h('strong', {}, box.name)) },
    { title: 'State', cell: (box) => [stateBadge(box), warnings(box)] },
    { title: 'Image', cell: (box) => [h('span', { class: 'break' }, box.image), h('span', { class: 'sub' }, box.driver, limits(box))] },
    { title: 'Uses', cell: (box) => usage.of(box.id).view },
    { title: 'Sessions', cell: (box) => box.sessions, kind: 'numeric' },
    { title: 'Since', cell: (box) => time(box.since ?? box.created_at) },
    { title: 'Actions', cell: (box) => h('div', { class: 'buttons' }, ...sandboxActions(box, () => refresh.now())), kind: 'act' },
  ], (box) => box.id, 'There is no sandbox yet.');

  const refresh = poll(EVERY_MS, () => failure.guard(async () => {
    const boxes = await api.sandboxes();
    usage.show(boxes);
    // A row is left alone while nothing but its usage changes.
    list.show(boxes.map(({ usage: _, ...box }) => box));
  }));
  const create = can('admin') && button('New sandbox', () => void createSandboxDialog((name) => {
    notice(`${name} was created.`);
    refresh.now();
  }), { class: 'primary' });

  return {
    title: 'Sandboxes',
    view: h('section', {}, pageHead('Sandboxes', 'What can be logged in to.', create), failure.view, list.view),
    leave: refresh.stop,
  };
}

export function stateBadge(box: Sandbox): HTMLElement {
  return h('span', { class: `badge ${box.state}`, title: box.reason }, box.state);
}

function limits(box: Sandbox): string {
  const memory = box.memory_bytes === undefined ? '' : ` · ${bytes(box.memory_bytes)}`;
  const cpus = box.cpus === undefined ? '' : ` · ${box.cpus} CPU`;
  return memory + cpus;
}

function warnings(box: Sandbox): HTMLElement | null {
  const count = box.warnings.length;
  if (count === 0) return box.reason ? h('span', { class: 'sub' }, box.reason) : null;
  return h('details', { class: 'warnings' }, h('summary', {}, count === 1 ? '1 warning' : `${count} warnings`),
    h('ul', {}, ...box.warnings.map((text) => h('li', {}, text))));
}
