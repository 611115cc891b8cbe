// Sixteen colours for light and for dark, each readable on its background.

import type { ITheme } from '@xterm/xterm';

export const DARK: ITheme = {
  background: '#101215', foreground: '#dfe2e5', cursor: '#dfe2e5', cursorAccent: '#101215', selectionBackground: '#3a4a5c',
  black: '#2b3036', red: '#ef7b72', green: '#7cc48a', yellow: '#dcb867', blue: '#79a9ee', magenta: '#c796e0', cyan: '#62c1cc', white: '#c8cdd2',
  brightBlack: '#7c858f', brightRed: '#ff9a92', brightGreen: '#9adba6', brightYellow: '#f0cf85', brightBlue: '#9ec3fb',
  brightMagenta: '#dcb3ef', brightCyan: '#86d8e1', brightWhite: '#f5f6f7',
};

export const LIGHT: ITheme = {
  background: '#ffffff', foreground: '#1c1e21', cursor: '#1c1e21', cursorAccent: '#ffffff', selectionBackground: '#bcd6f2',
  black: '#1c1e21', red: '#b3261e', green: '#1b6e33', yellow: '#7a5600', blue: '#1f58b0', magenta: '#84309c', cyan: '#0b6b77', white: '#5d636b',
  brightBlack: '#6b727a', brightRed: '#c9362d', brightGreen: '#237f3d', brightYellow: '#8a6200', brightBlue: '#2c68c6',
  brightMagenta: '#9a42b4', brightCyan: '#127c89', brightWhite: '#3c4147',
};
