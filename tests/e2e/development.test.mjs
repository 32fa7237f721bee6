// Development mode: `gateway` with no setting of weight makes a database, a secret and demo accounts, says so, and
// lets a first chat happen. It shows details of errors, which production never does.

import assert from 'node:assert/strict';
import { after, before, describe } from 'node:test';
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import axios from 'axios';
import { dataOf } from './harness/assertions.mjs';
import { Gateway, JWT_SECRET } from './harness/gateway.mjs';
import { logIn, refreshCookie, restClient } from './harness/people.mjs';
import { freePort } from './harness/processes.mjs';
import { limitedTest as test } from './harness/setups.mjs';
import { Client } from './harness/sockets.mjs';

describe('gateway, without settings', () => {
  // Finding out which words of the output are passwords takes some logins.
  const env = { RATE_LIMIT_LOGINS_PER_MINUTE: '0' };
  let node, demo;

  before(async () => {
    // Also without a command: plain `gateway` serves.
    node = await Gateway.start(env, { bare: true, args: [] });
  });

  after(() => node?.stop());

  test('it makes its database where it stands, and a secret that only its owner can read', () => {
    const folder = path.join(node.cwd, 'data');
    assert.ok(existsSync(path.join(folder, 'chat.db')));
    const secrets = readdirSync(folder).filter((name) => !name.startsWith('chat.db'));
    assert.ok(secrets.length >= 1, `beside the database: ${readdirSync(folder)}`);
    for (const name of secrets) assert.equal(statSync(path.join(folder, name)).mode & 0o077, 0, name);
  });

  test('it prints where it is, and the demo accounts, which can chat', async () => {
    assert.ok(node.logs.includes(String(node.port)));
    const [client, agent] = await demoAccounts();
    const conversation = await client.converse(agent);
    const [clientSocket, agentSocket] = await Promise.all(
      [client, agent].map((person) => Client.connect(node.url, { auth: { token: person.token } })),
    );
    try {
      const message = await clientSocket.ask('chatMessage', { conversationId: conversation.id, message: 'a first chat' });
      assert.deepEqual(await agentSocket.next('chatMessage'), message);
    } finally {
      clientSocket.close();
      agentSocket.close();
    }
  });

  test('the heartbeat is the default one', async () => {
    const { data } = await axios.get(`${node.url}/socket.io/?EIO=4&transport=polling`, { proxy: false, responseType: 'text' });
    const { pingInterval, pingTimeout, maxPayload } = JSON.parse(data.slice(1));
    assert.deepEqual([pingInterval, pingTimeout, maxPayload], [25_000, 20_000, 1_000_000]);
  });

  test('an error whose cause is inside bears details', async () => {
    // A database that nobody serves; production says the same without details.
    const nowhere = { DATABASE_URL: `mysql://root@127.0.0.1:${await freePort()}/none`, JWT_SECRET };
    const lost = await Gateway.start(nowhere, { bare: true, ready: false });
    try {
      const answer = await restClient(lost.url).post('/auth/login', { email: 'a@example.com', password: 'some password' });
      assert.equal(answer.status, 503);
      assert.equal(answer.data.error.code, 'SERVICE_UNAVAILABLE');
      assert.equal(typeof answer.data.error.details, 'string');
    } finally {
      await lost.stop();
    }
  });

  test('the refresh cookie works without TLS, and any origin may call', async () => {
    const [client] = await demoAccounts();
    const login = await restClient(node.url).post('/auth/login', { email: client.user.email, password: client.password }, {
      headers: { Origin: 'http://localhost:3000' },
    });
    assert.ok(!refreshCookie(login).attributes.includes('secure'));
    assert.equal(login.headers['access-control-allow-origin'], 'http://localhost:3000');
    assert.equal(login.headers['access-control-allow-credentials'], 'true');
  });

  test('the API is described where it is served', async () => {
    const description = (await axios.get(`${node.url}/api/openapi.json`, { proxy: false })).data;
    assert.match(description.openapi, /^3\./);
    for (const [call, method] of [
      ...[['/auth/register', 'post'], ['/auth/login', 'post'], ['/auth/refresh', 'post'], ['/auth/logout', 'post'], ['/auth/me', 'get']],
      ...[['/auth/me', 'patch'], ['/auth/password', 'post'], ['/chat/conversations', 'get'], ['/chat/conversations', 'post']],
      ...[['/chat/conversations/{id}', 'get'], ['/chat/conversations/{id}', 'delete'], ['/chat/conversations/{id}/messages', 'get']],
      ...[['/chat/conversations/{id}/messages', 'post'], ['/chat/conversations/{id}/read', 'post'], ['/chat/sync', 'post']],
      ...[['/chat/online', 'get'], ['/chat/unread-count', 'get']],
    ]) {
      const item = description.paths[`/api${call}`] ?? description.paths[call];
      assert.ok(item?.[method], `${method} ${call}`);
    }
    const page = await axios.get(`${node.url}/api/docs`, { proxy: false });
    assert.equal(page.status, 200);
    assert.match(page.headers['content-type'], /html/);
  });

  test('what it made it keeps', async () => {
    const [client] = await demoAccounts();
    const { cwd, port } = node;
    const { code } = await node.stop();
    assert.equal(code, 0);
    node = await Gateway.start({ ...env, PORT: String(port) }, { bare: true, args: [], cwd });
    // The same secret: the token is still good.
    assert.equal(dataOf(await restClient(node.url, client.token).get('/auth/me')).user.id, client.id);
  });

  /** The demo accounts as a reader finds them in what was printed: a client, an agent. */
  async function demoAccounts() {
    if (demo) return demo;
    const printed = node.logs.replace(/\x1b\[[0-9;]*m/g, '');
    const emails = new Set(printed.match(/[\w.+-]+@[\w.-]+\w/g));
    // One of the words of a line with an address is the password.
    const lines = printed.split('\n').filter((line) => line.includes('@'));
    const words = new Set(lines.flatMap((line) => line.split(/[\s,;:"'`|/()=]+/)).filter((word) => word.length >= 8 && !word.includes('@')));
    const people = { user: undefined, admin: undefined };
    for (const email of emails) {
      for (const password of words) {
        const answer = await restClient(node.url).post('/auth/login', { email, password });
        if (answer.status === 200) people[answer.data.data.user.role] ??= await logIn({ url: node.url }, email, password);
      }
    }
    assert.ok(people.user && people.admin, `a client and an agent are printed:\n${printed}`);
    demo = [people.user, people.admin];
    return demo;
  }
});
