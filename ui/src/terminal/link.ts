// The protocol `sandgate.terminal.v1`, from the page's side: one attachment after another to the same shell.
//
// The first message carries a ticket that is good once and for seconds, so each attachment asks for a new one. Output is acknowledged
// when the emulator has taken it; the gateway stops reading the process while too much is under way. The shell outlives a lost
// connection, so a lost connection is made again.

import type { Size } from '../types';
import { split } from './input';

/** What the page shows. */
export type Phase =
  | { is: 'connecting' }
  /** The gateway says what it is waiting for. */
  | { is: 'starting'; text: string }
  | { is: 'live'; mode: Mode }
  /** The connection was lost; the next try is in `ms`. */
  | { is: 'waiting'; ms: number }
  /** Another page has the shell; it is not taken back without being asked. */
  | { is: 'detached'; text: string }
  /** Nothing follows. `code` is the shell's exit code. */
  | { is: 'over'; text: string; code: number | null };

export type Mode = 'write' | 'watch';

export interface Ready {
  terminal: string;
  session: string;
  mode: Mode;
  resumed: boolean;
  cols: number;
  rows: number;
  /** The picture began then, later than the session; null where all of the screen is known. */
  since: string | null;
}

/** Thrown by [`Around.ticket`] when a further try is no use. */
export class NoTicket extends Error {}

/** What the link needs of the page. */
export interface Around {
  /** A new ticket for the same shell. */
  ticket: () => Promise<string>;
  socket: () => WebSocket;
  size: () => Size;
  phase: (phase: Phase) => void;
  ready: (ready: Ready) => void;
  /** Output, in order; `taken` is called when the emulator has processed it. */
  output: (data: Uint8Array, taken: () => void) => void;
  resize: (cols: number, rows: number) => void;
  /** The way there and back, in milliseconds. */
  latency?: (ms: number) => void;
}

/** Acknowledged in lumps: an eighth of the gateway's window of 256 KiB. */
const ACK_BYTES = 32 * 1024;

/** Input that the browser has not sent yet; beyond it a paste waits. */
const MOST_BUFFERED = 256 * 1024;

/** How often a paste that waits looks again. */
const LOOK_AGAIN_MS = 20;

const PING_MS = 15_000;

/**
 * After so many pings without a word the connection is taken for lost. They are counted, not timed: the timers of a hidden tab may sleep for
 * minutes, in which nobody is asked, and silence means nothing.
 */
const MOST_UNANSWERED = 3;

/** First and longest pause before another try. */
const BACKOFF_MS = { first: 500, most: 15_000 };

const CLOSE = { done: 1000, badTicket: 4001, protocol: 4002, detached: 4003, ended: 4004 };

/** One WebSocket. What still arrives from an older one is dropped. */
interface Attachment {
  socket: WebSocket;
  unacknowledged: number;
  /** Pings since something was heard. */
  unanswered: number;
  pinged: Map<number, number>;
  ping: ReturnType<typeof setInterval> | undefined;
  error: string | null;
}

export class TerminalLink {
  private attachment: Attachment | null = null;
  private tries = 0;
  private badTickets = 0;
  private retry: ReturnType<typeof setTimeout> | undefined;
  private over = false;
  private closed = false;
  private turn = 0;
  private pings = 0;
  /** Input in parts; only a large paste is ever longer than the browser's buffer. */
  private queue: Uint8Array<ArrayBuffer>[] = [];
  private pump: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly around: Around) {}

  /** Attaches, or attaches again: at the beginning, to take the shell back, and when the network returns. */
  async connect(): Promise<void> {
    if (this.closed || this.over) return;
    clearTimeout(this.retry);
    this.drop();
    this.turn += 1;
    const turn = this.turn;
    this.around.phase({ is: 'connecting' });
    let ticket: string;
    try {
      ticket = await this.around.ticket();
    } catch (error) {
      if (turn !== this.turn || this.closed) return;
      if (error instanceof NoTicket) this.finish(error.message, null);
      else this.wait();
      return;
    }
    if (turn === this.turn && !this.closed) this.attach(ticket);
  }

  /** Tries at once if it is waiting. */
  hurry(): void {
    if (this.retry !== undefined) void this.connect();
  }

  input(data: Uint8Array<ArrayBuffer>): void {
    if (!this.attachment || data.length === 0) return;
    this.queue.push(...split(data));
    this.send();
  }

  resize(size: Size): void {
    this.message({ type: 'resize', ...size });
  }

  /** The page goes away; the shell stays. */
  close(): void {
    this.closed = true;
    clearTimeout(this.retry);
    this.drop();
  }

  private attach(ticket: string): void {
    const socket = this.around.socket();
    const attachment: Attachment = {
      socket, unacknowledged: 0, unanswered: 0, pinged: new Map(), ping: undefined, error: null,
    };
    this.attachment = attachment;
    const current = () => this.attachment === attachment;
    socket.onopen = () => {
      if (!current()) return;
      this.message({ type: 'attach', ticket, ...this.around.size() });
      attachment.ping = setInterval(() => this.ping(attachment), PING_MS);
    };
    socket.onmessage = (event: MessageEvent<unknown>) => {
      if (!current()) return;
      attachment.unanswered = 0;
      if (event.data instanceof ArrayBuffer) this.output(attachment, new Uint8Array(event.data));
      else if (typeof event.data === 'string') this.said(attachment, event.data);
    };
    socket.onclose = (event) => {
      if (current()) this.lost(attachment, event.code, event.reason);
    };
  }

  private output(attachment: Attachment, data: Uint8Array): void {
    this.around.output(data, () => {
      if (this.attachment !== attachment) return;
      attachment.unacknowledged += data.length;
      if (attachment.unacknowledged < ACK_BYTES) return;
      this.message({ type: 'ack', bytes: attachment.unacknowledged });
      attachment.unacknowledged = 0;
    });
  }

  private said(attachment: Attachment, text: string): void {
    let said: Record<string, unknown>;
    try {
      const value: unknown = JSON.parse(text);
      if (typeof value !== 'object' || value === null) return;
      said = value as Record<string, unknown>;
    } catch {
      return;
    }
    const number = (name: string) => (typeof said[name] === 'number' ? said[name] : 0);
    const string = (name: string) => (typeof said[name] === 'string' ? said[name] : '');
    switch (said.type) {
      case 'progress':
        this.around.phase({ is: 'starting', text: string('text') });
        break;
      case 'ready': {
        this.tries = 0;
        this.badTickets = 0;
        const mode: Mode = said.mode === 'watch' ? 'watch' : 'write';
        this.around.ready({
          terminal: string('terminal'), session: string('session'), mode, resumed: said.resumed === true, cols: number('cols'), rows: number('rows'),
          since: string('since') || null,
        });
        this.around.phase({ is: 'live', mode });
        this.ping(attachment);
        break;
      }
      case 'resize':
        this.around.resize(number('cols'), number('rows'));
        break;
      case 'pong': {
        const sent = attachment.pinged.get(number('id'));
        attachment.pinged.delete(number('id'));
        if (sent !== undefined) this.around.latency?.(performance.now() - sent);
        break;
      }
      case 'exit': {
        const code = number('code');
        const signal = string('signal');
        this.finish(signal ? `The shell was ended by SIG${signal} (exit code ${code}).` : `The shell ended with exit code ${code}.`, code);
        break;
      }
      case 'error':
        attachment.error = string('text');
        break;
      case 'detached':
        this.detached(string('text'));
        break;
      default:
      // A later gateway may say more.
    }
  }

  private lost(attachment: Attachment, code: number, reason: string): void {
    this.drop();
    const why = attachment.error ?? reason;
    switch (code) {
      case CLOSE.done:
      case CLOSE.ended:
        this.finish(why || 'The shell has ended.', null);
        break;
      case CLOSE.protocol:
        this.finish(why || 'The gateway did not understand this page. Reload it.', null);
        break;
      case CLOSE.detached:
        this.detached(why);
        break;
      case CLOSE.badTicket:
        // A ticket can be too old after a slow start; a second one in a row that fails will not get better.
        this.badTickets += 1;
        if (this.badTickets > 1) this.finish(why || 'The gateway did not accept the ticket.', null);
        else void this.connect();
        break;
      default:
        this.wait();
    }
  }

  private detached(text: string): void {
    this.drop();
    this.around.phase({ is: 'detached', text: text || 'Another page has taken this shell.' });
  }

  private finish(text: string, code: number | null): void {
    this.over = true;
    this.drop();
    this.around.phase({ is: 'over', text, code });
  }

  private wait(): void {
    const pause = Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 2 ** this.tries);
    this.tries += 1;
    // Many pages that lost the same gateway do not all come back in the same moment.
    const ms = Math.round(pause * (0.75 + Math.random() / 2));
    this.around.phase({ is: 'waiting', ms });
    this.retry = setTimeout(() => void this.connect(), ms);
  }

  private ping(attachment: Attachment): void {
    if (attachment.unanswered >= MOST_UNANSWERED) {
      this.drop();
      this.wait();
      return;
    }
    attachment.unanswered += 1;
    this.pings += 1;
    attachment.pinged.clear();
    attachment.pinged.set(this.pings, performance.now());
    this.message({ type: 'ping', id: this.pings });
  }

  private message(message: object): void {
    const socket = this.attachment?.socket;
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  }

  private send(): void {
    clearTimeout(this.pump);
    const socket = this.attachment?.socket;
    if (socket?.readyState !== WebSocket.OPEN) {
      this.queue = [];
      return;
    }
    while (this.queue.length > 0 && socket.bufferedAmount < MOST_BUFFERED) {
      const part = this.queue.shift();
      if (part) socket.send(part);
    }
    if (this.queue.length > 0) this.pump = setTimeout(() => this.send(), LOOK_AGAIN_MS);
  }

  /** Leaves the socket without a further word of it. Input that was not sent is not meant for a later time. */
  private drop(): void {
    const attachment = this.attachment;
    this.retry = undefined;
    this.attachment = null;
    this.queue = [];
    clearTimeout(this.pump);
    if (!attachment) return;
    clearInterval(attachment.ping);
    const { socket } = attachment;
    socket.onopen = null;
    socket.onmessage = null;
    socket.onclose = null;
    if (socket.readyState === WebSocket.CONNECTING || socket.readyState === WebSocket.OPEN) socket.close(1000);
  }
}
