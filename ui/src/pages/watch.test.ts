import { expect, it } from 'vitest';
import { watchHref } from './watch';

it('leads to what can be watched', () => {
  const session = { id: 'ses-1', sandbox: 'a b', pty: true, terminal: null };
  expect(watchHref({ ...session, terminal: 'trm-1' })).toBe('/terminal/a%20b/trm-1?watch=1');
  expect(watchHref(session)).toBe('/terminal/a%20b/ses-1?watch=session');
  expect(watchHref({ ...session, pty: false })).toBeNull();
});
