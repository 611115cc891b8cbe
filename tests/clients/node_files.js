// node's ssh2-sftp-client: the same as files_common.py says. usage: node node_files.js PORT USER DIR FAR [KEYFILE]
const assert = require('assert');
const crypto = require('crypto');
const fs = require('fs');
const Client = require('ssh2-sftp-client');

const [port, user, near, far, key] = process.argv.slice(2);
const bytes = crypto.randomBytes(1048576 + 777);

async function play(sftp) {
  const dir = `${far}/play`;
  await sftp.mkdir(`${dir}/a/b`, true);
  await sftp.put(bytes, `${dir}/bytes`);
  assert((await sftp.get(`${dir}/bytes`)).equals(bytes));
  await sftp.append(Buffer.from('more'), `${dir}/bytes`);
  assert.strictEqual((await sftp.stat(`${dir}/bytes`)).size, bytes.length + 4);
  await sftp.chmod(`${dir}/bytes`, 0o640);
  assert.strictEqual((await sftp.stat(`${dir}/bytes`)).mode & 0o777, 0o640);
  // Many requests at once.
  await sftp.fastPut(`${near}/tree/UPPER.txt`, `${dir}/fast`, { concurrency: 32, chunkSize: 1000 });
  await sftp.fastGet(`${dir}/fast`, `${near}/fast`, { concurrency: 32, chunkSize: 1000 });
  assert(fs.readFileSync(`${near}/fast`).equals(fs.readFileSync(`${near}/tree/UPPER.txt`)));
  await sftp.rcopy(`${dir}/fast`, `${dir}/copied`);
  await assert.rejects(sftp.rename(`${dir}/fast`, `${dir}/copied`));
  await sftp.posixRename(`${dir}/fast`, `${dir}/copied`);
  assert.deepStrictEqual((await sftp.list(dir)).map((it) => it.type + it.name).sort(), ['-bytes', '-copied', 'da']);
  assert.strictEqual(await sftp.exists(`${dir}/fast`), false);
  assert.strictEqual(await sftp.exists(dir), 'd');
  await assert.rejects(sftp.get(`${dir}/nothing`), /No such file/);
  await assert.rejects(sftp.rmdir(dir));
  await sftp.delete(`${dir}/bytes`);
  await sftp.rmdir(dir, true);
  assert.strictEqual(await sftp.exists(dir), false);
}

async function main() {
  const sftp = new Client();
  await sftp.connect({
    host: '127.0.0.1', port: Number(port), username: user,
    authHandler: key ? ['publickey'] : ['none'],
    privateKey: key ? fs.readFileSync(key) : undefined,
  });
  await sftp.uploadDir(`${near}/tree`, `${far}/up`);
  await sftp.downloadDir(`${far}/up`, `${near}/back`);
  await play(sftp);
  await sftp.end();
}

main().catch((error) => { console.error(error); process.exit(1); });
