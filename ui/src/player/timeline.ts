// Recordings of sessions without a terminal: a line for each thing that was done.

import { clock, exact } from '../format';

/** A terminal's header has `term` (or `width`, in v2); a timeline's lines are objects throughout. */
export function isTimeline(text: string): boolean {
  const lines = text.split('\n', 50).filter((line) => line.trim() !== '' && !line.startsWith('#'));
  const parsed = lines.slice(0, 2).map((line): unknown => {
    try {
      return JSON.parse(line);
    } catch {
      return null;
    }
  });
  const [first, second] = parsed;
  if (typeof first !== 'object' || first === null) return false;
  return !('term' in first || 'width' in first) && !Array.isArray(second);
}

/** When, and the rest as `name: value`. What the lines hold depends on the kind of session. */
export function timelineRow(line: string): [string, string] {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return ['', line];
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return ['', line];
  const { at, time, t, ...rest } = value as Record<string, unknown>;
  const when = at ?? time ?? t;
  const text = Object.entries(rest)
    .filter(([, content]) => content !== null)
    .map(([name, content]) => `${name}: ${typeof content === 'string' ? content : JSON.stringify(content)}`)
    .join('  ');
  return [typeof when === 'number' ? clock(when) : typeof when === 'string' ? exact(when) : '', text];
}
