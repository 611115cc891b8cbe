// What a sandbox uses: memory with a bar, the share of a processor since the last look, processes.

import { fill, h, unique } from '../dom';
import { bytes } from '../format';
import type { Usage } from '../types';

/** A usage, and when it was known, in milliseconds. */
interface Seen {
  usage: Usage;
  at: number;
}

/** How much of one processor was used between two looks; 1 is one whole one. Nothing for the first look, and after a new start. */
export function cpuShare(before: Seen | undefined, now: Seen): number | undefined {
  const [from, to] = [before?.usage.cpu_seconds, now.usage.cpu_seconds];
  if (!before || from === undefined || to === undefined || to < from || now.at <= before.at) return undefined;
  return (to - from) / ((now.at - before.at) / 1000);
}

/** `0.034` is `3.4 %`; what is less than a thousandth is nothing. */
export function percent(share: number): string {
  const value = share * 100;
  return `${value.toFixed(value >= 10 || value < 0.05 ? 0 : 1)} %`;
}

/** The parts of the line, in their order; those that are not known are left out. */
export function usageParts(usage: Usage, share: number | undefined): string[] {
  const of = (now: string, most: string | undefined) => (most === undefined ? now : `${now} of ${most}`);
  const size = (count: number | undefined) => (count === undefined ? undefined : bytes(count));
  const parts: string[] = [];
  if (usage.memory_bytes !== undefined) parts.push(of(bytes(usage.memory_bytes), size(usage.memory_limit_bytes)));
  if (share !== undefined) parts.push(`${percent(share)} CPU`);
  else if (usage.cpu_seconds !== undefined) parts.push(`${usage.cpu_seconds.toFixed(1)} s CPU`);
  if (usage.processes !== undefined) {
    const count = of(String(usage.processes), usage.processes_limit?.toString());
    parts.push(usage.processes === 1 && usage.processes_limit === undefined ? '1 process' : `${count} processes`);
  }
  return parts;
}

/** What one sandbox uses, drawn anew with each look and otherwise left in its place. */
export class UsageLine {
  readonly view = h('div', { class: 'usage' });
  private last: Seen | undefined;

  show(usage: Usage | undefined, at: number = performance.now()): void {
    if (!usage) {
      this.last = undefined;
      fill(this.view, '–');
      return;
    }
    const now = { usage, at };
    const [first, ...rest] = usageParts(usage, cpuShare(this.last, now));
    this.last = now;
    const { memory_bytes: used, memory_limit_bytes: most } = usage;
    const label = h('span', { id: unique('usage') }, first ?? '–');
    const bar = used !== undefined && most !== undefined && most > 0
      && h('meter', { min: 0, max: most, value: Math.min(used, most), high: most * 0.9, 'aria-labelledby': label.id });
    fill(this.view, bar, label, ...rest.map((text) => h('span', { class: 'sub' }, text)));
  }
}

/** The lines of many sandboxes, by their identifiers. */
export class UsageLines {
  private readonly lines = new Map<string, UsageLine>();

  /** Shows what these use, and forgets all others. */
  show(boxes: readonly { id: string; usage?: Usage }[]): void {
    const known = new Set(boxes.map((box) => box.id));
    for (const id of this.lines.keys()) if (!known.has(id)) this.lines.delete(id);
    for (const box of boxes) this.of(box.id).show(box.usage);
  }

  of(id: string): UsageLine {
    let line = this.lines.get(id);
    if (!line) {
      line = new UsageLine();
      this.lines.set(id, line);
    }
    return line;
  }
}
