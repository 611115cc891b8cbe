import { expect, it } from 'vitest';
import { readEnv } from './env';

it('reads variables', () => {
  expect(readEnv('A=1\n\nB=x=y \n')).toEqual([['A', '1'], ['B', 'x=y ']]);
  expect(() => readEnv('nonsense')).toThrow('nonsense');
  expect(() => readEnv('=1')).toThrow();
});
