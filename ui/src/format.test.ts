import { describe, expect, it } from 'vitest';
import { bytes, clock, duration, relative } from './format';

describe('format', () => {
  it.each([[0, '0 B'], [1023, '1023 B'], [1024, '1 KiB'], [1536, '1.5 KiB'], [512 * 2 ** 20, '512 MiB'], [3.25 * 2 ** 30, '3.3 GiB']])('bytes(%d)', (count, text) => {
    expect(bytes(count)).toBe(text);
  });
  it.each([[0, '0 s'], [59.6, '1 min'], [75, '1 min 15 s'], [3600, '1 h'], [3605, '1 h'], [90_000, '1 d 1 h'], [-3, '0 s']])('duration(%d)', (seconds, text) => {
    expect(duration(seconds)).toBe(text);
  });
  it.each([[0, '0:00'], [75.9, '1:15'], [3725, '1:02:05']])('clock(%d)', (seconds, text) => {
    expect(clock(seconds)).toBe(text);
  });
  it('says how long ago, and how long still', () => {
    const now = Date.parse('2026-01-01T00:00:00Z');
    expect(relative('2025-12-31T23:54:50Z', now)).toBe('5 min ago');
    expect(relative('2026-01-02T01:00:00Z', now)).toBe('in 1 d');
    expect(relative('2026-01-01T00:00:01Z', now)).toBe('now');
    expect(relative('never', now)).toBe('never');
  });
});
