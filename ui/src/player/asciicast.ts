// Reads asciicast v3 (and v2): a header line, then one JSON array a line, `[seconds, code, text]`.
//
// In v3 the seconds count from the line before, in v2 from the start. Lines that begin with `#` are comments. A recording of a
// gateway that was killed ends within a line; what is before it is good.

export type Event =
  | { at: number; is: 'output'; text: string }
  | { at: number; is: 'input'; text: string }
  | { at: number; is: 'resize'; cols: number; rows: number }
  | { at: number; is: 'marker'; text: string }
  | { at: number; is: 'exit'; code: number };

export interface Cast {
  cols: number;
  rows: number;
  title: string | null;
  /** In order of time. */
  events: Event[];
  seconds: number;
  /** The last line was cut off. */
  truncated: boolean;
}

/** A file that is no recording. */
export class BadCast extends Error {}

export function parseCast(text: string): Cast {
  const lines = text.split('\n');
  let start = 0;
  while (start < lines.length && skipped(lines[start] ?? '')) start += 1;
  const header = readHeader(lines[start] ?? '');
  const cast: Cast = { ...header.cast, events: [], seconds: 0, truncated: false };
  let last = lines.length - 1;
  while (last > start && skipped(lines[last] ?? '')) last -= 1;
  for (let index = start + 1; index <= last; index += 1) {
    const line = lines[index] ?? '';
    if (skipped(line)) continue;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      if (index !== last) throw new BadCast(`Line ${index + 1} of the recording cannot be read.`);
      cast.truncated = true;
      break;
    }
    if (!Array.isArray(value) || typeof value[0] !== 'number' || typeof value[1] !== 'string') {
      throw new BadCast(`Line ${index + 1} of the recording is no event.`);
    }
    const seconds: number = value[0];
    // Time does not run backwards, whatever is written.
    cast.seconds = header.relative ? cast.seconds + Math.max(0, seconds) : Math.max(cast.seconds, seconds);
    const event = readEvent(cast.seconds, value[1], typeof value[2] === 'string' ? value[2] : String(value[2] ?? ''));
    if (event) cast.events.push(event);
  }
  return cast;
}

function skipped(line: string): boolean {
  return line.trim() === '' || line.startsWith('#');
}

function readHeader(line: string): { relative: boolean; cast: { cols: number; rows: number; title: string | null } } {
  let header: unknown;
  try {
    header = JSON.parse(line);
  } catch {
    throw new BadCast('The recording has no header.');
  }
  if (typeof header !== 'object' || header === null) throw new BadCast('The recording has no header.');
  const all = header as Record<string, unknown>;
  const title = typeof all.title === 'string' ? all.title : null;
  if (all.version === 3) {
    const term = (typeof all.term === 'object' && all.term !== null ? all.term : {}) as Record<string, unknown>;
    return { relative: true, cast: { cols: dimension(term.cols, 80), rows: dimension(term.rows, 24), title } };
  }
  if (all.version === 2) {
    return { relative: false, cast: { cols: dimension(all.width, 80), rows: dimension(all.height, 24), title } };
  }
  throw new BadCast('The recording has a version that this player does not know.');
}

function readEvent(at: number, code: string, text: string): Event | null {
  switch (code) {
    case 'o':
      return { at, is: 'output', text };
    case 'i':
      return { at, is: 'input', text };
    case 'm':
      return { at, is: 'marker', text };
    case 'x':
      return { at, is: 'exit', code: Number.parseInt(text, 10) || 0 };
    case 'r': {
      const size = /^(\d+)x(\d+)$/.exec(text);
      return size ? { at, is: 'resize', cols: dimension(Number(size[1]), 80), rows: dimension(Number(size[2]), 24) } : null;
    }
    default:
      return null;
  }
}

/** The gateway clamps to the same range. */
function dimension(value: unknown, otherwise: number): number {
  return typeof value === 'number' && Number.isInteger(value) ? Math.min(1000, Math.max(1, value)) : otherwise;
}
