// An emulator joined to a link: what the terminal page and the embed page have in common.

import { button, fill, h } from '../dom';
import type { Emulator } from './emulator';
import { openEmulator } from './emulator';
import { encodeBinary, encodeText } from './input';
import { type Mode, type Phase, type Ready, TerminalLink } from './link';

/** A window that is dragged sends its size when it rests this long, so that programs inside do not draw for every pixel. */
const RESIZE_REST_MS = 80;

export interface ScreenOptions {
  mode: Mode;
  ticket: () => Promise<string>;
  socket: () => WebSocket;
  ready?: (ready: Ready) => void;
  phase?: (phase: Phase) => void;
  latency?: (ms: number) => void;
  title?: (title: string) => void;
  /** What to offer when nothing follows. */
  afterEnd?: () => HTMLElement[];
}

export class Screen {
  readonly view: HTMLElement;
  private readonly frame = h('div', { class: 'emulator' });
  private readonly panel = h('div', { class: 'panel', role: 'status', hidden: true });
  private emulator: Emulator | null = null;
  private readonly link: TerminalLink;
  private rest: ReturnType<typeof setTimeout> | undefined;
  private mode: Mode;
  private live = false;
  private ended = false;
  private readonly observer = new ResizeObserver(() => this.resized());
  private readonly back = () => this.link.hurry();

  constructor(private readonly options: ScreenOptions) {
    this.mode = options.mode;
    this.view = h('div', { class: 'screen' }, this.frame, this.panel);
    this.link = new TerminalLink({
      ticket: options.ticket,
      socket: options.socket,
      size: () => this.size(),
      phase: (phase) => this.phase(phase),
      ready: (ready) => this.ready(ready),
      output: (data, taken) => this.emulator?.terminal.write(data, taken),
      resize: (cols, rows) => this.follow(cols, rows),
      ...(options.latency ? { latency: options.latency } : {}),
    });
  }

  /** Needs to be in the document: the size of the letters is measured there. */
  start(): void {
    const emulator = openEmulator(this.frame, this.mode === 'watch' ? 'display' : 'interactive');
    this.emulator = emulator;
    const { terminal } = emulator;
    if (this.mode === 'write') {
      terminal.onData((text) => this.link.input(encodeText(text)));
      terminal.onBinary((text) => this.link.input(encodeBinary(text)));
      emulator.fit();
    }
    terminal.onResize(() => this.announce());
    terminal.onTitleChange((title) => this.options.title?.(title));
    terminal.attachCustomKeyEventHandler((event) => this.key(event));
    this.observer.observe(this.frame);
    addEventListener('online', this.back);
    document.addEventListener('visibilitychange', this.back);
    void this.link.connect();
    this.focus();
  }

  stop(): void {
    this.observer.disconnect();
    removeEventListener('online', this.back);
    document.removeEventListener('visibilitychange', this.back);
    clearTimeout(this.rest);
    this.link.close();
    this.emulator?.dispose();
    this.emulator = null;
  }

  focus(): void {
    this.emulator?.terminal.focus();
  }

  /** Rows as text in the document, for screen readers. */
  readAloud(on: boolean): void {
    if (this.emulator) this.emulator.terminal.options.screenReaderMode = on;
  }

  private size(): { cols: number; rows: number; xpixel: number; ypixel: number } {
    if (this.mode === 'write') this.emulator?.fit();
    return this.emulator?.size() ?? { cols: 80, rows: 24, xpixel: 0, ypixel: 0 };
  }

  private ready(ready: Ready): void {
    this.mode = ready.mode;
    // What follows draws the whole screen.
    if (ready.resumed || ready.mode === 'watch') this.emulator?.reset();
    if (ready.mode === 'watch') {
      if (this.emulator) this.emulator.terminal.options.disableStdin = true;
      this.follow(ready.cols, ready.rows);
    }
    this.options.ready?.(ready);
  }

  /** A watcher's terminal is as large as the writer's. */
  private follow(cols: number, rows: number): void {
    if (this.mode !== 'watch' || cols < 1 || rows < 1) return;
    this.emulator?.terminal.resize(cols, rows);
    this.emulator?.shrink();
  }

  private resized(): void {
    if (this.mode === 'watch') this.emulator?.shrink();
    else this.emulator?.fit();
  }

  private announce(): void {
    if (this.mode === 'watch') return;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => {
      if (this.emulator && this.live) this.link.resize(this.emulator.size());
    }, RESIZE_REST_MS);
  }

  private key(event: KeyboardEvent): boolean {
    if (event.type !== 'keydown') return true;
    // The terminal takes every key, Tab too; this one leaves it.
    if (event.key === 'F6' && event.shiftKey) {
      event.preventDefault();
      document.querySelector<HTMLElement>('.bar a, .bar button')?.focus();
      return false;
    }
    if (event.ctrlKey && event.shiftKey && event.code === 'KeyC') {
      event.preventDefault();
      const text = this.emulator?.terminal.getSelection();
      if (text) void navigator.clipboard?.writeText(text);
      return false;
    }
    // The browser pastes.
    return !(event.ctrlKey && event.shiftKey && event.code === 'KeyV');
  }

  private phase(phase: Phase): void {
    const wasLive = this.live;
    this.live = phase.is === 'live';
    this.options.phase?.(phase);
    if (this.ended) return;
    switch (phase.is) {
      case 'live':
        this.say(null);
        if (!wasLive) this.focus();
        // The window may have changed while nobody was there to be told.
        this.announce();
        break;
      case 'connecting':
        // Shown only when it takes long, so that a page does not flicker.
        if (this.panel.hidden) this.say('Connecting…');
        break;
      case 'starting':
        this.say(phase.text || 'Starting…');
        break;
      case 'waiting':
        this.say('The connection was lost. The shell is kept, and the page tries again.', [button('Try now', () => void this.link.connect())]);
        break;
      case 'detached':
        this.say(phase.text, [button('Take it back', () => void this.link.connect(), { class: 'primary' })]);
        break;
      case 'over':
        this.ended = true;
        if (this.emulator) this.emulator.terminal.options.disableStdin = true;
        this.say(phase.text, this.options.afterEnd?.() ?? []);
        break;
    }
  }

  private say(text: string | null, buttons: HTMLElement[] = []): void {
    this.panel.hidden = text === null;
    if (text === null) return;
    fill(this.panel, h('p', {}, text), buttons.length > 0 && h('div', { class: 'actions' }, ...buttons));
    // What can be done now is under the fingers; but nobody's typing is torn away for a lost connection.
    if (buttons.length > 0 && document.activeElement?.closest('.emulator')) buttons[0]?.focus();
  }
}
