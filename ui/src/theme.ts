// Light, dark, or as the system says. The choice is the only thing kept in local storage.

const KEY = 'sandgate.theme';

export type Choice = 'auto' | 'light' | 'dark';

const listeners = new Set<() => void>();
const system = matchMedia('(prefers-color-scheme: dark)');

export function chosenTheme(): Choice {
  try {
    const stored = localStorage.getItem(KEY);
    return stored === 'light' || stored === 'dark' ? stored : 'auto';
  } catch {
    return 'auto';
  }
}

export function isDark(): boolean {
  const choice = chosenTheme();
  return choice === 'auto' ? system.matches : choice === 'dark';
}

export function chooseTheme(choice: Choice): void {
  try {
    if (choice === 'auto') localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, choice);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
  apply(choice);
}

/** Calls `listener` when light becomes dark or back; the answer stops that. */
export function onTheme(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function startTheme(): void {
  apply(chosenTheme());
  system.addEventListener('change', tell);
}

function apply(choice: Choice): void {
  if (choice === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
  tell();
}

function tell(): void {
  for (const listener of listeners) listener();
}
