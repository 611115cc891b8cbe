// Variables as people type them.

/** `NAME=value` lines; the value may hold more equals signs. */
export function readEnv(text: string): [string, string][] {
  return text.split('\n').filter((line) => line.trim() !== '').map((line) => {
    const at = line.indexOf('=');
    if (at < 1) throw new Error(`“${line.slice(0, 40)}” is no variable; write NAME=value.`);
    return [line.slice(0, at).trim(), line.slice(at + 1)];
  });
}
