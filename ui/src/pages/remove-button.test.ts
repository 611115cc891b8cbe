import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { confirmDialog } from '../dialog';
import { removeButton } from './remove-button';

vi.mock('../dialog', () => ({ confirmDialog: vi.fn() }));

/** As much of an element as a button and a notice need. */
class FakeElement {
  disabled = false;
  isConnected = true;
  childElementCount = 0;
  attributes: Record<string, string> = {};
  content: unknown[] = [];
  private listeners: (() => void)[] = [];

  constructor(readonly tag: string) {}
  setAttribute(name: string, value: string): void {
    this.attributes[name] = value;
  }
  addEventListener(_: string, listener: () => void): void {
    this.listeners.push(listener);
  }
  append(...content: unknown[]): void {
    this.content.push(...content);
  }
  remove(): void {}
  /** As a person does, and then waits for what comes of it. */
  async click(): Promise<void> {
    if (!this.disabled) for (const listener of this.listeners) listener();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

let made: FakeElement[] = [];

beforeEach(() => {
  made = [];
  vi.useFakeTimers({ toFake: ['setTimeout'] });
  vi.stubGlobal('Node', FakeElement);
  vi.stubGlobal('document', {
    body: new FakeElement('body'),
    createElement: (tag: string) => {
      const element = new FakeElement(tag);
      made.push(element);
      return element;
    },
  });
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.mocked(confirmDialog).mockReset();
});

/** What was said at the bottom of the window. */
function notices(): unknown[] {
  return made.filter((element) => element.tag === 'p').flatMap((line) => line.content);
}

function world(remove: () => Promise<void> = () => Promise.resolve()) {
  const around = { remove: vi.fn(remove), removed: vi.fn() };
  const button = removeButton({ kind: 'key', name: 'laptop', text: 'Its connections end.', ...around });
  return { ...around, button: button as unknown as FakeElement };
}

describe('the button that removes', () => {
  it('says what it removes', () => {
    const { button } = world();
    expect(button.content).toEqual(['Remove']);
    expect(button.attributes['aria-label']).toBe('Remove laptop');
  });

  it('asks, removes, says so and shows what is left', async () => {
    vi.mocked(confirmDialog).mockResolvedValue(true);
    const { button, remove, removed } = world();
    await button.click();
    expect(confirmDialog).toHaveBeenCalledExactlyOnceWith({ title: 'Remove this key?', text: 'Its connections end.', action: 'Remove' });
    expect(remove).toHaveBeenCalledOnce();
    expect(removed).toHaveBeenCalledOnce();
    expect(notices()).toEqual(['The key was removed.']);
  });

  it('does nothing when the answer is no', async () => {
    vi.mocked(confirmDialog).mockResolvedValue(false);
    const { button, remove, removed } = world();
    await button.click();
    expect(confirmDialog).toHaveBeenCalledOnce();
    expect(remove).not.toHaveBeenCalled();
    expect(removed).not.toHaveBeenCalled();
    expect(notices()).toEqual([]);
    expect(button.disabled).toBe(false);
  });

  it('says why something was not removed', async () => {
    vi.mocked(confirmDialog).mockResolvedValue(true);
    const { button, removed } = world(() => Promise.reject(new Error('A sandbox uses it.')));
    await button.click();
    expect(removed).not.toHaveBeenCalled();
    expect(notices()).toEqual(['A sandbox uses it.']);
    expect(button.disabled).toBe(false);
  });

  it('does one thing at a time', async () => {
    vi.mocked(confirmDialog).mockReturnValue(new Promise(() => {}));
    const { button } = world();
    await button.click();
    expect(button.disabled).toBe(true);
    await button.click();
    expect(confirmDialog).toHaveBeenCalledOnce();
  });
});
