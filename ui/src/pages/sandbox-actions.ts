// What can be done with a sandbox in its state, as buttons.

import { api } from '../api';
import { confirmDialog } from '../dialog';
import { button, h } from '../dom';
import { attempt, notice } from '../notice';
import { can } from '../session';
import type { Sandbox } from '../types';

type Change = 'start' | 'stop' | 'pause' | 'resume';

const CHANGES: Record<Sandbox['state'], Change[]> = {
  created: ['start'],
  starting: [],
  running: ['pause', 'stop'],
  paused: ['resume', 'stop'],
  stopped: ['start'],
  unknown: ['start', 'stop'],
};

const DONE: Record<Change, string> = { start: 'started', stop: 'stopped', pause: 'paused', resume: 'resumed' };

export function sandboxActions(sandbox: Sandbox, changed: () => void): HTMLElement[] {
  if (!can('user')) return [];
  const name = sandbox.name;
  const buttons: HTMLElement[] = [
    h('a', { class: 'button', href: `/terminal/${encodeURIComponent(name)}`, 'aria-label': `Terminal in ${name}` }, 'Terminal'),
  ];
  for (const change of CHANGES[sandbox.state] ?? []) {
    const text = change.charAt(0).toUpperCase() + change.slice(1);
    const control: HTMLButtonElement = button(text, () => void attempt(async () => {
      if (change === 'stop' && !(await agreed(sandbox))) return;
      await api.changeSandbox(name, change);
      notice(`${name} was ${DONE[change]}.`);
      changed();
    }, control), { 'aria-label': `${text} ${name}` });
    buttons.push(control);
  }
  if (can('admin')) buttons.push(removeButton(sandbox, changed));
  return buttons;
}

function agreed(sandbox: Sandbox): Promise<boolean> {
  if (sandbox.sessions === 0) return Promise.resolve(true);
  const text = sandbox.sessions === 1 ? 'One session runs in it and ends.' : `${sandbox.sessions} sessions run in it and end.`;
  return confirmDialog({ title: `Stop ${sandbox.name}?`, text, action: 'Stop' });
}

function removeButton(sandbox: Sandbox, changed: () => void): HTMLElement {
  const stopped = sandbox.state === 'stopped' || sandbox.state === 'created';
  const text = stopped ? 'Its files are gone for good, and its tokens open nothing any more.'
    : 'It is stopped first, and its sessions end. Its files are gone for good, and its tokens open nothing any more.';
  const control: HTMLButtonElement = button('Remove', () => void attempt(async () => {
    if (!(await confirmDialog({ title: `Remove ${sandbox.name}?`, text, action: 'Remove' }))) return;
    await api.removeSandbox(sandbox.name, !stopped);
    notice(`${sandbox.name} was removed.`);
    changed();
  }, control), { class: 'danger-text', 'aria-label': `Remove ${sandbox.name}` });
  return control;
}
