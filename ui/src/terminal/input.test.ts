import { expect, it } from 'vitest';
import { MOST_MESSAGE, encodeBinary, encodeText, split } from './input';

it('splits a paste of 100 KB and loses nothing', () => {
  const data = encodeText('ä'.repeat(50_000));
  const parts = split(data);
  expect(parts.map((part) => part.length)).toEqual([MOST_MESSAGE, MOST_MESSAGE, MOST_MESSAGE, 100_000 - 3 * MOST_MESSAGE]);
  expect(new TextDecoder().decode(Uint8Array.from(parts.flatMap((part) => [...part])))).toBe('ä'.repeat(50_000));
  expect(split(encodeText(''))).toEqual([]);
});

it('takes one byte of each character of a mouse report', () => {
  expect([...encodeBinary('\x1b[M \xff\x80')]).toEqual([0x1b, 0x5b, 0x4d, 0x20, 0xff, 0x80]);
});
