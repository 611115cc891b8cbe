import { describe, expect, it } from 'vitest';
import { cpuShare, percent, usageParts } from './usage';

const MIB = 2 ** 20;

describe('usage', () => {
  it.each([[0, '0 %'], [0.0004, '0 %'], [0.0042, '0.4 %'], [0.0999, '10.0 %'], [0.5, '50 %'], [2.004, '200 %']])('percent(%d)', (share, text) => {
    expect(percent(share)).toBe(text);
  });
  it('the share of a processor is that between two looks', () => {
    const seen = (cpu: number | undefined, at: number) => ({ usage: cpu === undefined ? {} : { cpu_seconds: cpu }, at });
    expect(cpuShare(seen(10, 1000), seen(12, 5000))).toBe(0.5);
    expect(cpuShare(undefined, seen(12, 5000))).toBeUndefined();
    expect(cpuShare(seen(10, 5000), seen(12, 5000))).toBeUndefined();
    expect(cpuShare(seen(12, 1000), seen(1, 5000)), 'it was started anew').toBeUndefined();
    expect(cpuShare(seen(undefined, 1000), seen(1, 5000))).toBeUndefined();
  });
  it('says what is known, and nothing of the rest', () => {
    const all = { memory_bytes: 128 * MIB, memory_limit_bytes: 1024 * MIB, cpu_seconds: 3.21, processes: 7, processes_limit: 4096 };
    expect(usageParts(all, 0.25)).toEqual(['128 MiB of 1 GiB', '25 % CPU', '7 of 4096 processes']);
    expect(usageParts(all, undefined)).toEqual(['128 MiB of 1 GiB', '3.2 s CPU', '7 of 4096 processes']);
    expect(usageParts({ memory_bytes: 1536 * MIB }, undefined)).toEqual(['1.5 GiB']);
    expect(usageParts({ processes: 1 }, undefined)).toEqual(['1 process']);
    expect(usageParts({}, undefined)).toEqual([]);
  });
});
