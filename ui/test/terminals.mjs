// The browser terminal of the mock: the protocol of the gateway over real shells of this machine (test/shell.py).

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import headless from '@xterm/headless';
import serialize from '@xterm/addon-serialize';

const PTY = fileURLToPath(new URL('shell.py', import.meta.url));
const WINDOW = 256 * 1024;
const id = (prefix) => `${prefix}_${randomBytes(6).toString('hex')}`;
const send = (socket, message) => socket.send(JSON.stringify(message));

export class Terminals {
  all = new Map();
  tickets = new Map();

  constructor(data) {
    this.data = data;
  }

  create(sandbox, user) {
    const terminal = {
      id: id('trm'), session: id('ses'), sandbox, user, started_at: new Date().toISOString(), writer: null, watchers: new Set(),
      cols: 80, rows: 24, in: 0, out: 0, process: null, unacknowledged: 0,
    };
    this.all.set(terminal.id, terminal);
    return { terminal: terminal.id, ...this.ticket(terminal.id, 'write') };
  }

  ticket(terminal, mode) {
    if (!this.all.has(terminal)) return null;
    const ticket = randomBytes(16).toString('hex');
    this.tickets.set(ticket, { terminal, mode });
    return { ticket, expires_in: 30 };
  }

  list() {
    return [...this.all.values()].filter((one) => one.process).map((one) => ({
      id: one.id, sandbox: one.sandbox, session: one.session, attached: one.writer !== null, watchers: one.watchers.size,
      cols: one.cols, rows: one.rows, started_at: one.started_at,
    }));
  }

  sessions() {
    return [...this.all.values()].filter((one) => one.process).map((one) => ({
      id: one.session, sandbox: one.sandbox, kind: 'shell', pty: true, credential: `API key ${one.user}`, client: '127.0.0.1:40000',
      started_at: one.started_at, bytes_in: one.in, bytes_out: one.out, terminal: one.id, recording: id('rec'),
    }));
  }

  end(terminal) {
    const one = this.all.get(terminal);
    one?.process?.kill('SIGKILL');
    if (one?.process) process.kill(-one.process.pid, 'SIGHUP');
    return one !== undefined;
  }

  endSession(session) {
    const one = [...this.all.values()].find((terminal) => terminal.session === session);
    return one ? this.end(one.id) : false;
  }

  stop() {
    for (const one of this.all.values()) this.end(one.id);
  }

  attach(socket) {
    let one = null;
    let mode = 'write';
    socket.on('message', (data, binary) => {
      if (!one) {
        const first = binary ? {} : JSON.parse(data);
        const ticket = this.tickets.get(first.ticket);
        this.tickets.delete(first.ticket);
        one = ticket && this.all.get(ticket.terminal);
        if (first.type !== 'attach') socket.close(4002, 'attach first');
        else if (!one) socket.close(4001, 'this ticket is not good');
        else {
          mode = ticket.mode;
          void this.begin(one, socket, mode, first);
        }
        return;
      }
      if (binary) {
        if (mode === 'watch') return send(socket, { type: 'error', text: 'this is only to watch' });
        one.in += data.length;
        return one.process?.stdin.write(data);
      }
      const message = JSON.parse(data);
      if (message.type === 'ping') send(socket, { type: 'pong', id: message.id });
      if (message.type === 'resize' && mode === 'write') this.resize(one, message);
      if (message.type === 'ack' && mode === 'write') {
        one.unacknowledged = Math.max(0, one.unacknowledged - message.bytes);
        if (one.unacknowledged < WINDOW) one.process?.stdout.resume();
      }
    });
    socket.on('close', () => {
      if (one?.writer === socket) {
        one.writer = null;
        one.unacknowledged = 0;
        one.process?.stdout.resume();
      }
      one?.watchers.delete(socket);
    });
  }

  async begin(one, socket, mode, first) {
    const resumed = one.process !== null;
    if (mode === 'write' && one.writer) {
      const old = one.writer;
      one.writer = null;
      send(old, { type: 'detached', text: 'Another page has taken this shell.' });
      old.close(4003);
    }
    if (!resumed) {
      send(socket, { type: 'progress', text: `Starting ${one.sandbox}…` });
      this.start(one, first);
    } else if (mode === 'write') this.resize(one, first);
    send(socket, { type: 'ready', terminal: one.id, session: one.session, mode, resumed, cols: one.cols, rows: one.rows });
    if (resumed) {
      await new Promise((resolve) => one.screen.write('', resolve));
      socket.send(Buffer.from(one.serializer.serialize()));
    }
    if (mode === 'write') one.writer = socket;
    else one.watchers.add(socket);
    one.process?.stdout.resume();
  }

  start(one, size) {
    one.screen = new headless.Terminal({ cols: size.cols, rows: size.rows, scrollback: 1000, allowProposedApi: true });
    one.serializer = new serialize.SerializeAddon();
    one.screen.loadAddon(one.serializer);
    one.process = spawn('python3', [PTY], { stdio: ['pipe', 'pipe', 'ignore', 'pipe'], detached: true });
    one.process.stdin.on('error', () => {});
    one.process.stdio[3].on('error', () => {});
    this.resize(one, size);
    one.process.stdout.on('data', (data) => {
      one.out += data.length;
      one.screen.write(data);
      if (one.writer) {
        one.writer.send(data);
        one.unacknowledged += data.length;
        if (one.unacknowledged >= WINDOW) one.process.stdout.pause();
      }
      for (const watcher of one.watchers) watcher.send(data);
    });
    one.process.on('close', (code, signal) => {
      const exit = signal || code > 128 ? { type: 'exit', signal: 'KILL', code: 137 } : { type: 'exit', code };
      for (const socket of [one.writer, ...one.watchers]) {
        if (!socket) continue;
        send(socket, exit);
        socket.close(1000);
      }
      one.process = null;
      this.all.delete(one.id);
    });
  }

  resize(one, { cols, rows, xpixel = 0, ypixel = 0 }) {
    one.cols = cols;
    one.rows = rows;
    one.screen.resize(cols, rows);
    one.process?.stdio[3].write(`${cols} ${rows} ${xpixel} ${ypixel}\n`);
    for (const watcher of one.watchers) send(watcher, { type: 'resize', cols, rows });
  }
}
