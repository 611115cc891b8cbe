import { afterEach, describe, expect, it, vi } from 'vitest';
import { ApiError, api, onSignedOut, path } from './api';

afterEach(() => vi.unstubAllGlobals());

function answers(status: number, body: string): ReturnType<typeof vi.fn> {
  const fetch = vi.fn(() => Promise.resolve(new Response(status === 204 ? null : body, { status })));
  vi.stubGlobal('fetch', fetch);
  return fetch;
}

describe('api', () => {
  it('escapes what goes into a path', () => {
    expect(path(['sandboxes', 'a/b?c', 'start'], { force: undefined, limit: 5, action: '' })).toBe('/sandboxes/a%2Fb%3Fc/start?limit=5');
  });

  it('makes a sentence of a problem', async () => {
    answers(409, '{"title":"Conflict","status":409,"detail":"there is a sandbox \\"a\\" already"}');
    await expect(api.sandboxes()).rejects.toThrow('There is a sandbox "a" already.');
  });

  it('says something of an answer that is no problem document', async () => {
    answers(502, '<html>');
    await expect(api.sandboxes()).rejects.toBeInstanceOf(ApiError);
    await expect(api.sandboxes()).rejects.toThrow('502');
  });

  it('says that the gateway does not answer', async () => {
    vi.stubGlobal('fetch', () => Promise.reject(new TypeError('failed')));
    await expect(api.sandboxes()).rejects.toMatchObject({ status: 0 });
  });

  it('tells of the end of the login, but not for a login that fails', async () => {
    const out = vi.fn();
    onSignedOut(out);
    answers(401, '{"detail":"log in first"}');
    await expect(api.login({ key: 'sgk_x' })).rejects.toThrow('Log in first.');
    expect(out).not.toHaveBeenCalled();
    await expect(api.sandboxes()).rejects.toThrow();
    expect(out).toHaveBeenCalledOnce();
  });

  it('asks only to watch a session of somebody else', async () => {
    const fetch = answers(201, '{"ticket":"t","expires_in":30}');
    await expect(api.sessionTicket('ses-1')).resolves.toMatchObject({ ticket: 't' });
    expect(fetch).toHaveBeenCalledWith('/api/v1/sessions/ses-1/tickets', expect.objectContaining({ method: 'POST', body: '{"mode":"watch"}' }));
  });

  it('sends what a recording and a removal need', async () => {
    const fetch = answers(204, '');
    await api.removeSandbox('box', true);
    expect(fetch).toHaveBeenCalledWith('/api/v1/sandboxes/box?force=true', expect.objectContaining({ method: 'DELETE' }));
    expect(api.recordingHref('rec_1', 'v2')).toBe('/api/v1/recordings/rec_1?format=v2');
  });
});
