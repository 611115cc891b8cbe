// The emulator as the terminal page and the player use it: xterm.js with our colours, sizes and links.

import '@xterm/xterm/css/xterm.css';
import { FitAddon } from '@xterm/addon-fit';
import { Unicode11Addon } from '@xterm/addon-unicode11';
import { WebLinksAddon } from '@xterm/addon-web-links';
import { Terminal } from '@xterm/xterm';
import { isDark, onTheme } from '../theme';
import type { Size } from '../types';
import { DARK, LIGHT } from './colours';
import { allowSpanStyles, withoutStyleElements } from './csp';

/** Lines above the screen: what the gateway keeps, so that a reload shows no less. */
const SCROLLBACK = 1000;

const FONT_SIZE = 14;

/** Below this nothing can be read; the terminal is scrolled instead. */
const SMALLEST_FONT = 6;

export interface Emulator {
  terminal: Terminal;
  /** Takes the size of what it is in. */
  fit: () => void;
  /** Keeps columns and rows and takes the largest letters with which they fit. */
  shrink: () => void;
  size: () => Size;
  /** Clears everything, after what was written before. */
  reset: () => void;
  dispose: () => void;
}

export function openEmulator(parent: HTMLElement, how: 'interactive' | 'display'): Emulator {
  allowSpanStyles();
  const terminal = new Terminal({
    allowProposedApi: true,
    convertEol: false,
    cursorBlink: false,
    cursorInactiveStyle: how === 'display' ? 'block' : 'outline',
    disableStdin: how === 'display',
    fontFamily: 'ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace',
    fontSize: FONT_SIZE,
    // The text is the sandbox's: an address that it hides behind other words is shown before it is opened.
    linkHandler: { activate: (_event, address) => openLink(address, true), allowNonHttpProtocols: false },
    scrollback: how === 'display' ? 0 : SCROLLBACK,
    theme: isDark() ? DARK : LIGHT,
  });
  const fitter = new FitAddon();
  terminal.loadAddon(fitter);
  terminal.loadAddon(new Unicode11Addon());
  terminal.loadAddon(new WebLinksAddon((_event, address) => openLink(address, false)));
  terminal.unicode.activeVersion = '11';
  withoutStyleElements(() => terminal.open(parent));
  const stop = onTheme(() => {
    terminal.options.theme = isDark() ? DARK : LIGHT;
  });

  function shrink(): void {
    const screen = parent.querySelector<HTMLElement>('.xterm-screen');
    if (!screen || parent.clientWidth === 0 || screen.offsetWidth === 0) return;
    const font = terminal.options.fontSize ?? FONT_SIZE;
    const room = Math.min(parent.clientWidth / screen.offsetWidth, parent.clientHeight / screen.offsetHeight);
    const next = Math.min(FONT_SIZE, Math.max(SMALLEST_FONT, Math.floor(font * room * 2) / 2));
    if (next !== font) terminal.options.fontSize = next;
  }

  return {
    terminal,
    fit: () => {
      if (parent.clientWidth > 0 && parent.clientHeight > 0) fitter.fit();
    },
    shrink,
    size: () => {
      const screen = parent.querySelector<HTMLElement>('.xterm-screen');
      const pixels = (length: number | undefined) => Math.round((length ?? 0) * devicePixelRatio);
      return { cols: terminal.cols, rows: terminal.rows, xpixel: pixels(screen?.offsetWidth), ypixel: pixels(screen?.offsetHeight) };
    },
    // In the stream, since what was written before may still be in the emulator's queue.
    reset: () => terminal.write('\x1bc'),
    dispose: () => {
      stop();
      terminal.dispose();
    },
  };
}

function openLink(address: string, hidden: boolean): void {
  if (!/^https?:\/\//i.test(address)) return;
  if (hidden && !confirm(`Open this address?\n\n${address}`)) return;
  window.open(address, '_blank', 'noopener,noreferrer');
}
