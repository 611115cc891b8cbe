// A terminal in a frame of somebody else's page, in Chromium. Prints `ok NAME` for each step.
//
// BASE_URL   where the gateway is
// API_KEY    a key with the role user, of the application that shows the frame
// SANDBOX    the sandbox
// LISTED     a port: pages of http://localhost:LISTED may show the frame, as [http] frame_ancestors says
// CHROMIUM   the browser (/usr/bin/chromium)
//
// The pages are served as `localhost` and the gateway as 127.0.0.1, so that to a browser they are not only other origins but another site.

import assert from 'node:assert/strict';
import http from 'node:http';
import { launch, screenText, steps, until } from '../../ui/test/browser.mjs';

const { BASE_URL: base, API_KEY: key, SANDBOX: sandbox, LISTED } = process.env;
const { step, count } = steps();
const browser = await launch();
const servers = [];

/** A server of empty pages; gives their origin. */
async function application(port) {
  const server = http.createServer((_, response) => response.setHeader('content-type', 'text/html').end('<!doctype html><title>An application</title>'));
  await new Promise((resolve) => server.listen(port, 'localhost', resolve));
  servers.push(server);
  return `http://localhost:${server.address().port}`;
}

/** A new terminal, as the application's own server asks for it. */
async function terminal() {
  const answer = await fetch(`${base}/api/v1/sandboxes/${sandbox}/terminals`, {
    method: 'POST', headers: { authorization: `Bearer ${key}` }, body: JSON.stringify({ cols: 80, rows: 24 }),
  });
  assert.equal(answer.status, 201);
  return answer.json();
}

/** A page of the application with a frame. What the frame says to it is kept in `said`; a ticket is given to whoever asks for one. */
async function embed(origin, address, ticket = null) {
  const context = await browser.newContext({ viewport: { width: 900, height: 500 } });
  const page = await context.newPage();
  const console = [];
  page.on('console', (message) => console.push(message.text()));
  await page.goto(origin);
  await page.evaluate(([src, given]) => {
    window.said = [];
    addEventListener('message', (event) => {
      window.said.push({ ...event.data, from: event.origin });
      if (event.data.type === 'sandgate.hello' && given) event.source.postMessage({ type: 'sandgate.ticket', ticket: given }, event.origin);
    });
    const frame = document.createElement('iframe');
    Object.assign(frame, { src, width: 800, height: 400 });
    document.body.append(frame);
  }, [address, ticket]);
  const frame = () => page.frames().find((one) => one !== page.mainFrame());
  await until('a frame', () => frame() !== undefined);
  return { page, frame, console, said: () => page.evaluate(() => window.said), close: () => context.close() };
}

async function works({ page, frame, said }, mark) {
  await until('that the frame is ready', async () => (await said()).some((one) => one.type === 'sandgate.ready'), 60_000);
  await frame().locator('.xterm-helper-textarea').focus();
  await page.keyboard.type(`echo ${mark}-$((6*7))`);
  await page.keyboard.press('Enter');
  await until('the answer', async () => (await screenText(frame())).includes(`${mark}-42`));
  assert((await said()).every((one) => one.from === new URL(base).origin), 'only the frame speaks');
}

/** The browser shows an error of its own in place of the page, and says why. */
async function refused({ frame, console, said }) {
  await until('a refusal', () => console.some((text) => /frame-ancestors/.test(text)));
  assert(!frame().url().startsWith(base), frame().url());
  assert.equal(await frame().locator('.emulator').count(), 0);
  assert.deepEqual(await said(), []);
}

try {
  const listed = await application(Number(LISTED));
  const other = await application(0);
  await step('a page that is listed shows a terminal, with a ticket in the fragment', async () => {
    const { ticket } = await terminal();
    const shown = await embed(listed, `${base}/embed/${sandbox}#ticket=${ticket}`);
    await works(shown, 'fragment');
    assert(!shown.frame().url().includes(ticket), shown.frame().url());
    // Nobody is logged in there, and nobody becomes so.
    assert.deepEqual(await shown.page.context().cookies(), []);
    await shown.close();
  });
  await step('and with a ticket in a message', async () => {
    const { ticket } = await terminal();
    const shown = await embed(listed, `${base}/embed/${sandbox}`, ticket);
    await works(shown, 'message');
    await shown.close();
  });
  await step('a page that is not listed shows nothing, and its ticket stays unused', async () => {
    const { ticket } = await terminal();
    const hidden = await embed(other, `${base}/embed/${sandbox}#ticket=${ticket}`);
    await refused(hidden);
    await hidden.close();
    const shown = await embed(listed, `${base}/embed/${sandbox}#ticket=${ticket}`);
    await works(shown, 'unused');
    await shown.close();
  });
  await step('a page that is listed shows none of the others', async () => {
    for (const path of ['/', '/sandboxes', `/terminal/${sandbox}`, '/embed/', `/embed/${sandbox}/more`]) {
      const hidden = await embed(listed, `${base}${path}`);
      await refused(hidden);
      await hidden.close();
    }
  });
  console.log(`${count()} steps passed`);
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
}
