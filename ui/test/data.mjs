// Made-up sandboxes, tokens and all the rest.

import { randomBytes } from 'node:crypto';

const ago = (seconds) => new Date(Date.now() - seconds * 1000).toISOString();
const base = { runtime: 'builtin', warnings: [], sessions: 0, mounts: [], network: 'none', forward: {}, created_at: ago(86400 * 3) };

export function makeData() {
  const actions = ['session.start', 'session.end', 'auth.failed', 'token.create', 'sandbox.start', 'sftp.write', 'forward.refused'];
  return {
    status: {
      version: '0.1.0', pid: 4711, started_at: ago(86400 * 2), ssh_listen: '127.0.0.1:2222', ssh_host: 'gate.example', ssh_port: 2222,
      host_keys: ['ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFdzaG9ydCBidXQgbG9va3MgbGlrZSBhIGtleSB0byBtZQ', `ssh-rsa AAAAB3NzaC1yc2E${'Abc9'.repeat(80)}`],
      connections: 3, sessions: 2,
    },
    images: [
      { name: 'debian:12', digest: 'sha256:1', size: 1e8, platform: 'linux/amd64', added_at: '2026-11-01T10:00:00Z' },
      { name: 'alpine:3.20', digest: 'sha256:2', size: 8e6, platform: 'linux/amd64', added_at: '2026-11-02T10:00:00Z' },
    ],
    keys: [{
      id: 'key-1', name: 'laptop', fingerprint: 'SHA256:abc', public_key: 'ssh-ed25519 AAAA', sandboxes: null,
      created_at: '2026-11-01T10:00:00Z', last_used_at: null,
    }],
    sandboxes: [
      { ...base, id: 'sbx_1', name: 'demo', state: 'running', since: ago(4000), driver: 'oci', image: 'host', sessions: 2, memory_bytes: 512 * 2 ** 20,
        usage: { memory_bytes: 140 * 2 ** 20, memory_limit_bytes: 512 * 2 ** 20, cpu_seconds: 12.5, processes: 9, processes_limit: 4096 } },
      { ...base, id: 'sbx_2', name: 'build-box', state: 'running', since: ago(90), driver: 'qemu', runtime: 'builtin', image: 'debian:12', memory_bytes: 2 * 2 ** 30, cpus: 2,
        warnings: ['there is no cgroup v2 here, so the memory limit does not hold', 'user namespaces are off'] },
      { ...base, id: 'sbx_3', name: 'paused-one', state: 'paused', since: ago(7200), driver: 'docker', runtime: 'default', image: 'registry.example/team/a-rather-long-image-name@sha256:0123456789abcdef0123456789abcdef', engine: 'Docker 28.1' },
      { ...base, id: 'sbx_4', name: 'old', state: 'stopped', since: ago(86400), reason: 'the agent ended with exit code 1', driver: 'oci', image: 'alpine:3.20' },
    ],
    newSandbox: (body) => ({
      ...base, id: `sbx_${randomBytes(3).toString('hex')}`, name: body.name, state: 'created', driver: body.driver ?? 'oci', image: body.image ?? 'host',
      memory_bytes: body.memory_bytes, cpus: body.cpus, created_at: new Date().toISOString(),
    }),
    sessions: [
      { id: 'ses_1', sandbox: 'demo', kind: 'exec', pty: false, credential: 'token sg_ab12 “ci”', client: '192.0.2.17:51200', started_at: ago(75), bytes_in: 1200, bytes_out: 45_678_901, terminal: null, recording: null },
      { id: 'ses_2', sandbox: 'build-box', kind: 'sftp', pty: false, credential: 'key laptop of anna', client: '2001:db8::7:50001', started_at: ago(3700), bytes_in: 9_000_000, bytes_out: 400, terminal: null, recording: 'rec_sftp' },
    ],
    tokens: [
      { id: 'tok_1', prefix: 'sg_ab12c', label: 'ci', sandbox: 'demo', state: 'active', scopes: ['exec', 'sftp'], sources: ['10.0.0.0/8'], files: { root: '/srv', read_only: true }, created_at: ago(9000), expires_at: ago(-6000), last_used_at: ago(75) },
      { id: 'tok_2', prefix: 'sg_zz98y', label: 'a guest for the afternoon', sandbox: 'build-box', state: 'active', scopes: ['shell', 'exec', 'sftp', 'forward', 'agent'], sources: [], files: {}, created_at: ago(100), expires_at: ago(-86400), last_used_at: null },
      { id: 'tok_3', prefix: 'sg_old11', label: '', sandbox: 'demo', state: 'expired', scopes: ['shell'], sources: [], files: {}, created_at: ago(90000), expires_at: ago(80000), last_used_at: null },
    ],
    newToken: (body) => {
      const token = `sg_${randomBytes(16).toString('hex')}`;
      const id = `tok_${randomBytes(3).toString('hex')}`;
      const expires_at = ago(-(body.ttl_seconds ?? 86400));
      const view = { id, prefix: token.slice(0, 8), label: body.label ?? '', sandbox: body.sandbox, state: 'active', scopes: body.scopes, created_at: ago(0), expires_at, last_used_at: null };
      return [view, { id, token, expires_at, ssh_command: `ssh -p 2222 ${token}@gate.example` }];
    },
    audit: Array.from({ length: 230 }, (_, index) => ({
      id: 230 - index, at: ago(index * 613 + 20), action: actions[index % actions.length], sandbox: index % 3 ? 'demo' : 'build-box',
      actor: index % 4 ? 'token sg_ab12 “ci”' : 'local owner', client: index % 4 ? '192.0.2.17:51200' : null,
      detail: index % 5 ? 'exit code 0' : '<img src=x onerror=alert(1)> /srv/a/very/long/path/that/goes/on/and/on/and/on/until/it/has/to/be/broken.txt',
    })),
    recordings: [
      { id: 'rec_1', sandbox: 'demo', session: 'ses_9', kind: 'terminal', started_at: ago(5000), seconds: 96.5, bytes: 8123, complete: true, format: 'asciicast-v3' },
      { id: 'rec_bad', sandbox: 'demo', session: 'ses_8', kind: 'terminal', started_at: ago(9000), seconds: 12, bytes: 1000, complete: false, format: 'asciicast-v3' },
      { id: 'rec_sftp', sandbox: 'build-box', session: 'ses_2', kind: 'sftp', started_at: ago(3700), seconds: 3700, bytes: 400, complete: true, format: 'timeline' },
    ],
    recordingText: (one) => (one.format === 'timeline' ? timeline() : cast(one.complete)),
    apiKeys: [
      { id: 'apk_1', name: 'mock', role: 'admin', prefix: 'sgk_mock', created_at: ago(90000), last_used_at: ago(3) },
      { id: 'apk_2', name: 'monitoring', role: 'viewer', prefix: 'sgk_ab12', created_at: ago(400000), last_used_at: null },
    ],
  };
}

function cast(complete) {
  const lines = [JSON.stringify({ version: 3, term: { cols: 90, rows: 26, type: 'xterm-256color' }, timestamp: 1764280000 }), '# a comment'];
  const put = (seconds, code, text) => lines.push(JSON.stringify([seconds, code, text]));
  put(0.2, 'o', '\x1b[32mbox\x1b[0m:\x1b[34m~\x1b[0m$ ');
  for (const letter of 'make test') put(0.12, 'o', letter);
  put(0.4, 'o', '\r\n');
  for (let index = 1; index <= 40; index += 1) put(0.05, 'o', `test \x1b[1mcase-${index}\x1b[0m … \x1b[38;2;${100 + index * 3};${255 - index * 4};120mok\x1b[0m\r\n`);
  put(60, 'o', 'waited for a minute\r\n');
  put(0.5, 'r', '100x30');
  put(1, 'o', '\x1b[31mone warning: \x1b[0mdisk is almost full\r\n');
  put(30, 'm', 'the end');
  put(0.1, 'x', '0');
  return `${lines.join('\n')}\n${complete ? '' : '[0.5, "o", "cut o'}`;
}

function timeline() {
  return [{ at: ago(3700), event: 'start', kind: 'sftp' }, { at: ago(3690), event: 'write', path: '/home/anna/notes.txt', bytes: 8_999_000 },
    { at: ago(3600), event: 'remove', path: '/tmp/old' }, { at: ago(10), event: 'end', code: 0 }].map((line) => `${JSON.stringify(line)}\n`).join('');
}
