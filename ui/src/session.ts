// Who is logged in, and what the role allows. The gateway decides; this only leaves out what it would refuse.

import { api } from './api';
import type { Role, Whoami } from './types';

const RANK: Record<Role, number> = { viewer: 0, user: 1, admin: 2 };

let known: Whoami | null = null;

/** Asks once, until the login changes. */
export async function whoami(): Promise<Whoami> {
  known ??= await api.whoami();
  return known;
}

export function forget(): void {
  known = null;
}

export function can(role: Role): boolean {
  return known !== null && RANK[known.role] >= RANK[role];
}
