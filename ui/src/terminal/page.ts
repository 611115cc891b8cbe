// The terminal page, `/terminal/SANDBOX/ID`: the full window is the terminal. With `?watch=1` it is a terminal to look at, with
// `?watch=session` that of a session which no page writes to, and ID is the session's.

import { ApiError, api, terminalSocket } from '../api';
import { confirmDialog } from '../dialog';
import { button, h } from '../dom';
import { exact } from '../format';
import { attempt } from '../notice';
import type { Page } from '../router';
import { can } from '../session';
import { NoTicket, type Phase } from './link';
import { Screen } from './screen';

/** The shell of this tab, so that `/terminal/SANDBOX` finds it again. An identifier; it opens nothing without a login. */
const storageKey = (sandbox: string) => `sandgate.terminal.${sandbox}`;

export function terminalPage([sandbox = '', inPath]: string[], query: URLSearchParams): Page {
  const mode = query.has('watch') && inPath !== undefined ? 'watch' : 'write';
  const ofSession = mode === 'watch' && query.get('watch') === 'session';
  let id: string | null = inPath ?? sessionStorage.getItem(storageKey(sandbox));
  let first = mode === 'write';

  const state = h('span', { class: 'state', role: 'status' });
  const since = h('span', { class: 'since', hidden: true });
  const latency = h('span', { class: 'latency', title: 'The way to the gateway and back' });
  const aloud = h('input', { type: 'checkbox', id: 'aloud' });
  aloud.addEventListener('change', () => screen.readAloud(aloud.checked));
  const end: HTMLButtonElement = button('End shell', () => void attempt(endShell, end), { class: 'danger-text', hidden: true });
  const bar = h(
    'header',
    { class: 'bar' },
    h('a', { href: '/sandboxes', 'aria-label': 'Back to the sandboxes', title: 'Shift+F6 in the terminal leads here' }, '‹ sandgate'),
    h('h1', {}, sandbox),
    mode === 'watch' && h('span', { class: 'badge watching' }, 'watching, read-only'),
    since,
    state,
    latency,
    h('label', { class: 'check', for: 'aloud' }, aloud, 'Screen reader'),
    end,
  );

  /** A ticket for the shell of this page, which is made if there is none yet. */
  async function ticket(): Promise<string> {
    const fresh = first;
    first = false;
    if (id !== null) {
      try {
        return (await (ofSession ? api.sessionTicket(id) : api.terminalTicket(id, mode))).ticket;
      } catch (error) {
        if (!(error instanceof ApiError) || passes(error)) throw error;
        // A shell that was only remembered, not asked for by its address, is replaced without a word.
        const remembered = error.status === 404 && fresh && inPath === undefined;
        if (!remembered) throw new NoTicket(error.status === 404 ? `This ${ofSession ? 'session' : 'shell'} has ended.` : error.message);
      }
    }
    try {
      const made = await api.createTerminal(sandbox, { cols: 80, rows: 24, xpixel: 0, ypixel: 0 });
      id = made.terminal;
      return made.ticket;
    } catch (error) {
      throw error instanceof ApiError && !passes(error) ? new NoTicket(error.message) : error;
    }
  }

  function phase(now: Phase): void {
    const texts = { connecting: 'connecting', starting: 'starting', live: 'connected', waiting: 'not connected', detached: 'detached', over: 'ended' };
    state.textContent = texts[now.is];
    state.dataset.phase = now.is;
    if (now.is !== 'live') latency.textContent = '';
    end.hidden = !(now.is === 'live' && mode === 'write' && can('user'));
    if (now.is === 'over') {
      // The address still has it; a bare `/terminal/SANDBOX` begins anew.
      sessionStorage.removeItem(storageKey(sandbox));
      state.textContent = now.code === null ? 'ended' : `exit ${now.code}`;
    }
  }

  async function endShell(): Promise<void> {
    if (id === null) return;
    const text = 'What runs in it is hung up.';
    if (await confirmDialog({ title: 'End this shell?', text, action: 'End shell' })) await api.endTerminal(id);
    screen.focus();
  }

  const screen: Screen = new Screen({
    mode,
    ticket,
    socket: terminalSocket,
    phase,
    ready: (ready) => {
      if (mode === 'watch') {
        since.hidden = ready.since === null;
        since.textContent = ready.since === null ? '' : `seen from ${exact(ready.since)} on`;
        since.title = 'What was on the screen before shows when the program draws it again.';
        return;
      }
      id = ready.terminal;
      sessionStorage.setItem(storageKey(sandbox), id);
      const address = `/terminal/${encodeURIComponent(sandbox)}/${encodeURIComponent(id)}`;
      if (location.pathname !== address) history.replaceState(null, '', address);
    },
    latency: (ms) => {
      latency.textContent = `${Math.max(1, Math.round(ms))} ms`;
    },
    title: (title) => {
      document.title = title ? `${title.slice(0, 80)} · ${sandbox}` : sandbox;
    },
    afterEnd: () => [
      ...(mode === 'write' ? [h('a', { class: 'button primary', href: `/terminal/${encodeURIComponent(sandbox)}` }, 'New shell')] : []),
      h('a', { class: 'button', href: mode === 'watch' ? '/sessions' : '/sandboxes' }, 'Back'),
    ],
  });

  const view = h('div', { class: 'terminal' }, bar, h('main', {}, screen.view));
  requestAnimationFrame(() => screen.start());
  return { title: sandbox, view, bare: true, leave: () => screen.stop() };
}

/** Whether it may be different in a moment: no answer, too many questions, or a gateway that is being restarted behind a proxy. */
function passes(error: ApiError): boolean {
  return [0, 429, 502, 503, 504].includes(error.status);
}
