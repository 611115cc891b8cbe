import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { encodeText } from './input';
import { NoTicket, type Phase, TerminalLink } from './link';

/** A socket that the test plays the gateway on. */
class FakeSocket {
  readyState = 0;
  bufferedAmount = 0;
  sent: (string | Uint8Array)[] = [];
  closedWith: number | null = null;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;

  send(data: string | Uint8Array): void {
    this.sent.push(data);
  }
  close(code: number): void {
    this.closedWith = code;
    this.readyState = 3;
  }
  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }
  say(message: object): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
  output(bytes: number): void {
    this.onmessage?.({ data: new ArrayBuffer(bytes) });
  }
  lose(code: number, reason = ''): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
  messages(): Record<string, unknown>[] {
    return this.sent.filter((one) => typeof one === 'string').map((one) => JSON.parse(one) as Record<string, unknown>);
  }
}

const READY = { type: 'ready', terminal: 'trm_1', session: 'ses_1', mode: 'write', resumed: false, cols: 80, rows: 24 };

function world(ticket: () => Promise<string> = () => Promise.resolve('ticket')) {
  const sockets: FakeSocket[] = [];
  const phases: Phase[] = [];
  const taken: (() => void)[] = [];
  const around = {
    ticket: vi.fn(ticket),
    socket: () => {
      const socket = new FakeSocket();
      sockets.push(socket);
      return socket as unknown as WebSocket;
    },
    size: () => ({ cols: 100, rows: 30, xpixel: 900, ypixel: 500 }),
    phase: (phase: Phase) => phases.push(phase),
    ready: vi.fn(),
    output: (_: Uint8Array, done: () => void) => taken.push(done),
    resize: vi.fn(),
    latency: vi.fn(),
  };
  return { link: new TerminalLink(around), around, sockets, phases, taken, last: () => phases.at(-1) };
}

async function live() {
  const all = world();
  await all.link.connect();
  const socket = all.sockets[0] as FakeSocket;
  socket.open();
  socket.say(READY);
  return { ...all, socket };
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal('WebSocket', { CONNECTING: 0, OPEN: 1 });
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe('link', () => {
  it('attaches with ticket and size, and says what it waits for', async () => {
    const { link, sockets, phases, around } = world();
    await link.connect();
    sockets[0]?.open();
    expect(sockets[0]?.messages()).toEqual([{ type: 'attach', ticket: 'ticket', cols: 100, rows: 30, xpixel: 900, ypixel: 500 }]);
    sockets[0]?.say({ type: 'progress', text: 'Starting…' });
    sockets[0]?.say(READY);
    expect(phases).toEqual([{ is: 'connecting' }, { is: 'starting', text: 'Starting…' }, { is: 'live', mode: 'write' }]);
    expect(around.ready).toHaveBeenCalledWith(expect.objectContaining({ terminal: 'trm_1', resumed: false }));
  });

  it('says since when there is a picture of a session that is watched', async () => {
    const { socket, around, last } = await live();
    expect(around.ready).toHaveBeenLastCalledWith(expect.objectContaining({ since: null }));
    const since = '2026-01-02T03:04:05Z';
    socket.say({ type: 'ready', session: 'ses_1', mode: 'watch', resumed: true, cols: 80, rows: 24, since });
    expect(around.ready).toHaveBeenLastCalledWith(expect.objectContaining({ terminal: '', session: 'ses_1', mode: 'watch', since }));
    expect(last()).toEqual({ is: 'live', mode: 'watch' });
  });

  it('acknowledges what the emulator has taken, and not before', async () => {
    const { socket, taken } = await live();
    socket.output(20_000);
    socket.output(20_000);
    const acks = () => socket.messages().filter((message) => message.type === 'ack');
    expect(acks()).toEqual([]);
    taken[0]?.();
    expect(acks()).toEqual([]);
    taken[1]?.();
    expect(acks()).toEqual([{ type: 'ack', bytes: 40_000 }]);
  });

  it('does not acknowledge the output of one connection on the next', async () => {
    const { socket, taken, sockets } = await live();
    socket.output(50_000);
    socket.lose(1006);
    await vi.advanceTimersByTimeAsync(1000);
    sockets[1]?.open();
    sockets[1]?.say({ ...READY, resumed: true });
    taken[0]?.();
    expect(sockets[1]?.messages().some((message) => message.type === 'ack')).toBe(false);
  });

  it('sends input in parts, and waits while the browser is behind', async () => {
    const { link, socket } = await live();
    socket.sent = [];
    socket.bufferedAmount = 1024 * 1024;
    link.input(encodeText('x'.repeat(100_000)));
    expect(socket.sent).toEqual([]);
    socket.bufferedAmount = 0;
    await vi.advanceTimersByTimeAsync(25);
    expect(socket.sent.map((part) => part.length)).toEqual([32768, 32768, 32768, 1696]);
  });

  it('comes back after a lost connection, later each time', async () => {
    const { socket, sockets, around, last } = await live();
    socket.lose(1006);
    expect(last()).toMatchObject({ is: 'waiting' });
    const pauses: number[] = [];
    for (let round = 0; round < 8; round += 1) {
      const phase = last();
      pauses.push(phase?.is === 'waiting' ? phase.ms : -1);
      await vi.advanceTimersByTimeAsync(20_000);
      sockets.at(-1)?.lose(1006);
    }
    expect(pauses[0]).toBeLessThanOrEqual(625);
    expect(pauses[7]).toBeGreaterThan(10_000);
    expect(Math.max(...pauses)).toBeLessThanOrEqual(18_750);
    expect(around.ticket).toHaveBeenCalledTimes(9);
  });

  it('tries at once when it is told to hurry, and only then', async () => {
    const { link, socket, sockets } = await live();
    link.hurry();
    expect(sockets).toHaveLength(1);
    socket.lose(1006);
    link.hurry();
    await vi.advanceTimersByTimeAsync(0);
    expect(sockets).toHaveLength(2);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(sockets).toHaveLength(2);
  });

  it('takes silence for a lost connection', async () => {
    const { socket, phases, around } = await live();
    await vi.advanceTimersByTimeAsync(30_000);
    const pings = socket.messages().filter((message) => message.type === 'ping');
    expect(pings).toHaveLength(3);
    socket.say({ type: 'pong', id: pings.at(-1)?.id });
    expect(around.latency).toHaveBeenCalledOnce();
    await vi.advanceTimersByTimeAsync(61_000);
    expect(phases.some((phase) => phase.is === 'waiting')).toBe(true);
    expect(socket.closedWith).toBe(1000);
  });

  it('does not take a tab that slept for a lost connection', async () => {
    const { socket, last } = await live();
    const pings = () => socket.messages().filter((message) => message.type === 'ping');
    socket.say({ type: 'pong', id: pings().at(-1)?.id });
    // The clock goes on while the timers of the tab do not.
    vi.setSystemTime(Date.now() + 10 * 60_000);
    await vi.advanceTimersByTimeAsync(15_000);
    expect(pings()).toHaveLength(2);
    expect(socket.closedWith).toBeNull();
    expect(last()).toEqual({ is: 'live', mode: 'write' });
    // It is lost when nobody answers what it asks after it woke.
    await vi.advanceTimersByTimeAsync(30_000);
    expect(socket.closedWith).toBeNull();
    await vi.advanceTimersByTimeAsync(15_000);
    expect(socket.closedWith).toBe(1000);
  });

  it('shows the exit code, and tries no more', async () => {
    const { socket, last, sockets } = await live();
    socket.say({ type: 'exit', code: 7 });
    expect(last()).toEqual({ is: 'over', text: 'The shell ended with exit code 7.', code: 7 });
    await vi.advanceTimersByTimeAsync(60_000);
    expect(sockets).toHaveLength(1);
  });

  it('names the signal', async () => {
    const { socket, last } = await live();
    socket.say({ type: 'exit', signal: 'KILL', code: 137 });
    expect(last()).toMatchObject({ is: 'over', text: 'The shell was ended by SIGKILL (exit code 137).' });
  });

  it('stays detached until it is asked to take the shell back', async () => {
    const { link, socket, last, sockets } = await live();
    socket.say({ type: 'detached', text: 'Another page took over.' });
    socket.lose(4003);
    expect(last()).toEqual({ is: 'detached', text: 'Another page took over.' });
    await vi.advanceTimersByTimeAsync(60_000);
    expect(sockets).toHaveLength(1);
    await link.connect();
    expect(sockets).toHaveLength(2);
  });

  it('gives the reason of the gateway when the session was ended', async () => {
    const { socket, last } = await live();
    socket.say({ type: 'error', text: 'The token was revoked.' });
    socket.lose(4004);
    expect(last()).toEqual({ is: 'over', text: 'The token was revoked.', code: null });
  });

  it('tries a second ticket, not a third', async () => {
    const { link, sockets, last } = world();
    await link.connect();
    sockets[0]?.lose(4001, 'too old');
    await vi.advanceTimersByTimeAsync(0);
    expect(sockets).toHaveLength(2);
    sockets[1]?.lose(4001, 'too old');
    expect(last()).toEqual({ is: 'over', text: 'too old', code: null });
  });

  it('ends when there is no ticket to be had, and waits when the gateway is away', async () => {
    const gone = world(() => Promise.reject(new NoTicket('This shell has ended.')));
    await gone.link.connect();
    expect(gone.last()).toMatchObject({ is: 'over', text: 'This shell has ended.' });
    const away = world(() => Promise.reject(new Error('no answer')));
    await away.link.connect();
    expect(away.last()).toMatchObject({ is: 'waiting' });
  });

  it('is quiet after it was closed', async () => {
    const { link, socket, sockets, phases } = await live();
    const before = phases.length;
    link.close();
    socket.lose(1006);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(sockets).toHaveLength(1);
    expect(phases).toHaveLength(before);
  });

  it('is not troubled by nonsense', async () => {
    const { socket, last } = await live();
    socket.onmessage?.({ data: 'not json' });
    socket.onmessage?.({ data: '7' });
    socket.say({ type: 'something-new' });
    expect(last()).toEqual({ is: 'live', mode: 'write' });
  });
});
