import { describe, expect, it } from 'vitest';
import { BadCast, parseCast } from './asciicast';

const V3 = '{"version":3,"term":{"cols":100,"rows":30}}';

describe('asciicast', () => {
  it('adds up the intervals of v3', () => {
    const cast = parseCast(`${V3}\n[0.5,"o","a"]\n# comment\n\n[1.5,"i","b"]\n[1,"r","120x40"]\n[0,"m","mark"]\n[2,"x","3"]\n`);
    expect(cast).toMatchObject({ cols: 100, rows: 30, seconds: 5, truncated: false });
    expect(cast.events).toEqual([
      { at: 0.5, is: 'output', text: 'a' },
      { at: 2, is: 'input', text: 'b' },
      { at: 3, is: 'resize', cols: 120, rows: 40 },
      { at: 3, is: 'marker', text: 'mark' },
      { at: 5, is: 'exit', code: 3 },
    ]);
  });

  it('takes the times of v2 as they are', () => {
    const cast = parseCast('{"version":2,"width":80,"height":24,"title":"t"}\n[1,"o","a"]\n[4,"o","b"]');
    expect(cast).toMatchObject({ cols: 80, rows: 24, title: 't', seconds: 4 });
    expect(cast.events.map((event) => event.at)).toEqual([1, 4]);
  });

  it('never runs backwards', () => {
    expect(parseCast(`${V3}\n[2,"o","a"]\n[-1,"o","b"]`).events.map((event) => event.at)).toEqual([2, 2]);
    expect(parseCast('{"version":2}\n[2,"o","a"]\n[1,"o","b"]').events.map((event) => event.at)).toEqual([2, 2]);
  });

  it('keeps what is before a last line that was cut off', () => {
    const cast = parseCast(`${V3}\n[1,"o","whole"]\n[1,"o","cut`);
    expect(cast.truncated).toBe(true);
    expect(cast.events).toHaveLength(1);
  });

  it('leaves out what it does not know', () => {
    const cast = parseCast(`${V3}\n[1,"z","?"]\n[1,"r","wide"]\n[1,"o","a"]`);
    expect(cast.events).toEqual([{ at: 3, is: 'output', text: 'a' }]);
  });

  it('bounds a hostile size', () => {
    expect(parseCast('{"version":3,"term":{"cols":1e9,"rows":-4}}')).toMatchObject({ cols: 1000, rows: 1 });
    expect(parseCast('{"version":3,"term":{"cols":"x"}}')).toMatchObject({ cols: 80, rows: 24 });
  });

  it.each([
    ['', 'header'], ['hello', 'header'], ['null', 'header'], ['{"version":9}', 'version'],
    [`${V3}\nbroken\n[1,"o","a"]`, 'Line 2'], [`${V3}\n{"a":1}`, 'no event'],
  ])('refuses %j', (text, why) => {
    expect(() => parseCast(text)).toThrow(BadCast);
    expect(() => parseCast(text)).toThrow(why);
  });
});
