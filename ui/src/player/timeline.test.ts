import { expect, it } from 'vitest';
import { isTimeline, timelineRow } from './timeline';

it('tells a timeline from a terminal', () => {
  expect(isTimeline('{"at":1,"event":"start"}\n{"at":2}\n')).toBe(true);
  expect(isTimeline('{"version":3,"term":{"cols":80}}\n[1,"o","a"]\n')).toBe(false);
  expect(isTimeline('{"version":2,"width":80}')).toBe(false);
  expect(isTimeline('')).toBe(false);
});

it('shows any line of a timeline', () => {
  expect(timelineRow('{"at":75,"event":"write","path":"/a","n":3,"x":null}')).toEqual(['1:15', 'event: write  path: /a  n: 3']);
  expect(timelineRow('cut')).toEqual(['', 'cut']);
});
