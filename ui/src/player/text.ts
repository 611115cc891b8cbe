// The text of a recording, for search: what was printed, without the sequences that colour it and move the cursor.

import type { Event } from './asciicast';
import { after } from './clock';

type State = 'ground' | 'escape' | 'csi' | 'string' | 'string-escape' | 'charset';

/** Takes escape sequences out of a stream that may be cut anywhere. */
export class PlainText {
  private state: State = 'ground';

  push(text: string): string {
    let plain = '';
    for (const character of text) {
      const code = character.codePointAt(0) ?? 0;
      switch (this.state) {
        case 'ground':
          if (code === 0x1b) this.state = 'escape';
          else if (code === 0x0a) plain += '\n';
          else if (code === 0x09) plain += ' ';
          // A backspace takes a letter away where it is still at hand.
          else if (code === 0x08) plain = plain.slice(0, -1);
          else if (code >= 0x20 && code !== 0x7f && !(code >= 0x80 && code < 0xa0)) plain += character;
          break;
        case 'escape':
          if (character === '[') this.state = 'csi';
          else if (character === ']' || character === 'P' || character === '_' || character === '^' || character === 'X') this.state = 'string';
          else if ('()*+-./#% '.includes(character)) this.state = 'charset';
          else this.state = 'ground';
          break;
        case 'csi':
          if (code >= 0x40 && code <= 0x7e) this.state = 'ground';
          else if (code === 0x1b) this.state = 'escape';
          break;
        case 'string':
          if (code === 0x07 || code === 0x9c) this.state = 'ground';
          else if (code === 0x1b) this.state = 'string-escape';
          break;
        case 'string-escape':
          this.state = character === '\\' ? 'ground' : 'string';
          break;
        case 'charset':
          this.state = 'ground';
          break;
      }
    }
    return plain;
  }
}

export class TextIndex {
  private readonly text: string;
  /** Where in the text each piece of output ends, ascending, and when it was printed. */
  private readonly ends: number[] = [];
  private readonly times: number[] = [];

  constructor(events: readonly Event[]) {
    const plain = new PlainText();
    const pieces: string[] = [];
    let length = 0;
    for (const event of events) {
      if (event.is !== 'output') continue;
      const piece = plain.push(event.text);
      if (piece === '') continue;
      pieces.push(piece);
      length += piece.length;
      this.ends.push(length);
      this.times.push(event.at);
    }
    this.text = pieces.join('').toLowerCase();
  }

  /** When the last letter of each place with `wanted` was printed; upper and lower case are the same. At most `most` places. */
  find(wanted: string, most = 1000): number[] {
    const needle = wanted.toLowerCase();
    const found: number[] = [];
    if (needle === '') return found;
    let at = this.text.indexOf(needle);
    while (at !== -1 && found.length < most) {
      const time = this.times[after(this.ends, at + needle.length - 1)];
      if (time !== undefined && time !== found.at(-1)) found.push(time);
      at = this.text.indexOf(needle, at + needle.length);
    }
    return found;
  }
}
