// The embed page, `/embed/SANDBOX`, for a frame in somebody else's application.
//
// Nobody is logged in here. The ticket comes in the fragment (`#ticket=…`), which is removed at once, or in a message of the parent:
//   parent -> frame: {type: "sandgate.ticket", ticket}
//   frame -> parent: {type: "sandgate.hello"}                        the frame is there and waits for a ticket
//                    {type: "sandgate.need-ticket", terminal}        another one, to attach again
//                    {type: "sandgate.ready", terminal}, {type: "sandgate.over", text, code}, {type: "sandgate.detached"}
// Only the parent is listened to, and what is said to it holds no secret.

import { terminalSocket } from '../api';
import { h } from '../dom';
import { takeFromFragment } from '../fragment';
import type { Page } from '../router';
import type { Phase } from './link';
import { NoTicket } from './link';
import { Screen } from './screen';

export function embedPage([sandbox = '']: string[]): Page {
  const parent = window.parent === window ? null : window.parent;
  let origin = '*';
  let terminal: string | null = null;
  let waiting: ((ticket: string) => void) | null = null;
  let atHand = takeFromFragment('ticket');

  const tell = (message: object) => parent?.postMessage(message, origin);
  const hear = (event: MessageEvent<unknown>) => {
    if (event.source !== parent || parent === null) return;
    const data = event.data;
    if (typeof data !== 'object' || data === null || !('type' in data) || data.type !== 'sandgate.ticket') return;
    if (!('ticket' in data) || typeof data.ticket !== 'string') return;
    // Whoever brought the first ticket is whom we talk to from now on.
    if (origin === '*') origin = event.origin === 'null' ? '*' : event.origin;
    else if (event.origin !== origin) return;
    if (waiting) {
      waiting(data.ticket);
      waiting = null;
    } else {
      atHand = data.ticket;
    }
  };
  addEventListener('message', hear);

  function ticket(): Promise<string> {
    if (atHand !== null) {
      const given = atHand;
      atHand = null;
      return Promise.resolve(given);
    }
    if (parent === null) return Promise.reject(new NoTicket('This page needs a ticket. Open it again where you found it.'));
    tell(terminal === null ? { type: 'sandgate.hello' } : { type: 'sandgate.need-ticket', terminal });
    return new Promise((resolve) => {
      waiting = resolve;
    });
  }

  function phase(now: Phase): void {
    if (now.is === 'over') tell({ type: 'sandgate.over', text: now.text, code: now.code });
    if (now.is === 'detached') tell({ type: 'sandgate.detached' });
  }

  const screen = new Screen({
    mode: 'write',
    ticket,
    socket: terminalSocket,
    phase,
    ready: (ready) => {
      terminal = ready.terminal;
      tell({ type: 'sandgate.ready', terminal });
    },
  });
  const view = h('main', { class: 'terminal embed', 'aria-label': `Terminal in ${sandbox}` }, screen.view);
  requestAnimationFrame(() => screen.start());
  return {
    title: sandbox,
    view,
    bare: true,
    leave: () => {
      removeEventListener('message', hear);
      screen.stop();
    },
  };
}
