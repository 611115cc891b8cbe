import { expect, it } from 'vitest';
import { match } from './router';

it.each([
  ['/', '/', []],
  ['/sandboxes/:', '/sandboxes/a%20b', ['a b']],
  ['/terminal/:/:', '/terminal/demo/trm_1', ['demo', 'trm_1']],
  ['/terminal/:', '/terminal/demo/trm_1', null],
  ['/sandboxes/:', '/sandboxes/%E0%A4%A', null],
  ['/tokens', '/token', null],
])('%s against %s', (pattern, path, open) => {
  expect(match(pattern, path)).toEqual(open);
});
