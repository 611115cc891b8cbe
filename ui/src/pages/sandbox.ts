// One sandbox, with all that is known of it.

import { api } from '../api';
import { fill, h } from '../dom';
import { bytes } from '../format';
import { pageHead } from '../frame';
import { poll } from '../poll';
import type { Page } from '../router';
import { time } from '../table';
import type { Sandbox } from '../types';
import { facts, failureLine } from './parts';
import { sandboxActions } from './sandbox-actions';
import { stateBadge } from './sandboxes';
import { UsageLine } from './usage';

const EVERY_MS = 4000;

export function sandboxPage([name = '']: string[]): Page {
  const failure = failureLine();
  const body = h('div', {});
  const usage = new UsageLine();
  const actions = h('div', { class: 'buttons' });
  let shown = '';
  const refresh = poll(EVERY_MS, () => failure.guard(async () => {
    const { usage: now, ...box } = await api.sandbox(name);
    usage.show(now);
    const state = JSON.stringify([box, now !== undefined]);
    if (state === shown) return;
    shown = state;
    fill(actions, ...sandboxActions(box, () => refresh.now()));
    fill(body, details(box, now && usage.view), box.warnings.length > 0 && h('ul', { class: 'warning-list' }, ...box.warnings.map((text) => h('li', {}, text))));
  }));
  const segment = encodeURIComponent(name);
  return {
    title: name,
    view: h('section', {}, pageHead(name, 'A sandbox.', actions), failure.view, body,
      h('p', { class: 'links' }, h('a', { href: `/audit?sandbox=${segment}` }, 'Its audit trail'),
        h('a', { href: `/recordings?sandbox=${segment}` }, 'Its recordings'))),
    leave: refresh.stop,
  };
}

function details(box: Sandbox, usage: HTMLElement | undefined): HTMLElement {
  return facts([
    ['State', h('span', {}, stateBadge(box))],
    ['Reason', box.reason],
    ['Since', time(box.since, '')],
    ['Uses', usage],
    ['Sessions', box.sessions],
    ['Driver', box.driver],
    ['Runtime', box.runtime],
    ['Engine', box.engine],
    ['Image', box.image],
    ['Login user', box.user],
    ['Memory', box.memory_bytes === undefined ? null : bytes(box.memory_bytes)],
    ['CPUs', box.cpus],
    ['Disk', box.disk_bytes === undefined ? null : bytes(box.disk_bytes)],
    ['Network', box.network],
    ['Mounts', box.mounts.join(', ')],
    ['Adopted from', box.adopted],
    ['Link', box.link],
    ['Made', time(box.created_at)],
    ['Identifier', h('code', {}, box.id)],
  ]);
}
