// What the address brought behind its `#`: a login code, or the ticket of an embedded terminal. It leaves the address bar before
// anything else is loaded, and each secret is handed out once.

const given = new URLSearchParams(location.hash.slice(1));
if (given.has('login') || given.has('ticket')) history.replaceState(history.state, '', location.pathname + location.search);

export function takeFromFragment(name: 'login' | 'ticket'): string | null {
  const secret = given.get(name);
  given.delete(name);
  return secret;
}
