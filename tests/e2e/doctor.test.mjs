// `gateway doctor` and `gateway optimize`, on what is well and on what is not.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { runGateway } from './harness/gateway.mjs';
import { freePort } from './harness/processes.mjs';
import { Database, startRedis } from './harness/servers.mjs';
import { limitedTest } from './harness/setups.mjs';

const PASSWORD = 'not-to-be-shown';

limitedTest('what is well is called so, and a schema that is missing is not', async () => {
  const database = await Database.create();
  const redis = await startRedis();
  try {
    const env = { DATABASE_URL: database.url, REDIS_URL: redis.url };
    const before = await runGateway(['doctor'], env);
    assert.equal(before.code, 1, before.output);
    assert.match(before.output, /^fail +schema .*gateway migrate/m);
    assert.equal((await runGateway(['migrate'], env)).code, 0);
    const after = await runGateway(['doctor'], env);
    assert.equal(after.code, 0, after.output);
    assert.doesNotMatch(after.output, /^fail/m);
    for (const what of ['schema', 'commits', 'redis', 'scripts', 'eviction']) assert.match(after.output, new RegExp(`^ok +${what} `, 'm'));
    assert.equal(after.output.match(/^ok +clock/gm)?.length, 2, after.output);

    const optimized = await runGateway(['optimize'], env, { withinMs: 60_000 });
    assert.equal(optimized.code, 0, optimized.output);
    assert.match(optimized.output, /^Messages: \d+ -> \d+ bytes$/m);
    assert.match(optimized.output, /^done/m);
  } finally {
    await redis.stop();
    await database.close();
  }
});

limitedTest('what is not there is named, with what to do, and no password is shown', async () => {
  const port = await freePort();
  const { code, output } = await runGateway(['doctor'], {
    DATABASE_URL: `mysql://somebody:${PASSWORD}@127.0.0.1:${port}/chat`,
    REDIS_URL: `redis://somebody:${PASSWORD}@127.0.0.1:${port}/`,
    DATABASE_TIMEOUT_MS: '500',
    REDIS_TIMEOUT_MS: '500',
  });
  assert.equal(code, 1, output);
  assert.match(output, /^fail +database .*DATABASE_URL/m);
  assert.match(output, /^fail +redis .*REDIS_URL/m);
  assert.ok(!output.includes(PASSWORD), output);
});

limitedTest('a Redis whose user may not run scripts is named, with the right that is missing', async () => {
  const redis = await startRedis();
  try {
    const socket = net.connect(redis.port, '127.0.0.1');
    socket.write(`ACL SETUSER limited on >${PASSWORD} ~* &* +@all -@scripting\r\n`);
    const [answer] = await once(socket, 'data');
    assert.match(String(answer), /^\+OK/);
    socket.destroy();
    const env = { DATABASE_URL: 'sqlite://chat.db', REDIS_URL: `redis://limited:${PASSWORD}@127.0.0.1:${redis.port}/` };
    const { code, output } = await runGateway(['doctor'], env);
    assert.equal(code, 1, output);
    assert.match(output, /^ok +redis /m);
    assert.match(output, /^fail +scripts .*\+evalsha/m);
    assert.match(output, /^something stands in the way$/m);
    assert.ok(!output.includes(PASSWORD), output);
  } finally {
    await redis.stop();
  }
});

limitedTest('the file of one node is looked at, too', async () => {
  const env = { DATABASE_URL: 'sqlite://chat.db' };
  assert.equal((await runGateway(['migrate'], env)).code, 0);
  const optimized = await runGateway(['optimize'], env);
  assert.match(optimized.output, /^the file: \d+ -> \d+ bytes$/m);
});
