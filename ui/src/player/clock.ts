// The time of a replay, without a clock of its own: it is told how much real time has passed.

export const SPEEDS = [0.5, 1, 2, 4, 8] as const;

/** What is left of a silence when idle time is skipped, in seconds of the recording. */
const IDLE_KEPT = 1;

export class PlayClock {
  /** Seconds into the recording. */
  now = 0;
  speed = 1;
  skipIdle = true;
  playing = false;

  /** `times` are those of the events, ascending. */
  constructor(private readonly times: readonly number[], readonly end: number) {}

  play(): void {
    if (this.now >= this.end) this.now = 0;
    this.playing = true;
  }

  pause(): void {
    this.playing = false;
  }

  seek(to: number): void {
    this.now = Math.min(this.end, Math.max(0, to));
  }

  /** Moves on by `elapsed` seconds of real time. At the end it pauses. */
  advance(elapsed: number): void {
    if (!this.playing) return;
    const from = this.now;
    let to = from + Math.max(0, elapsed) * this.speed;
    if (this.skipIdle) {
      const next = this.times[after(this.times, from)] ?? this.end;
      const last = this.times[after(this.times, from) - 1] ?? 0;
      // A silence that has lasted long enough ends here.
      if (next - last > IDLE_KEPT && to - last > IDLE_KEPT) to = Math.max(to, next);
    }
    this.now = Math.min(this.end, to);
    if (this.now >= this.end) this.playing = false;
  }
}

/** The index of the first of the ascending `times` that is later than `at`. */
export function after(times: readonly number[], at: number): number {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((times[middle] ?? 0) <= at) low = middle + 1;
    else high = middle;
  }
  return low;
}
