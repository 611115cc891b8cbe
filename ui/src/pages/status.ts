// The gateway itself.

import { api } from '../api';
import { copyLine } from '../copy';
import { fill, h } from '../dom';
import { pageHead } from '../frame';
import { poll } from '../poll';
import type { Page } from '../router';
import { time } from '../table';
import type { Status } from '../types';
import { facts, failureLine } from './parts';

const EVERY_MS = 5000;

export function statusPage(): Page {
  const failure = failureLine();
  const body = h('div', {});
  const keys = h('div', {});
  let shownKeys = '';
  const refresh = poll(EVERY_MS, () => failure.guard(async () => {
    const status = await api.status();
    fill(body, details(status));
    const lines = status.host_keys.map((key) => `${knownHost(status)} ${key}`);
    // Only when they change, so that a selection in them stays.
    if (shownKeys !== lines.join('\n')) {
      shownKeys = lines.join('\n');
      fill(keys, h('h2', {}, 'Host keys'), h('p', { class: 'about' }, 'Lines for ~/.ssh/known_hosts.'),
        ...lines.map((line) => copyLine('known_hosts line', line)));
    }
  }));
  return {
    title: 'Status',
    view: h('section', {}, pageHead('Status', 'sandgate, the SSH front door for sandboxes.'), failure.view, body, keys,
      h('p', { class: 'links' }, h('a', { href: '/assets/licenses.txt', target: '_blank', rel: 'noopener' }, 'Licences of what this dashboard is built with'))),
    leave: refresh.stop,
  };
}

function details(status: Status): HTMLElement {
  return facts([
    ['Version', status.version],
    ['Running since', time(status.started_at)],
    ['Process', status.pid],
    ['SSH listens on', h('code', {}, status.ssh_listen)],
    ['Clients use', h('code', {}, `${status.ssh_host} port ${status.ssh_port}`)],
    ['Connections', status.connections],
    ['Sessions', status.sessions],
  ]);
}

function knownHost(status: Status): string {
  return status.ssh_port === 22 ? status.ssh_host : `[${status.ssh_host}]:${status.ssh_port}`;
}
