// The typed client of `/api/v1`. The caller is known by a cookie that scripts cannot read; no secret is kept here.

import type {
  ApiKey, ApiKeyCreated, AuditPage, Image, NewSandbox, NewPublicKey, NewTerminal, NewToken, PublicKey, RecordingPage, Role, Sandbox, Session, Size, Status,
  TerminalTicket, TerminalView, Token, TokenCreated, Verified, Whoami,
} from './types';
import type { OpenApi } from './openapi';

const BASE = '/api/v1';

/** An answer that is an error (RFC 9457). The message is one sentence for people. */
export class ApiError extends Error {
  constructor(readonly status: number, message: string) {
    super(message);
    this.name = 'ApiError';
  }
}

type Query = Record<string, string | number | boolean | null | undefined>;

/** Whoever wants to know that the login has ended: `main.ts`, which shows the login page. */
let signedOut: () => void = () => {};

export function onSignedOut(listener: () => void): void {
  signedOut = listener;
}

async function send(method: string, path: string, body?: unknown): Promise<Response> {
  const headers: Record<string, string> = { accept: 'application/json' };
  const init: RequestInit = { method, headers, credentials: 'same-origin', cache: 'no-store' };
  if (body !== undefined) {
    headers['content-type'] = 'application/json';
    init.body = JSON.stringify(body);
  }
  let response: Response;
  try {
    response = await fetch(BASE + path, init);
  } catch {
    throw new ApiError(0, 'The gateway does not answer.');
  }
  if (response.ok) return response;
  const error = new ApiError(response.status, await detail(response));
  // A failed login says so itself.
  if (response.status === 401 && path !== '/login') signedOut();
  throw error;
}

async function detail(response: Response): Promise<string> {
  try {
    const problem: unknown = await response.json();
    if (typeof problem === 'object' && problem !== null && 'detail' in problem && typeof problem.detail === 'string') {
      return sentence(problem.detail);
    }
  } catch {
    // Not JSON: some proxy's page.
  }
  return `The gateway answered ${response.status} ${response.statusText}`.trim() + '.';
}

/** Messages of the gateway begin small and have no full stop; a page shows sentences. */
function sentence(text: string): string {
  const trimmed = text.trim();
  const upper = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?…]$/.test(upper) ? upper : `${upper}.`;
}

async function json<T>(method: string, path: string, body?: unknown): Promise<T> {
  return (await (await send(method, path, body)).json()) as T;
}

async function nothing(method: string, path: string, body?: unknown): Promise<void> {
  await send(method, path, body);
}

/** The answer to a pull is a line of JSON for each thing that happens; the last one says how it ended. */
function pulled(lines: string): void {
  const last: unknown = JSON.parse(lines.trim().split('\n').pop() ?? 'null');
  if (typeof last === 'object' && last !== null && 'image' in last) return;
  const why = typeof last === 'object' && last !== null && 'detail' in last ? String(last.detail) : 'The pull was cut off';
  throw new ApiError(502, sentence(why));
}

/** A path of segments, each escaped, with a query. */
export function path(segments: string[], query: Query = {}): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== '') search.set(name, String(value));
  }
  const text = search.toString();
  return `/${segments.map(encodeURIComponent).join('/')}${text ? `?${text}` : ''}`;
}

export const api = {
  login: (by: { key: string } | { code: string }) => nothing('POST', '/login', by),
  logout: () => nothing('POST', '/logout'),
  whoami: () => json<Whoami>('GET', '/whoami'),
  status: () => json<Status>('GET', '/status'),
  document: () => json<OpenApi>('GET', '/openapi.json'),

  sandboxes: () => json<Sandbox[]>('GET', '/sandboxes'),
  sandbox: (name: string) => json<Sandbox>('GET', path(['sandboxes', name])),
  createSandbox: (sandbox: NewSandbox) => json<Sandbox>('POST', '/sandboxes', sandbox),
  changeSandbox: (name: string, what: 'start' | 'stop' | 'pause' | 'resume') =>
    nothing('POST', path(['sandboxes', name, what])),
  removeSandbox: (name: string, force: boolean) =>
    nothing('DELETE', path(['sandboxes', name], { force: force || undefined })),
  images: () => json<Image[]>('GET', '/images'),
  pullImage: async (name: string) => pulled(await (await send('POST', '/images/pull', { name })).text()),
  removeImage: (name: string) => nothing('DELETE', path(['images'], { name })),

  keys: () => json<PublicKey[]>('GET', '/keys'),
  addKey: (key: NewPublicKey) => json<PublicKey>('POST', '/keys', key),
  removeKey: (name: string) => nothing('DELETE', path(['keys', name])),

  sessions: () => json<Session[]>('GET', '/sessions'),
  endSession: (id: string) => nothing('DELETE', path(['sessions', id])),
  /** To watch a session that no page writes to; nothing else can be done with it. */
  sessionTicket: (id: string) => json<TerminalTicket>('POST', path(['sessions', id, 'tickets']), { mode: 'watch' }),

  tokens: () => json<Token[]>('GET', '/tokens'),
  createToken: (token: NewToken) => json<TokenCreated>('POST', '/tokens', token),
  revokeToken: (id: string) => nothing('DELETE', path(['tokens', id])),

  audit: (query: { sandbox?: string; action?: string; before?: number | string | null; limit?: number }) =>
    json<AuditPage>('GET', path(['audit'], query)),

  recordings: (query: { sandbox?: string; before?: number | string | null; limit?: number }) =>
    json<RecordingPage>('GET', path(['recordings'], query)),
  recordingText: async (id: string) => (await send('GET', path(['recordings', id]))).text(),
  recordingHref: (id: string, format?: 'v2') => BASE + path(['recordings', id], { format }),
  verifyRecording: (id: string) => json<Verified>('POST', path(['recordings', id, 'verify'])),
  removeRecording: (id: string) => nothing('DELETE', path(['recordings', id])),

  apiKeys: () => json<ApiKey[]>('GET', '/api-keys'),
  createApiKey: (name: string, role: Role) => json<ApiKeyCreated>('POST', '/api-keys', { name, role }),
  removeApiKey: (id: string) => nothing('DELETE', path(['api-keys', id])),

  createTerminal: (sandbox: string, size: Size) =>
    json<NewTerminal>('POST', path(['sandboxes', sandbox, 'terminals']), { ...size, user: null }),
  terminalTicket: (id: string, mode: 'write' | 'watch') =>
    json<TerminalTicket>('POST', path(['terminals', id, 'tickets']), { mode }),
  terminals: () => json<TerminalView[]>('GET', '/terminals'),
  endTerminal: (id: string) => nothing('DELETE', path(['terminals', id])),
};

/** The one address of every browser terminal; the ticket goes in the first message. */
export function terminalSocket(): WebSocket {
  const address = new URL(`${BASE}/terminal`, location.href);
  address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
  const socket = new WebSocket(address, 'sandgate.terminal.v1');
  socket.binaryType = 'arraybuffer';
  return socket;
}
