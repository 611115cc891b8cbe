// A gateway that is none: serves `dist` with the gateway's headers, an API over made-up data, and terminals with a real shell of this
// machine (test/terminals.mjs). For tests and for work on the pages: `npm run mock`, then http://127.0.0.1:8099 with the key sgk_mock.

import { readFile } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { randomBytes } from 'node:crypto';
import { WebSocketServer } from 'ws';
import { makeData } from './data.mjs';
import { Terminals } from './terminals.mjs';

const DIST = fileURLToPath(new URL('../dist', import.meta.url));

/** What the gateway is to send with every page. */
export const POLICY = [
  "default-src 'self'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'", "font-src 'self'",
  "object-src 'none'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'self'", "require-trusted-types-for 'script'",
].join('; ');

const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.txt': 'text/plain; charset=utf-8' };
const KEYS = { sgk_mock: { name: 'mock', role: 'admin' }, sgk_user: { name: 'ursula', role: 'user' }, sgk_viewer: { name: 'vera', role: 'viewer' } };
const RANK = { viewer: 0, user: 1, admin: 2 };

class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export async function startMock(port = 0) {
  const data = makeData();
  const terminals = new Terminals(data);
  const cookies = new Map();
  const codes = new Set(['mockcode']);

  function who(request) {
    const bearer = /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1];
    if (bearer) return KEYS[bearer];
    const cookie = /(?:^|; )sandgate_session=([^;]+)/.exec(request.headers.cookie ?? '')?.[1];
    return cookie && cookies.get(cookie);
  }

  function sameOrigin(request) {
    return request.headers.origin === `http://${request.headers.host}`;
  }

  const byName = (name) => data.sandboxes.find((box) => box.name === name) ?? fail(404, `there is no sandbox "${name}"`);
  const fail = (status, detail) => {
    throw new Problem(status, detail);
  };
  const drop = (list, id) => {
    const at = list.findIndex((item) => item.id === id);
    if (at < 0) fail(404, 'there is no such thing');
    list.splice(at, 1);
  };

  /** `[method, pattern, role, handler]`; a pattern's groups are handed over after the call. */
  const routes = [
    ['POST', /^\/login$/, null, ({ body, response }) => {
      const user = KEYS[body.key] ?? (codes.delete(body.code) ? KEYS.sgk_mock : null);
      if (!user) fail(401, body.code ? 'this link was used already; `sandgate up` prints a new one' : 'this key is not known');
      const id = randomBytes(16).toString('hex');
      cookies.set(id, user);
      response.setHeader('set-cookie', `sandgate_session=${id}; HttpOnly; SameSite=Strict; Path=/; Max-Age=43200`);
    }],
    ['POST', /^\/logout$/, 'viewer', ({ request }) => {
      cookies.delete(/sandgate_session=([^;]+)/.exec(request.headers.cookie ?? '')?.[1]);
    }],
    ['GET', /^\/whoami$/, 'viewer', ({ user }) => user],
    ['GET', /^\/status$/, 'viewer', () => ({ ...data.status, sessions: data.sessions.length })],
    ['GET', /^\/images$/, 'viewer', () => data.images],
    ['GET', /^\/keys$/, 'viewer', () => data.keys],
    ['GET', /^\/sandboxes$/, 'viewer', () => data.sandboxes],
    ['POST', /^\/sandboxes$/, 'admin', ({ body }) => {
      if (data.sandboxes.some((box) => box.name === body.name)) fail(409, `there is a sandbox "${body.name}" already`);
      const box = data.newSandbox(body);
      data.sandboxes.push(box);
      return [201, box];
    }],
    ['GET', /^\/sandboxes\/([^/]+)$/, 'viewer', (_, name) => byName(name)],
    ['DELETE', /^\/sandboxes\/([^/]+)$/, 'admin', ({ query }, name) => {
      const box = byName(name);
      if (box.state === 'running' && query.get('force') !== 'true') fail(409, 'it runs; stop it first');
      drop(data.sandboxes, box.id);
    }],
    ['POST', /^\/sandboxes\/([^/]+)\/(start|stop|pause|resume)$/, 'user', (_, name, what) => {
      const box = byName(name);
      box.state = { start: 'running', stop: 'stopped', pause: 'paused', resume: 'running' }[what];
      box.since = new Date().toISOString();
      if (what === 'stop') box.reason = 'it was stopped';
      else delete box.reason;
      return box;
    }],
    ['GET', /^\/sessions$/, 'viewer', () => [...terminals.sessions(), ...data.sessions]],
    ['DELETE', /^\/sessions\/([^/]+)$/, 'user', (_, id) => {
      if (!terminals.endSession(id)) drop(data.sessions, id);
    }],
    ['GET', /^\/tokens$/, 'viewer', () => data.tokens],
    ['POST', /^\/tokens$/, 'user', ({ body }) => {
      byName(body.sandbox);
      const [view, created] = data.newToken(body);
      data.tokens.unshift(view);
      return [201, created];
    }],
    ['DELETE', /^\/tokens\/([^/]+)$/, 'user', (_, id) => {
      const token = data.tokens.find((one) => one.id === id) ?? fail(404, 'there is no such token');
      token.state = 'revoked';
    }],
    ['GET', /^\/audit$/, 'viewer', ({ query }) => {
      const before = Number(query.get('before') ?? Infinity);
      const fits = data.audit.filter((entry) => entry.id < before
        && (!query.get('sandbox') || entry.sandbox === query.get('sandbox')) && entry.action.startsWith(query.get('action') ?? ''));
      const entries = fits.slice(0, Number(query.get('limit') ?? 100));
      return { entries, next: fits.length > entries.length ? entries.at(-1).id : null };
    }],
    ['GET', /^\/recordings$/, 'viewer', ({ query }) => ({
      recordings: data.recordings.filter((one) => !query.get('sandbox') || one.sandbox === query.get('sandbox')), next: null,
    })],
    ['GET', /^\/recordings\/([^/]+)$/, 'viewer', ({ response }, id) => {
      const one = data.recordings.find((recording) => recording.id === id) ?? fail(404, 'there is no such recording');
      response.setHeader('content-type', one.format === 'timeline' ? 'application/jsonl' : 'application/x-asciicast');
      return data.recordingText(one);
    }],
    ['POST', /^\/recordings\/([^/]+)\/verify$/, 'viewer', (_, id) => (id === 'rec_bad'
      ? { valid: false, detail: 'Line 3 does not fit the one before it.' } : { valid: true, detail: '42 lines.' })],
    ['DELETE', /^\/recordings\/([^/]+)$/, 'admin', (_, id) => drop(data.recordings, id)],
    ['GET', /^\/api-keys$/, 'admin', () => data.apiKeys],
    ['POST', /^\/api-keys$/, 'admin', ({ body }) => {
      const id = `apk_${randomBytes(4).toString('hex')}`;
      data.apiKeys.push({ id, name: body.name, role: body.role, prefix: 'sgk_new1', created_at: new Date().toISOString(), last_used_at: null });
      return [201, { id, key: `sgk_${randomBytes(16).toString('hex')}` }];
    }],
    ['DELETE', /^\/api-keys\/([^/]+)$/, 'admin', (_, id) => drop(data.apiKeys, id)],
    ['POST', /^\/sandboxes\/([^/]+)\/terminals$/, 'user', ({ user }, name) => [201, terminals.create(byName(name).name, user.name)]],
    ['GET', /^\/terminals$/, 'viewer', () => terminals.list()],
    ['POST', /^\/terminals\/([^/]+)\/tickets$/, 'viewer', ({ body, user }, id) => {
      if (body.mode !== 'watch' && RANK[user.role] < RANK.user) fail(403, 'a viewer may only watch');
      return [201, terminals.ticket(id, body.mode) ?? fail(404, 'there is no such terminal')];
    }],
    ['DELETE', /^\/terminals\/([^/]+)$/, 'user', (_, id) => {
      if (!terminals.end(id)) fail(404, 'there is no such terminal');
    }],
  ];

  async function answer(request, response, url) {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    const body = text ? JSON.parse(text) : {};
    const where = url.pathname.slice('/api/v1'.length);
    for (const [method, pattern, role, handler] of routes) {
      const found = request.method === method ? pattern.exec(where) : null;
      if (!found) continue;
      const user = who(request);
      if (role && !user) fail(401, 'log in first');
      if (role && RANK[user.role] < RANK[role]) fail(403, `this needs the role ${role}`);
      if (method !== 'GET' && !request.headers.authorization && !sameOrigin(request)) fail(403, 'this page may not do that');
      const made = await handler({ request, response, body, user, query: url.searchParams }, ...found.slice(1).map(decodeURIComponent));
      const [status, content] = Array.isArray(made) && typeof made[0] === 'number' ? made : [made === undefined ? 204 : 200, made];
      response.statusCode = status;
      if (typeof content === 'string') response.end(content);
      else if (content === undefined) response.end();
      else response.setHeader('content-type', 'application/json').end(JSON.stringify(content));
      return;
    }
    fail(404, 'there is nothing at this address');
  }

  async function file(response, url) {
    const name = url.pathname.startsWith('/assets/') ? path.join(DIST, path.normalize(url.pathname)) : path.join(DIST, 'index.html');
    try {
      const content = await readFile(name);
      response.setHeader('content-type', TYPES[path.extname(name)] ?? 'application/octet-stream');
      response.setHeader('content-security-policy', POLICY);
      response.setHeader('x-content-type-options', 'nosniff');
      response.setHeader('referrer-policy', 'no-referrer');
      response.end(content);
    } catch {
      response.writeHead(404).end('not found');
    }
  }

  const server = http.createServer((request, response) => {
    const url = new URL(request.url, 'http://mock');
    const done = url.pathname.startsWith('/api/v1/') ? answer(request, response, url) : file(response, url);
    done.catch((error) => {
      const status = error instanceof Problem ? error.status : 500;
      response.writeHead(status, { 'content-type': 'application/problem+json' });
      response.end(JSON.stringify({ type: 'about:blank', title: http.STATUS_CODES[status], status, detail: error.message }));
    });
  });

  const sockets = new WebSocketServer({ noServer: true, handleProtocols: () => 'sandgate.terminal.v1', maxPayload: 64 * 1024 });
  server.on('upgrade', (request, socket, head) => {
    if (request.url !== '/api/v1/terminal' || !sameOrigin(request)) {
      socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
      return;
    }
    sockets.handleUpgrade(request, socket, head, (webSocket) => terminals.attach(webSocket));
  });

  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    data,
    terminals,
    stop: () => {
      terminals.stop();
      server.closeAllConnections();
      server.close();
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const mock = await startMock(Number(process.env.PORT ?? 8099));
  console.log(`${mock.url}/#login=mockcode`);
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.on(signal, () => {
      mock.stop();
      process.exit();
    });
  }
}
