// Chromium for tests, with an ear for everything that must not happen: refused content, requests elsewhere, errors.

import { chromium } from 'playwright-core';

export async function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  });
}

/** A context whose `bad` fills with what went wrong. */
export async function context(browser, base, options = {}) {
  const made = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const bad = [];
  await made.exposeBinding('reportViolation', (_, text) => bad.push(`policy: ${text}`));
  await made.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => {
      window.reportViolation(`${event.effectiveDirective} refused ${event.blockedURI} ${event.sample} at ${event.sourceFile}:${event.lineNumber}`);
    });
  });
  const origin = new URL(base).origin;
  const check = (url) => {
    const { protocol, host } = new URL(url);
    if (['data:', 'blob:', 'about:'].includes(protocol)) return;
    if (host !== new URL(origin).host) bad.push(`request elsewhere: ${url}`);
  };
  made.on('request', (request) => check(request.url()));
  made.on('page', (page) => {
    page.on('websocket', (socket) => check(socket.url()));
    page.on('pageerror', (error) => bad.push(`error: ${error.message}`));
    page.on('console', (message) => {
      // A refused request is logged by the browser itself; the tests ask for some.
      if (message.type() === 'error' && !/Failed to load resource/.test(message.text())) bad.push(`console: ${message.text()}`);
    });
  });
  return { context: made, bad };
}

/** What the emulator shows, as text. */
export function screenText(page) {
  return page.evaluate(() => [...document.querySelectorAll('.xterm-rows > div')].map((row) => row.textContent.replaceAll('\u00a0', ' ').trimEnd()).join('\n').trimEnd());
}

export async function until(what, wanted, ms = 15_000) {
  const end = Date.now() + ms;
  for (;;) {
    if (await wanted()) return;
    if (Date.now() > end) throw new Error(`waited in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Steps that print `ok NAME` or stop the run. */
export function steps() {
  let done = 0;
  return {
    async step(name, run) {
      try {
        await run();
        done += 1;
        console.log(`ok ${name}`);
      } catch (error) {
        console.log(`not ok ${name}`);
        throw error;
      }
    },
    count: () => done,
  };
}
