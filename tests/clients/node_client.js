// node's ssh2: the same questions as common.py. usage: node node_client.js PORT USER [KEYFILE], NODE_PATH holds ssh2.
const crypto = require('crypto');
const fs = require('fs');
const { Client } = require('ssh2');

const [port, user, key] = process.argv.slice(2);
const SIZE = 10 * 1024 * 1024;
const payload = crypto.randomBytes(SIZE);
const hash = (data) => crypto.createHash('sha256').update(data).digest('hex');
const DOWNLOAD = `head -c ${SIZE} /dev/zero | openssl enc -aes-128-ctr -nosalt -K 000102030405060708090a0b0c0d0e0f -iv ` + '0'.repeat(32);

const client = new Client();
const run = (command, data) => new Promise((resolve, reject) => {
  client.exec(command, (error, stream) => {
    if (error) return reject(error);
    const out = [], err = [];
    let code = null;
    stream.on('data', (chunk) => out.push(chunk));
    stream.stderr.on('data', (chunk) => err.push(chunk));
    stream.on('exit', (status) => { code = status; });
    stream.on('close', () => resolve({ code, stdout: Buffer.concat(out), stderr: Buffer.concat(err) }));
    stream.end(data);
  });
});

client.on('ready', async () => {
  try {
    const both = await run('echo out; echo err >&2; exit 7');
    const upload = await run('sha256sum', payload);
    const download = await run(DOWNLOAD);
    console.log(JSON.stringify({
      code: both.code,
      stdout: both.stdout.toString(),
      stderr: both.stderr.toString(),
      upload_ok: upload.stdout.toString().split(' ')[0] === hash(payload),
      download: hash(download.stdout),
    }));
    client.end();
  } catch (error) {
    console.error(error);
    process.exit(1);
  }
});
client.on('error', (error) => { console.error(error); process.exit(1); });
client.connect({
  host: '127.0.0.1', port: Number(port), username: user,
  authHandler: key ? ['publickey'] : ['none'],
  privateKey: key ? fs.readFileSync(key) : undefined,
});
