// Every page against the mock, under the gateway's policy: `npm run build && npm run e2e`, and once by tests/dashboard.rs. Screenshots go to ui/shots, unless SHOTS=none.
// What tests/browser/ does with a real gateway (sizes, pasting, a flood, frames) is not here.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { context, launch, screenText, steps, until } from './browser.mjs';
import { startMock } from './mock.mjs';

const SHOTS = process.env.SHOTS === 'none' ? null : fileURLToPath(new URL('../shots', import.meta.url));
if (SHOTS) mkdirSync(SHOTS, { recursive: true });

const mock = await startMock();
const browser = await launch();
const { step, count } = steps();
const allBad = [];

async function open(options) {
  const made = await context(browser, mock.url, options);
  allBad.push(made.bad);
  const page = await made.context.newPage();
  page.setDefaultTimeout(15_000);
  return page;
}

async function shot(page, name) {
  if (SHOTS) await page.screenshot({ path: `${SHOTS}/${name}.png` });
}

async function login(page, key = 'sgk_mock') {
  await page.goto(`${mock.url}/login`);
  await page.getByLabel('API key').fill(key);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('heading', { name: 'Sandboxes' }).waitFor();
}

/** True colour, attributes, wide letters and box drawing: what a full-screen program does. */
const DRAW = "printf '\\033[2J\\033[H\\033[38;2;255;120;40mtrue colour\\033[0m \\033[1;3;4mbold italic\\033[0m \\033[7mreverse\\033[0m 漢字 ┌──┐ \\033[48;5;24m palette \\033[0m\\n'";
const type = async (page, text) => {
  await page.locator('.xterm-helper-textarea').focus();
  await page.keyboard.type(text);
  await page.keyboard.press('Enter');
};
const shows = (page, text) => until(`“${text}” on the screen`, async () => (await screenText(page)).includes(text));

try {
  const page = await open({ colorScheme: 'dark' });
  await step('an address inside leads to the login', async () => {
    await page.goto(`${mock.url}/tokens`);
    await page.getByRole('heading', { name: 'Log in' }).waitFor();
    await shot(page, 'login-dark');
  });
  await step('a wrong key is said to be wrong', async () => {
    await page.getByLabel('API key').fill('sgk_wrong');
    await page.keyboard.press('Enter');
    await page.getByText('This key is not known.').waitFor();
  });
  await step('the login leads back to where one wanted to go', async () => {
    await page.getByLabel('API key').fill('sgk_mock');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Tokens' }).waitFor();
  });
  await step('a login link logs in once and leaves no trace', async () => {
    const other = await open();
    await other.goto(`${mock.url}/#login=mockcode`);
    await other.getByRole('heading', { name: 'Sandboxes' }).waitFor();
    assert(!other.url().includes('mockcode'));
    await other.goBack();
    assert(!other.url().includes('mockcode'));
    const third = await open();
    await third.goto(`${mock.url}/#login=mockcode`);
    await third.getByText('was used already').waitFor();
    assert(!third.url().includes('mockcode'));
    await other.close();
    await third.close();
  });

  await step('sandboxes are listed, made, stopped and removed', async () => {
    await page.getByRole('link', { name: 'Sandboxes' }).click();
    await page.getByText('build-box').first().waitFor();
    await page.getByText('2 warnings').click();
    await shot(page, 'sandboxes-dark');
    await page.getByRole('button', { name: 'New sandbox' }).click();
    await page.getByLabel('Name', { exact: true }).fill('fresh');
    await page.getByText('More', { exact: true }).click();
    await shot(page, 'sandbox-new-dark');
    await page.getByRole('button', { name: 'Create' }).click();
    await page.getByRole('link', { name: 'fresh', exact: true }).waitFor();
    await page.getByRole('button', { name: 'Stop demo' }).click();
    await page.getByText('2 sessions run in it and end.').waitFor();
    await shot(page, 'confirm-dark');
    await page.keyboard.press('Escape');
    await page.locator('dialog').waitFor({ state: 'detached' });
    await page.getByRole('button', { name: 'Remove fresh' }).click();
    await page.locator('dialog').getByRole('button', { name: 'Remove' }).click();
    await page.getByRole('link', { name: 'fresh', exact: true }).waitFor({ state: 'detached' });
    await page.getByRole('link', { name: 'build-box', exact: true }).click();
    await page.getByText('user namespaces are off').waitFor();
    await shot(page, 'sandbox-dark');
  });

  await step('a token is shown once, with its ssh line', async () => {
    await page.getByRole('link', { name: 'Tokens' }).click();
    await page.getByRole('button', { name: 'New token' }).click();
    await page.getByLabel('Label').fill('for a test');
    await page.getByText('agent – the client').click();
    await shot(page, 'token-new-dark');
    await page.getByRole('button', { name: 'Create' }).click();
    const line = await page.locator('dialog').getByText(/^ssh -p 2222/).textContent();
    assert.match(line, /sg_[0-9a-f]{32}@gate\.example/);
    await shot(page, 'token-shown-dark');
    await page.getByRole('button', { name: 'Done' }).click();
    await page.locator('dialog').waitFor({ state: 'detached' });
    assert(!(await page.content()).includes(line.split(' ')[3]));
    await page.getByText('for a test').waitFor();
    await page.getByRole('button', { name: /^Revoke/ }).first().click();
    await page.locator('dialog').getByRole('button', { name: 'Revoke' }).click();
    await page.getByText('for a test').waitFor({ state: 'detached' });
    await page.getByLabel('Also those that have ended').check();
    await page.getByText('for a test').waitFor();
    await shot(page, 'tokens-dark');
  });

  await step('the audit trail is filtered and goes back', async () => {
    await page.getByRole('link', { name: 'Audit' }).click();
    await page.getByText('<img src=x').first().waitFor();
    assert.equal(await page.locator('main img').count(), 0);
    await shot(page, 'audit-dark');
    await page.getByRole('button', { name: 'Older entries' }).click();
    await until('200 rows', async () => (await page.locator('tbody tr').count()) === 200);
    await page.getByLabel('Action begins with').fill('session.');
    await page.keyboard.press('Enter');
    await until('only sessions', async () => (await page.locator('tbody tr').count()) === 66);
  });

  await step('API keys and the status are shown', async () => {
    await page.getByRole('link', { name: 'API keys' }).click();
    await page.getByRole('button', { name: 'New key' }).click();
    await page.getByLabel('Name', { exact: true }).fill('robot');
    await page.getByRole('button', { name: 'Create' }).click();
    await page.getByText(/^sgk_[0-9a-f]{32}$/).waitFor();
    await page.getByRole('button', { name: 'Done' }).click();
    await page.getByText('robot').waitFor();
    await shot(page, 'api-keys-dark');
    await page.getByRole('link', { name: 'Status' }).click();
    await page.getByText('[gate.example]:2222 ssh-ed25519').waitFor();
    await shot(page, 'status-dark');
  });

  await step('the keyboard is enough', async () => {
    const active = () => page.evaluate(() => document.activeElement.textContent || document.activeElement.tagName);
    await page.goto(`${mock.url}/sandboxes`);
    await page.getByText('build-box').first().waitFor();
    await page.keyboard.press('Tab');
    assert.equal(await active(), 'Skip to content');
    await shot(page, 'skip-dark');
    await page.keyboard.press('Enter');
    await page.keyboard.press('Tab');
    assert.equal(await active(), 'New sandbox');
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.name), 'name');
    await page.keyboard.press('Escape');
    await page.locator('dialog').waitFor({ state: 'detached' });
    assert.equal(await active(), 'New sandbox');
    // A row that is drawn anew under the focus keeps it.
    await page.getByRole('link', { name: 'Terminal in demo' }).focus();
    mock.data.sandboxes[0].sessions = 5;
    await page.locator('tr', { hasText: 'demo' }).getByText('5', { exact: true }).waitFor();
    assert.equal(await active(), 'Terminal');
    mock.data.sandboxes[0].sessions = 2;
  });

  await step('a terminal opens and runs what is typed', async () => {
    await page.goto(`${mock.url}/sandboxes`);
    await page.getByRole('link', { name: 'Terminal in demo' }).click();
    await shows(page, 'box:');
    await type(page, 'echo $((6*7))-typed');
    await shows(page, '42-typed');
    assert.match(page.url(), /\/terminal\/demo\/trm_/);
  });
  await step('true colour, attributes and theme arrive under the policy', async () => {
    await type(page, DRAW);
    await shows(page, 'palette');
    const colours = await page.evaluate(() => {
      const span = (text) => [...document.querySelectorAll('.xterm-rows span')].find((one) => one.textContent.includes(text));
      const style = (text) => getComputedStyle(span(text));
      return { true: style('true').color, bold: style('bold').fontWeight, palette: style('palette').backgroundColor };
    });
    assert.equal(colours.true, 'rgb(255, 120, 40)');
    assert.equal(colours.bold, '700');
    assert.equal(colours.palette, 'rgb(0, 95, 135)');
    await shot(page, 'terminal-dark');
  });
  await step('selection, links, scroll bar and rows for screen readers too', async () => {
    await type(page, 'seq 200; echo see https://sandgate.example/docs for-more');
    await shows(page, 'https://sandgate.example/docs for-more\nbox:');
    const [x, y] = await page.evaluate(() => {
      const rows = [...document.querySelectorAll('.xterm-rows > div')];
      const box = rows.findLast((row) => row.textContent.startsWith('see')).getBoundingClientRect();
      return [box.x + 100, box.y + box.height / 2];
    });
    await page.mouse.move(x, y);
    await page.locator('.xterm-cursor-pointer').waitFor();
    await page.mouse.dblclick(x - 90, y);
    const look = (selector) => page.evaluate((one) => getComputedStyle(document.querySelector(one)).backgroundColor, selector);
    await page.locator('.xterm-selection div').first().waitFor();
    assert.notEqual(await look('.xterm-selection div'), 'rgba(0, 0, 0, 0)');
    assert.notEqual(await look('.xterm-scrollable-element > .scrollbar > .slider'), 'rgba(0, 0, 0, 0)');
    await page.mouse.wheel(0, -600);
    await until('what was above', async () => !(await screenText(page)).includes('for-more'));
    await page.getByLabel('Screen reader').check();
    await page.locator('.xterm-accessibility-tree', { hasText: '160' }).waitFor();
    await page.getByLabel('Screen reader').uncheck();
    await type(page, 'clear');
  });
  await step('a reload finds the same shell with its screen', async () => {
    await type(page, 'clear; KEEP=same-shell; echo on the screen');
    await shows(page, 'on the screen');
    await page.reload();
    await shows(page, 'on the screen');
    await type(page, 'echo $KEEP-again');
    await shows(page, 'same-shell-again');
  });
  await step('a lost connection is made again', async () => {
    for (const one of mock.terminals.all.values()) one.writer?.terminate();
    await page.getByText('The connection was lost').waitFor();
    await shot(page, 'terminal-lost-dark');
    await page.getByText('connected', { exact: true }).waitFor();
    await page.waitForTimeout(300);
    assert.equal((await screenText(page)).match(/^same-shell-again$/gm)?.length, 1, 'the screen is drawn once');
    await type(page, 'clear; echo $KEEP-back');
    await shows(page, 'same-shell-back');
  });
  await step('a viewer watches, read-only', async () => {
    const watcher = await open({ colorScheme: 'light' });
    await login(watcher, 'sgk_viewer');
    await watcher.getByRole('link', { name: 'Sessions' }).click();
    await watcher.getByText('shell').first().waitFor();
    await shot(watcher, 'sessions-light');
    await watcher.getByRole('link', { name: /^Watch/ }).click();
    await watcher.getByText('watching, read-only').waitFor();
    await shows(watcher, 'same-shell-back');
    await type(page, 'echo seen-$((40+2))');
    await shows(watcher, 'seen-42');
    await watcher.locator('.emulator').click();
    await watcher.keyboard.type('nothing');
    await watcher.waitForTimeout(300);
    assert(!(await screenText(page)).includes('nothing'));
    await shot(watcher, 'watch-light');
    await watcher.close();
  });
  await step('another page takes the shell, and it is taken back', async () => {
    const other = await page.context().newPage();
    await other.goto(page.url());
    await shows(other, 'seen-42');
    await page.getByRole('button', { name: 'Take it back' }).waitFor();
    await shot(page, 'terminal-detached-dark');
    await page.getByRole('button', { name: 'Take it back' }).click();
    await other.getByRole('button', { name: 'Take it back' }).waitFor();
    await other.close();
    await type(page, 'clear; echo mine-$((2+3))');
    await shows(page, 'mine-5');
  });
  await step('the exit code is shown, and a new shell offered', async () => {
    await type(page, 'exit 7');
    await page.getByText('The shell ended with exit code 7.').waitFor();
    await shot(page, 'terminal-exit-dark');
    await page.getByRole('link', { name: 'New shell' }).click();
    await shows(page, 'box:');
  });
  await step('no secret is stored or in an address', async () => {
    const stored = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, history.state, location.href]));
    assert(!/sgk_|sg_|ticket/.test(stored), stored);
  });
  await step('the keyboard leaves the terminal', async () => {
    await page.locator('.xterm-helper-textarea').focus();
    await page.keyboard.press('Shift+F6');
    assert.equal(await page.evaluate(() => document.activeElement.textContent), '‹ sandgate');
  });

  await step('a recording is replayed, sought in and searched', async () => {
    await page.goto(`${mock.url}/recordings`);
    await page.getByText('not complete').waitFor();
    await shot(page, 'recordings-dark');
    await page.getByRole('button', { name: /^Verify/ }).first().click();
    await page.getByText('is as it was written').waitFor();
    await page.getByRole('link', { name: /^Play/ }).first().click();
    await page.getByRole('button', { name: 'Play', exact: true }).click();
    await shows(page, 'make test');
    await page.getByRole('button', { name: 'Pause' }).click();
    await page.getByLabel('Find text').fill('Disk is almost');
    await page.keyboard.press('Enter');
    await page.getByText('1 of 1, at 1:').waitFor();
    await shows(page, 'disk is almost full');
    await shot(page, 'player-dark');
    await page.getByLabel('Position').focus();
    await page.keyboard.press('Home');
    await until('an empty screen', async () => !(await screenText(page)).includes('case-1'));
    await page.keyboard.press('End');
    await shows(page, 'disk is almost full');
  });
  await step('a recording that was cut off and a timeline are shown', async () => {
    await page.goto(`${mock.url}/recordings/rec_bad`);
    await page.getByText('ends in the middle').waitFor();
    await page.goto(`${mock.url}/recordings/rec_sftp`);
    await page.getByText('path: /home/anna/notes.txt').waitFor();
    await shot(page, 'timeline-dark');
  });

  await step('a viewer is offered nothing that is refused', async () => {
    const viewer = await open({ colorScheme: 'light' });
    await login(viewer, 'sgk_viewer');
    await viewer.getByText('build-box').first().waitFor();
    assert.equal(await viewer.getByRole('button', { name: /New|Stop|Remove/ }).count(), 0);
    assert.equal(await viewer.getByRole('link', { name: 'API keys' }).count(), 0);
    await viewer.getByRole('button', { name: 'Log out' }).click();
    await viewer.getByRole('heading', { name: 'Log in' }).waitFor();
    await viewer.goto(`${mock.url}/sandboxes`);
    await viewer.getByRole('heading', { name: 'Log in' }).waitFor();
    await viewer.close();
  });
  await step('an embedded terminal takes its ticket from the fragment, and out of it', async () => {
    const alone = await open();
    const made = mock.terminals.create('demo', 'embedder');
    await alone.goto(`${mock.url}/embed/demo#ticket=${made.ticket}`, { waitUntil: 'commit' });
    await until('an address without the ticket', () => !alone.url().includes(made.ticket));
    await shows(alone, 'box:');
    assert(!alone.url().includes(made.ticket));
    await alone.close();
  });

  await step('every page fits 360 pixels, light and dark, and a desktop', async () => {
    // What is on each page once it is whole.
    const pages = {
      sandboxes: 'build-box', 'sandboxes/build-box': 'user namespaces are off', sessions: 'key laptop of anna', tokens: 'a guest for the afternoon',
      recordings: 'not complete', 'recordings/rec_1': '1:3', audit: '<img src=x', 'api-keys': 'monitoring', status: '[gate.example]:2222 ssh-ed25519',
      'terminal/demo': 'box:',
    };
    const views = [['360', 'light', 360, 740], ['360', 'dark', 360, 740], ['desktop', 'light', 1280, 800]];
    const visitor = await open({ colorScheme: 'light' });
    await login(visitor);
    for (const [name, text] of Object.entries(pages)) {
      await visitor.goto(`${mock.url}/${name}`);
      await visitor.getByText(text).first().waitFor();
      for (const [size, colorScheme, width, height] of views) {
        await visitor.emulateMedia({ colorScheme });
        await visitor.setViewportSize({ width, height });
        const wide = await visitor.evaluate(() => document.documentElement.scrollWidth);
        assert(wide <= width, `${name} is ${wide} pixels wide on ${width}`);
        await shot(visitor, `${size}-${name.replace('/', '-')}-${colorScheme}`);
      }
    }
    await visitor.close();
  });
  await step('a theme that was chosen stays', async () => {
    const desk = await open({ colorScheme: 'light' });
    await login(desk);
    const scheme = () => desk.evaluate(() => getComputedStyle(document.documentElement).colorScheme);
    await desk.getByLabel('Theme').selectOption('dark');
    assert.equal(await scheme(), 'dark');
    await desk.reload();
    await until('that it is dark again', async () => (await scheme()) === 'dark');
    await desk.close();
  });
  await step('nothing was refused by the policy, asked for elsewhere, or thrown', async () => {
    assert.deepEqual(allBad.flat(), []);
  });
  console.log(`${count()} steps passed`);
} catch (error) {
  console.error(error);
  console.error(allBad.flat());
  process.exitCode = 1;
} finally {
  await browser.close();
  mock.stop();
}
