// Asking again and again while somebody looks.

/** Runs `ask` now and then every `every` milliseconds while the page is visible. `now` asks at once. */
export function poll(every: number, ask: () => Promise<void>): { now: () => void; stop: () => void } {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let stopped = false;
  let running = false;
  let again = false;

  async function run(): Promise<void> {
    clearTimeout(timer);
    if (stopped) return;
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      if (!document.hidden) await ask();
    } finally {
      running = false;
    }
    if (stopped) return;
    timer = setTimeout(() => void run(), again ? 0 : every);
    again = false;
  }

  const seen = () => {
    if (!document.hidden) void run();
  };
  document.addEventListener('visibilitychange', seen);
  void run();
  return {
    now: () => void run(),
    stop: () => {
      stopped = true;
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', seen);
    },
  };
}
