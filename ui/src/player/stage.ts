// Draws a recording as it was at a time. Forward it writes on; backward it begins again.

import type { Emulator } from '../terminal/emulator';
import type { Cast } from './asciicast';
import { after } from './clock';

/** Characters given to the emulator at once. It is waited for before more, so that a long jump does not fill its queue. */
const LUMP = 128 * 1024;

export class Stage {
  /** Events that have been drawn. */
  private drawn = 0;
  private wanted = 0;
  private working = false;
  private readonly times: number[];

  constructor(private readonly emulator: Emulator, private readonly cast: Cast) {
    this.times = cast.events.map((event) => event.at);
    emulator.terminal.resize(cast.cols, cast.rows);
  }

  /** Goes to a time. A later call replaces one that is under way. */
  show(at: number): void {
    this.wanted = after(this.times, at);
    if (!this.working && this.wanted !== this.drawn) void this.work();
  }

  private async work(): Promise<void> {
    this.working = true;
    while (this.wanted !== this.drawn) {
      if (this.wanted < this.drawn) {
        this.emulator.terminal.reset();
        this.emulator.terminal.resize(this.cast.cols, this.cast.rows);
        this.drawn = 0;
      }
      await this.step();
    }
    this.working = false;
    this.emulator.shrink();
  }

  /** Draws a lump of events, and waits until the emulator has. */
  private step(): Promise<void> {
    let text = '';
    while (this.drawn < this.wanted && text.length < LUMP) {
      const event = this.cast.events[this.drawn];
      if (event?.is === 'resize') {
        // The size changes between what was printed before and after.
        if (text !== '') break;
        this.emulator.terminal.resize(event.cols, event.rows);
      } else if (event?.is === 'output') {
        text += event.text;
      }
      this.drawn += 1;
    }
    return new Promise((resolve) => this.emulator.terminal.write(text, resolve));
  }
}
