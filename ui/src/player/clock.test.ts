import { describe, expect, it } from 'vitest';
import { PlayClock, after } from './clock';

describe('after', () => {
  it('finds the first later time', () => {
    expect(after([], 1)).toBe(0);
    expect(after([1, 2, 2, 3], 2)).toBe(3);
    expect(after([1, 2, 3], 0)).toBe(0);
    expect(after([1, 2, 3], 9)).toBe(3);
  });
});

describe('clock', () => {
  it('stands still until it plays, and stops at the end', () => {
    const clock = new PlayClock([0.5, 1], 1);
    clock.advance(1);
    expect(clock.now).toBe(0);
    clock.play();
    clock.advance(0.4);
    expect(clock.now).toBeCloseTo(0.4);
    clock.advance(5);
    expect(clock).toMatchObject({ now: 1, playing: false });
    clock.play();
    expect(clock.now).toBe(0);
  });

  it('goes at its speed', () => {
    const clock = new PlayClock([0, 1, 2, 3, 4], 4);
    clock.speed = 2;
    clock.play();
    clock.advance(1);
    expect(clock.now).toBe(2);
  });

  it('leaves a second of a silence, if it is to', () => {
    const clock = new PlayClock([0, 60], 60);
    clock.play();
    clock.advance(0.9);
    expect(clock.now).toBeCloseTo(0.9);
    clock.advance(0.2);
    expect(clock.now).toBe(60);
    const whole = new PlayClock([0, 60], 60);
    whole.skipIdle = false;
    whole.play();
    whole.advance(1.1);
    expect(whole.now).toBeCloseTo(1.1);
  });

  it('skips a silence at the beginning and one that it was put into', () => {
    const clock = new PlayClock([30, 31], 31);
    clock.play();
    clock.advance(1.5);
    expect(clock.now).toBe(30);
    clock.seek(12);
    clock.advance(0.1);
    expect(clock.now).toBe(30);
  });

  it('keeps within the recording', () => {
    const clock = new PlayClock([1], 5);
    clock.seek(99);
    expect(clock.now).toBe(5);
    clock.seek(-1);
    expect(clock.now).toBe(0);
  });
});
