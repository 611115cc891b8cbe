import { describe, expect, it } from 'vitest';
import type { Event } from './asciicast';
import { PlainText, TextIndex } from './text';

const output = (at: number, text: string): Event => ({ at, is: 'output', text });

describe('plain text', () => {
  it.each([
    ['\x1b[1;32mgreen\x1b[0m', 'green'],
    ['\x1b]0;title\x07after', 'after'],
    ['\x1b]8;;https://x\x1b\\link\x1b]8;;\x1b\\', 'link'],
    ['\x1bP1$r0m\x1b\\dcs', 'dcs'],
    ['\x1b(Bset\x1b7\x1b8', 'set'],
    ['a\tb\r\nc', 'a b\nc'],
    ['ab\bc', 'ac'],
    ['\x1b[31', ''],
    ['漢字 🙂', '漢字 🙂'],
  ])('of %j', (text, plain) => {
    expect(new PlainText().push(text)).toBe(plain);
  });

  it('goes on where a sequence was cut', () => {
    const text = '\x1b[38;2;1;2;3mred\x1b]2;a title\x1b\\ end';
    for (let cut = 0; cut <= text.length; cut += 1) {
      const plain = new PlainText();
      expect(plain.push(text.slice(0, cut)) + plain.push(text.slice(cut))).toBe('red end');
    }
  });
});

describe('index', () => {
  it('finds text across events and colours, whatever its case', () => {
    const index = new TextIndex([output(1, 'l'), output(2, '\x1b[1ms'), output(3, '\x1b[0m -la\r\n'), output(4, 'Total 8, ls'), { at: 5, is: 'input', text: 'secret' }]);
    expect(index.find('LS')).toEqual([2, 4]);
    expect(index.find('ls -la')).toEqual([3]);
    expect(index.find('total')).toEqual([4]);
    expect(index.find('secret')).toEqual([]);
    expect(index.find('')).toEqual([]);
  });

  it('names each time once, and no more than it is asked for', () => {
    const index = new TextIndex([output(1, 'xxx'), output(2, 'x'), output(3, 'x')]);
    expect(index.find('x')).toEqual([1, 2, 3]);
    expect(index.find('x', 2)).toEqual([1, 2]);
  });
});
