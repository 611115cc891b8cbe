// A walk through the dashboard of a running gateway with Chromium, as a person would do it. Prints `ok NAME` for each step.
//
//   (cd ui && npm ci) && BASE_URL=http://127.0.0.1:8022 API_KEY=sgk_… node tests/browser/walk.mjs
//
// BASE_URL            where the dashboard is
// API_KEY             a key with the role admin
// WATCH_KEY           a key for the one who watches; API_KEY if not said. The role viewer is enough
// LOGIN_LINK          the link that `sandgate up` prints; if given, it is used, and used again, which must not work
// DRIVER, IMAGE       of the sandbox that is made (oci, host)
// SSH                 `1`: log in by the printed ssh line, see that session end when the token is revoked, and try to log in again
// SSH_OPTIONS         further words for ssh, such as `-o ConnectTimeout=5`
// RECORDING_SANDBOX   whose recording is replayed, and RECORDING_TEXT that is searched in it; what was typed here if not said
// ARTIFACTS           where screenshots are kept (target/browser)
// CHROMIUM            the browser (/usr/bin/chromium)

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { context, launch, screenText, steps, until } from '../../ui/test/browser.mjs';

const { env } = process;
const base = env.BASE_URL ?? 'http://127.0.0.1:8022';
const key = env.API_KEY ?? fail('API_KEY is not set');
const artifacts = env.ARTIFACTS ?? fileURLToPath(new URL('../../target/browser', import.meta.url));
const sandbox = `walk-${process.pid}`;
/** Appears in the output only when the shell has computed it. */
const MARK = `mark-${process.pid * 2}-shown`;

function fail(text) {
  console.error(text);
  process.exit(2);
}

mkdirSync(artifacts, { recursive: true });
const browser = await launch();
const { step, count } = steps();
const contexts = [];
let token = '';

async function open(options) {
  const made = await context(browser, base, options);
  contexts.push(made);
  const page = await made.context.newPage();
  page.setDefaultTimeout(20_000);
  return page;
}

async function login(page, secret) {
  await page.goto(`${base}/`);
  await page.getByLabel('API key').fill(secret);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('heading', { name: 'Sandboxes' }).waitFor();
}

async function type(page, text) {
  await page.locator('.xterm-helper-textarea').focus();
  await page.keyboard.type(text);
  await page.keyboard.press('Enter');
}

const shows = (page, text, ms) => until(`“${text}” on the screen`, async () => (await screenText(page)).includes(text), ms);
const connected = (page) => page.getByText('connected', { exact: true }).waitFor();

let asked = 0;
/** What `stty size` says. */
async function size(page) {
  asked += 1;
  await type(page, `clear; echo size-$((${asked}*11))=$(stty size)=`);
  const answer = new RegExp(`size-${asked * 11}=(\\d+) (\\d+)=`);
  await until('the size', async () => answer.test(await screenText(page)));
  const [, rows, cols] = answer.exec(await screenText(page));
  return { rows: Number(rows), cols: Number(cols) };
}

/** What the emulator has on its screen. */
const rowsOnPage = (page) => page.locator('.xterm-rows > div').count();

/** Runs a command by the line that the page has printed; `heard` is told of its output as it comes. */
function ssh(line, command = `echo ${MARK}-by-ssh`, heard = () => {}) {
  const [program, ...words] = line.split(' ');
  const options = ['-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', '-o', 'LogLevel=ERROR', '-o', 'BatchMode=yes',
    ...(env.SSH_OPTIONS ?? '').split(' ').filter(Boolean)];
  return new Promise((resolve) => {
    const child = execFile(program, [...options, ...words, command], { timeout: 60_000 }, (error, stdout, stderr) =>
      resolve({ code: error ? error.code ?? 1 : 0, stdout, stderr }));
    child.stdout.on('data', heard);
  });
}

try {
  const page = await open({ colorScheme: 'dark' });
  if (env.LOGIN_LINK) {
    await step('the login link works once and leaves the address bar', async () => {
      const one = await open();
      await one.goto(env.LOGIN_LINK);
      await one.getByRole('heading', { name: 'Sandboxes' }).waitFor();
      assert(!one.url().includes('login='), one.url());
      const two = await open();
      await two.goto(env.LOGIN_LINK);
      await two.getByRole('heading', { name: 'Log in' }).waitFor();
      assert(!two.url().includes('login='), two.url());
    });
  }
  await step('log in', async () => {
    await page.goto(`${base}/`);
    await page.getByLabel('API key').fill('sgk_wrong');
    await page.getByRole('button', { name: 'Log in' }).click();
    await page.getByRole('alert').waitFor();
    await login(page, key);
  });
  await step('create a sandbox', async () => {
    await page.getByRole('button', { name: 'New sandbox' }).click();
    await page.getByLabel('Name', { exact: true }).fill(sandbox);
    if (env.DRIVER) await page.getByLabel('Driver').selectOption(env.DRIVER);
    if (env.IMAGE) await page.getByLabel('Image').fill(env.IMAGE);
    await page.getByRole('button', { name: 'Create' }).click();
    await page.getByRole('link', { name: sandbox, exact: true }).waitFor();
  });
  await step('open a terminal', async () => {
    await page.getByRole('link', { name: `Terminal in ${sandbox}` }).click();
    await page.getByText('connected', { exact: true }).waitFor({ timeout: 60_000 });
  });
  await step('type and see output', async () => {
    await type(page, `echo mark-$((${process.pid}*2))-shown`);
    await shows(page, MARK);
  });
  await step('the size follows the window', async () => {
    const before = await size(page);
    assert.equal(before.rows, await rowsOnPage(page));
    await page.setViewportSize({ width: 900, height: 500 });
    await page.waitForTimeout(500);
    const after = await size(page);
    assert.equal(after.rows, await rowsOnPage(page));
    assert(after.rows < before.rows && after.cols < before.cols, JSON.stringify({ before, after }));
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.waitForTimeout(500);
    assert.deepEqual(await size(page), before);
  });
  await step('a full-screen program looks right', async () => {
    // Corners, true colour and attributes on the other screen, which gives the first one back.
    await type(page, "clear; echo first screen; set -- $(stty size); printf '\\033[?1049h\\033[2J\\033[1;1H\\342\\224\\214\\033[1;%sH\\342\\224\\220\\033[%s;1H\\342\\224\\224\\033[%s;%sH\\342\\224\\230' $2 $1 $1 $2; printf '\\033[5;10H\\033[38;2;255;120;40mfull\\033[0m \\033[1;7m screen \\033[0m'; read x; printf '\\033[?1049l'");
    await shows(page, '└');
    const lines = (await screenText(page)).split('\n');
    const rows = await rowsOnPage(page);
    assert.equal(lines.length, rows);
    assert.match(lines[0], /^┌ +┐$/);
    assert.match(lines[rows - 1], /^└ +┘$/);
    assert.equal(lines[0].length, lines[rows - 1].length);
    const colour = await page.evaluate(() => getComputedStyle([...document.querySelectorAll('.xterm-rows span')].find((span) => span.textContent.includes('full'))).color);
    assert.equal(colour, 'rgb(255, 120, 40)');
    await page.screenshot({ path: `${artifacts}/full-screen.png` });
    await page.keyboard.press('Enter');
    await shows(page, 'first screen');
    assert(!(await screenText(page)).includes('└'));
    // A real one, to look at, if there is any.
    await type(page, "clear; for p in vim vi top less; do command -v $p && break; done; echo look-$((1+1))");
    await shows(page, 'look-2');
    const program = /\/(vim|vi|top|less)$/m.exec(await screenText(page))?.[1];
    if (!program) return;
    await type(page, program === 'top' ? 'top' : `${program} /etc/passwd`);
    await page.waitForTimeout(1500);
    await page.screenshot({ path: `${artifacts}/${program}.png` });
    await page.keyboard.type(program.startsWith('v') ? ':q!' : 'q');
    if (program.startsWith('v')) await page.keyboard.press('Enter');
    // What is typed while it still ends would be its own.
    await shows(page, 'look-2');
    await page.waitForTimeout(500);
    await type(page, 'clear; echo left-$((2+2))');
    await shows(page, 'left-4');
  });
  await step('paste 100 KB', async () => {
    await type(page, 'clear; stty -echo; echo paste-$((3+3)); head -c 102400 | md5sum; stty echo');
    await shows(page, 'paste-6');
    const text = `${Array.from({ length: 1600 }, (_, index) => String(index).padStart(63, 'x')).join('\n')}\n`;
    assert.equal(text.length, 102_400);
    await page.evaluate((pasted) => {
      const data = new DataTransfer();
      data.setData('text/plain', pasted);
      document.querySelector('.xterm-helper-textarea').dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }));
    }, text);
    await shows(page, createHash('md5').update(text).digest('hex'), 30_000);
  });
  await step('run `yes` for 5 seconds and still type', async () => {
    await type(page, 'yes sandgate');
    await page.waitForTimeout(5000);
    const pressed = Date.now();
    await page.keyboard.press('Control+c');
    await type(page, 'clear; echo after-$((4+4))');
    await shows(page, 'after-8', 10_000);
    console.log(`# the prompt came ${Date.now() - pressed} ms after Ctrl+C`);
  });
  await step('the exit code is shown', async () => {
    await type(page, 'exit 7');
    await page.getByText('exit code 7').waitFor();
    await page.getByRole('link', { name: 'New shell' }).click();
    await connected(page);
  });
  await step('a reload finds the same shell with its screen', async () => {
    await type(page, 'clear; KEPT=same-shell; echo on-the-$((5+5))-screen');
    await shows(page, 'on-the-10-screen');
    const address = page.url();
    await page.reload();
    await shows(page, 'on-the-10-screen');
    await connected(page);
    assert.equal(page.url(), address);
    await type(page, 'echo $KEPT-again');
    await shows(page, 'same-shell-again');
  });
  await step('a session is watched from another browser, read-only', async () => {
    const watcher = await open({ colorScheme: 'light' });
    await login(watcher, env.WATCH_KEY ?? key);
    await watcher.getByRole('link', { name: 'Sessions' }).click();
    await watcher.getByRole('link', { name: `Watch the shell in ${sandbox}` }).click();
    await watcher.getByText('watching, read-only').waitFor();
    await shows(watcher, 'same-shell-again');
    await type(page, 'echo watched-$((6+6))');
    await shows(watcher, 'watched-12');
    await watcher.locator('.emulator').click();
    await watcher.keyboard.type('intruder');
    await watcher.waitForTimeout(500);
    assert(!(await screenText(page)).includes('intruder'));
    await page.setViewportSize({ width: 1000, height: 600 });
    await until('the size of the one who writes', async () => (await rowsOnPage(watcher)) === (await rowsOnPage(page)));
    await watcher.screenshot({ path: `${artifacts}/watch.png` });
    await page.setViewportSize({ width: 1280, height: 800 });
    await watcher.close();
  });
  await step('create a token and read its ssh line', async () => {
    await page.goto(`${base}/tokens`);
    await page.getByRole('button', { name: 'New token' }).click();
    await until('the sandbox in the list', async () => (await page.getByLabel('Sandbox').locator('option').allTextContents()).includes(sandbox));
    await page.getByLabel('Sandbox').selectOption(sandbox);
    await page.getByLabel('Label').fill(`walk ${process.pid}`);
    await page.getByRole('button', { name: 'Create' }).click();
    token = (await page.locator('dialog').getByLabel('SSH command', { exact: true }).textContent()).trim();
    assert.match(token, /^ssh .*sg_\w+@/);
    await page.getByRole('button', { name: 'Done' }).click();
    await page.locator('dialog').waitFor({ state: 'detached' });
    assert(!(await page.content()).includes(/sg_\w{9,}/.exec(token)[0]), 'the token is still in the page');
  });
  if (env.SSH === '1') {
    await step('the ssh line logs in', async () => {
      const answer = await ssh(token);
      assert.equal(answer.stdout.trim(), `${MARK}-by-ssh`, answer.stderr);
    });
  } else {
    console.log('# skipped: logging in by the ssh line (SSH=1 asks for it)');
  }
  await step('replay a recording and seek in it', async () => {
    const of = env.RECORDING_SANDBOX ?? sandbox;
    const text = env.RECORDING_TEXT ?? MARK;
    await page.goto(`${base}/recordings?sandbox=${encodeURIComponent(of)}`);
    // The oldest one is that of the first terminal.
    await page.getByRole('link', { name: `Play the terminal in ${of}` }).last().waitFor();
    const links = page.getByRole('link', { name: `Play the terminal in ${of}` });
    await (env.RECORDING_TEXT ? links.first() : links.last()).click();
    await page.getByRole('button', { name: 'Play', exact: true }).waitFor();
    await page.getByLabel('Speed').selectOption('8');
    await page.getByRole('button', { name: 'Play', exact: true }).click();
    await until('something on the screen', async () => (await screenText(page)).trim() !== '');
    await page.getByLabel('Find text').fill(text);
    await page.keyboard.press('Enter');
    await page.locator('.hits', { hasText: / of / }).waitFor();
    await shows(page, text);
    await page.screenshot({ path: `${artifacts}/player.png` });
    await page.getByLabel('Position').focus();
    await page.keyboard.press('Home');
    await until('the screen as it was at first', async () => !(await screenText(page)).includes(text));
    const slider = page.getByLabel('Position');
    const before = await slider.inputValue();
    await page.keyboard.press('End');
    assert(Number(await slider.inputValue()) > Number(before));
    await page.getByRole('button', { name: 'Verify' }).click();
    await page.getByText('is as it was written').waitFor();
  });
  await step('add a public key and remove it', async () => {
    await page.goto(`${base}/keys`);
    await page.getByRole('button', { name: 'Add a key' }).click();
    const dialog = page.locator('dialog');
    await dialog.getByLabel('Name').fill(sandbox);
    await dialog.getByLabel('Public key').fill('ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBbrQamQ8onTGYn7BE3/H5r4nB1l6drgc2AE4CFCFbAx walk');
    await dialog.getByLabel('Sandboxes').fill(sandbox);
    await dialog.getByRole('button', { name: 'Add' }).click();
    const row = page.locator('tr', { hasText: sandbox });
    await row.getByText('SHA256:').waitFor();
    await row.getByRole('button', { name: `Remove ${sandbox}` }).click();
    await page.locator('dialog').getByRole('button', { name: 'Remove' }).click();
    await row.waitFor({ state: 'detached' });
  });
  await step('read about the API', async () => {
    await page.goto(`${base}/reference`);
    const entry = page.locator('details', { hasText: 'POST /sandboxes/{name}/exec' });
    await entry.locator('summary').click();
    await entry.getByText('timeout_seconds').waitFor();
  });
  await step('revoke the token', async () => {
    await page.goto(`${base}/tokens`);
    const row = page.locator('tr', { hasText: `walk ${process.pid}` });
    let session;
    if (env.SSH === '1') {
      await new Promise((begun) => {
        session = ssh(token, 'echo begun; sleep 600', begun);
        void session.then(begun);
      });
    }
    await row.getByRole('button', { name: /^Revoke/ }).click();
    await page.locator('dialog').getByRole('button', { name: 'Revoke' }).click();
    await row.waitFor({ state: 'detached' });
    if (env.SSH === '1') {
      const revoked = Date.now();
      const end = await session;
      assert(Date.now() - revoked < 5_000, `the session went on for ${Date.now() - revoked} ms`);
      assert.equal(end.code, 255, end.stderr);
      assert.match(end.stderr, /revoked/);
      const answer = await ssh(token);
      assert.notEqual(answer.code, 0);
      assert(!answer.stdout.includes(MARK));
    }
  });
  await step('remove the sandbox', async () => {
    await page.goto(`${base}/sandboxes`);
    await page.getByRole('button', { name: `Remove ${sandbox}` }).click();
    await page.locator('dialog').getByRole('button', { name: 'Remove' }).click();
    await page.getByRole('link', { name: sandbox, exact: true }).waitFor({ state: 'detached' });
  });
  await step('no secret was stored', async () => {
    const stored = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, history.state, location.href, document.cookie]));
    assert(!/sgk_|sg_|ticket|sandgate_session/.test(stored), stored);
  });
  await step('log out', async () => {
    await page.getByRole('button', { name: 'Log out' }).click();
    await page.getByRole('heading', { name: 'Log in' }).waitFor();
    await page.goto(`${base}/tokens`);
    await page.getByRole('heading', { name: 'Log in' }).waitFor();
  });
  await step('nothing was refused by the policy, asked for elsewhere, or thrown', async () => {
    assert.deepEqual(contexts.flatMap((one) => one.bad), []);
  });
  console.log(`${count()} steps passed`);
} catch (error) {
  console.error(error);
  const last = contexts.flatMap((one) => one.context.pages());
  for (const [index, page] of last.entries()) await page.screenshot({ path: `${artifacts}/failed-${index}.png` }).catch(() => {});
  console.error(contexts.flatMap((one) => one.bad));
  process.exitCode = 1;
} finally {
  await browser.close();
}
