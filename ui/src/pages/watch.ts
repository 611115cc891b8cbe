// Where a session is watched.

import type { Session } from '../types';

/** The read-only page of a session; null if there is nothing to see. A page's own terminal is known with its whole screen. */
export function watchHref(session: Pick<Session, 'id' | 'sandbox' | 'pty' | 'terminal'>): string | null {
  const to = (id: string, how: string) => `/terminal/${encodeURIComponent(session.sandbox)}/${encodeURIComponent(id)}?watch=${how}`;
  if (session.terminal) return to(session.terminal, '1');
  return session.pty ? to(session.id, 'session') : null;
}
