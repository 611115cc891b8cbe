// History paths, one page at a time.

export interface Page {
  title: string;
  view: HTMLElement;
  /** Full window, without the frame of the dashboard. */
  bare?: boolean;
  /** Stops timers and sockets. */
  leave?: () => void;
}

export type Loader = (parameters: string[], query: URLSearchParams) => Page | Promise<Page>;

/** A pattern such as `/terminal/:/:`; each `:` is one segment that is handed over decoded. */
export interface Route {
  pattern: string;
  load: Loader;
}

/** The segments that `pattern` leaves open, or null if `path` is another one. */
export function match(pattern: string, path: string): string[] | null {
  const wanted = pattern.split('/').filter(Boolean);
  const given = path.split('/').filter(Boolean);
  if (wanted.length !== given.length) return null;
  const open: string[] = [];
  for (const [index, segment] of wanted.entries()) {
    const text = given[index] ?? '';
    if (segment === ':') {
      try {
        open.push(decodeURIComponent(text));
      } catch {
        return null;
      }
    } else if (segment !== text) {
      return null;
    }
  }
  return open;
}

export class Router {
  private current: Page | null = null;
  /** Counts navigations, so that a slow page does not replace a later one. */
  private turn = 0;

  constructor(
    private readonly routes: Route[],
    private readonly missing: Loader,
    private readonly show: (page: Page) => void,
    private readonly failed: (error: unknown) => Page,
  ) {}

  start(): void {
    addEventListener('popstate', () => void this.load());
    document.addEventListener('click', (event) => this.follow(event));
    void this.load();
  }

  go(to: string, how: 'push' | 'replace' = 'push', state: unknown = null): void {
    if (how === 'push') history.pushState(state, '', to);
    else history.replaceState(state, '', to);
    void this.load();
  }

  async load(): Promise<void> {
    this.turn += 1;
    const turn = this.turn;
    let page: Page;
    try {
      page = await this.find();
    } catch (error) {
      page = this.failed(error);
    }
    if (turn !== this.turn) {
      page.leave?.();
      return;
    }
    this.current?.leave?.();
    this.current = page;
    this.show(page);
  }

  private find(): Page | Promise<Page> {
    const query = new URLSearchParams(location.search);
    for (const route of this.routes) {
      const parameters = match(route.pattern, location.pathname);
      if (parameters) return route.load(parameters, query);
    }
    return this.missing([], query);
  }

  private follow(event: MouseEvent): void {
    if (event.defaultPrevented || event.button !== 0) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target instanceof Element ? event.target.closest('a') : null;
    if (!link || link.target || link.hasAttribute('download')) return;
    const to = new URL(link.href, location.href);
    if (to.origin !== location.origin || to.pathname.startsWith('/api/') || link.getAttribute('href')?.startsWith('#')) return;
    event.preventDefault();
    this.go(to.pathname + to.search);
  }
}
