// The dashboard: reads a login link, then shows the page of the address.

// First, so that a secret in the address is gone before anything else happens.
import { takeFromFragment } from './fragment';
import { ApiError, api, onSignedOut } from './api';
import { h } from './dom';
import { Frame } from './frame';
import { loginPage } from './pages/login';
import { type Loader, type Page, Router } from './router';
import { forget, whoami } from './session';
import { startTheme } from './theme';
import type { Whoami } from './types';

/** A page for those who are logged in; each is a chunk of its own. */
function inside(load: () => Promise<Loader>): Loader {
  return async (parameters, query) => {
    await whoami();
    return (await load())(parameters, query);
  };
}

const router = new Router(
  [
    { pattern: '/', load: inside(async () => (await import('./pages/sandboxes')).sandboxesPage) },
    { pattern: '/login', load: () => loginPage(afterLogin, linkProblem) },
    { pattern: '/sandboxes', load: inside(async () => (await import('./pages/sandboxes')).sandboxesPage) },
    { pattern: '/sandboxes/:', load: inside(async () => (await import('./pages/sandbox')).sandboxPage) },
    { pattern: '/sessions', load: inside(async () => (await import('./pages/sessions')).sessionsPage) },
    { pattern: '/tokens', load: inside(async () => (await import('./pages/tokens')).tokensPage) },
    { pattern: '/audit', load: inside(async () => (await import('./pages/audit')).auditPage) },
    { pattern: '/recordings', load: inside(async () => (await import('./pages/recordings')).recordingsPage) },
    { pattern: '/recordings/:', load: inside(async () => (await import('./pages/recording')).recordingPage) },
    { pattern: '/api-keys', load: inside(async () => (await import('./pages/api-keys')).apiKeysPage) },
    { pattern: '/keys', load: inside(async () => (await import('./pages/keys')).keysPage) },
    { pattern: '/images', load: inside(async () => (await import('./pages/images')).imagesPage) },
    { pattern: '/reference', load: inside(async () => (await import('./pages/reference')).referencePage) },
    { pattern: '/status', load: inside(async () => (await import('./pages/status')).statusPage) },
    { pattern: '/terminal/:', load: inside(async () => (await import('./terminal/page')).terminalPage) },
    { pattern: '/terminal/:/:', load: inside(async () => (await import('./terminal/page')).terminalPage) },
    { pattern: '/embed/:', load: async (parameters) => (await import('./terminal/embed')).embedPage(parameters) },
  ],
  () => message('Not found', 'There is no page at this address.'),
  (page) => void show(page),
  failed,
);

const frame = new Frame(toLogin);

/** Why the login link did not work, until the login page has said so. */
let linkProblem: string | null = null;

async function show(page: Page): Promise<void> {
  document.title = page.title === 'sandgate' ? page.title : `${page.title} · sandgate`;
  if (page.bare) {
    document.body.replaceChildren(page.view);
    return;
  }
  let who: Whoami | null = null;
  if (location.pathname !== '/login') who = await whoami().catch(() => null);
  frame.show(page.view, who);
}

function message(title: string, text: string): Page {
  return { title, view: h('section', { class: 'message' }, h('h1', {}, title), h('p', {}, text)) };
}

function failed(error: unknown): Page {
  if (error instanceof ApiError && error.status === 401) return message('Logged out', 'Log in again to go on.');
  return message('That did not work', error instanceof Error ? error.message : String(error));
}

function toLogin(): void {
  forget();
  if (location.pathname === '/login') return;
  // The address to come back to; it never holds a secret.
  router.go('/login', 'replace', { next: location.pathname + location.search });
}

function afterLogin(): void {
  forget();
  linkProblem = null;
  const state: unknown = history.state;
  const next = typeof state === 'object' && state !== null && 'next' in state ? String(state.next) : '/sandboxes';
  router.go(next.startsWith('/') && !next.startsWith('//') ? next : '/sandboxes', 'replace');
}

/** The link that `sandgate up` prints ends in `#login=CODE`. */
async function useLoginLink(): Promise<void> {
  const code = takeFromFragment('login');
  if (code === null) return;
  try {
    await api.login({ code });
    if (location.pathname === '/login') history.replaceState(null, '', '/sandboxes');
  } catch (error) {
    linkProblem = error instanceof Error ? error.message : String(error);
    history.replaceState({ next: '/sandboxes' }, '', '/login');
  }
}

startTheme();
onSignedOut(() => {
  if (!location.pathname.startsWith('/embed/')) toLogin();
});
await useLoginLink();
router.start();
