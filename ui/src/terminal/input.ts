// What is typed and pasted, as messages that the gateway takes.

/** The gateway takes 64 KiB; half of it leaves room and lets a resize pass between the parts of a paste. */
export const MOST_MESSAGE = 32 * 1024;

const encoder = new TextEncoder();

/** Text as the terminal gives it, in UTF-8. */
export function encodeText(text: string): Uint8Array<ArrayBuffer> {
  return encoder.encode(text);
}

/** Old mouse reports: each character is one byte. */
export function encodeBinary(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text, (character) => character.charCodeAt(0) & 0xff);
}

/** The bytes in parts of at most [`MOST_MESSAGE`]. They are a stream, so a part may end within a character. */
export function split(data: Uint8Array<ArrayBuffer>, most: number = MOST_MESSAGE): Uint8Array<ArrayBuffer>[] {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  for (let start = 0; start < data.length; start += most) parts.push(data.subarray(start, start + most));
  return parts;
}
