// What an operator touches: settings and their mistakes, commands, health and readiness, waiting for servers that are not up
// yet, metrics, logs, origins. Stopping a node is in drain.test.mjs; development mode is in development.test.mjs.

import assert from 'node:assert/strict';
import { describe } from 'node:test';
import axios from 'axios';
import WebSocket from 'ws';
import { assertError, dataOf } from './harness/assertions.mjs';
import { createAdmin, Gateway, JWT_SECRET, runGateway } from './harness/gateway.mjs';
import { restClient } from './harness/people.mjs';
import { eventually, freePort, temporaryFolder } from './harness/processes.mjs';
import { secret, unique, words } from './harness/secrets.mjs';
import { Cable, Database, startRedis } from './harness/servers.mjs';
import { Cluster, describeOn, limitedTest as test, Single } from './harness/setups.mjs';
import { Client } from './harness/sockets.mjs';
import { mintToken } from './harness/tokens.mjs';

const SETTINGS = [
  ...['HOST', 'PORT', 'METRICS_ADDR', 'DATABASE_URL', 'DATABASE_REPLICA_URL', 'REDIS_URL', 'JWT_SECRET', 'JWT_PREVIOUS_SECRETS'],
  ...['CORS_ORIGINS', 'TRUSTED_PROXIES', 'APP_ENV', 'LOG_FORMAT', 'RUST_LOG', 'PING_INTERVAL_MS', 'PING_TIMEOUT_MS', 'DRAIN_SECONDS'],
  ...['RATE_LIMIT_LOGINS_PER_MINUTE', 'RATE_LIMIT_REQUESTS_PER_SECOND', 'RATE_LIMIT_EVENTS_PER_SECOND'],
  ...['RATE_LIMIT_CONNECTS_PER_SECOND', 'AUTO_MIGRATE'],
];

describe('settings', () => {
  test('--help names every setting, with its default', async () => {
    const { code, output } = await runGateway(['--help'], {}, { bare: true });
    assert.equal(code, 0);
    for (const name of SETTINGS) assert.ok(output.includes(name), name);
    for (const value of ['0.0.0.0', '5000', '127.0.0.1:9464', 'sqlite://data/chat.db', 'development', '25000', '20000']) {
      assert.ok(output.includes(value), value);
    }
    for (const command of ['serve', 'migrate', 'create-admin', 'health']) assert.ok(output.includes(command), command);
  });

  test('a wrong setting stops it at once, and is named', async () => {
    const sqlite = { DATABASE_URL: `sqlite://${temporaryFolder()}/chat.db`, PORT: String(await freePort()), METRICS_ADDR: '' };
    for (const [name, value] of [
      ...[['PORT', 'abc'], ['PORT', '70000'], ['HOST', 'not an address'], ['METRICS_ADDR', 'nonsense'], ['APP_ENV', 'staging']],
      ...[['DATABASE_URL', 'postgres://x/y'], ['DATABASE_URL', 'nonsense'], ['REDIS_URL', 'http://x'], ['TRUSTED_PROXIES', 'banana']],
      ...[['CORS_ORIGINS', 'not an origin'], ['LOG_FORMAT', 'xml'], ['PING_INTERVAL_MS', '-1'], ['PING_TIMEOUT_MS', 'soon']],
      ...[['DRAIN_SECONDS', 'x'], ['RATE_LIMIT_LOGINS_PER_MINUTE', 'many'], ['RATE_LIMIT_EVENTS_PER_SECOND', '-5']],
      ...[['RATE_LIMIT_REQUESTS_PER_SECOND', '1.5x'], ['RATE_LIMIT_CONNECTS_PER_SECOND', 'x'], ['AUTO_MIGRATE', 'maybe']],
      ...[['JWT_SECRET', 'too-short-for-production'], ['JWT_SECRET', ''], ['DATABASE_REPLICA_URL', 'ftp://x']],
    ]) {
      const { code, output } = await runGateway(['serve'], { ...sqlite, [name]: value });
      assert.ok(code > 0, `${name}=${value}: ended with ${code}`);
      assert.ok(output.includes(name), `${name}=${value}: said ${output}`);
      assert.doesNotMatch(output, /panicked/);
      if (name === 'JWT_SECRET' && value) assert.ok(!output.includes(value), 'a secret is not repeated');
    }
  });

  test('production does not start without a secret', async () => {
    const env = { APP_ENV: 'production', PORT: String(await freePort()), METRICS_ADDR: '' };
    const { code, output } = await runGateway(['serve'], env, { bare: true });
    assert.ok(code > 0);
    assert.match(output, /JWT_SECRET/);
  });

  test('an unknown command is refused', async () => {
    const { code, output } = await runGateway(['sevre'], {});
    assert.ok(code > 0);
    assert.match(output, /sevre/);
  });

  test('create-admin: what it takes, and once an address', async () => {
    const env = { DATABASE_URL: `sqlite://${temporaryFolder()}/chat.db` };
    assert.equal((await runGateway(['migrate'], env)).code, 0);
    await createAdmin(env, 'a@example.com', secret(`admin-${unique()}`));
    const again = ['create-admin', '--email', 'A@example.com', '--password-stdin'];
    const taken = await runGateway(again, env, { input: 'long enough\n' });
    assert.ok(taken.code > 0);
    assert.doesNotMatch(taken.output, /long enough/);
    for (const [args, input] of [
      [['create-admin', '--email', 'b@example.com', '--password-stdin'], 'short\n'],
      [['create-admin', '--email', 'b@example.com', '--password-stdin'], ''],
      [['create-admin', '--email', 'no address', '--password-stdin'], 'long enough\n'],
      [['create-admin', '--password-stdin'], 'long enough\n'],
    ]) {
      const { code } = await runGateway(args, env, { input });
      assert.ok(code > 0, args.join(' '));
    }
  });

  test('without AUTO_MIGRATE nothing is migrated, and the node is not ready until somebody has', async () => {
    const database = await Database.create();
    const node = await Gateway.start({ DATABASE_URL: database.url, AUTO_MIGRATE: 'false' }, { ready: false });
    try {
      assert.equal(await node.probe('/readyz'), 503);
      assert.deepEqual(await database.query('SHOW TABLES'), []);
      const { code, output } = await runGateway(['migrate'], { DATABASE_URL: database.url });
      assert.equal(code, 0, output);
      await node.whenReady();
    } finally {
      await node.stop();
      await database.close();
    }
  });
});

describe('servers that are not up', () => {
  test('a node waits for its Redis, not ready, and heals', async () => {
    const redisPort = await freePort();
    const env = { DATABASE_URL: `sqlite://${temporaryFolder()}/chat.db`, REDIS_URL: `redis://127.0.0.1:${redisPort}/` };
    const node = await Gateway.start(env, { ready: false });
    let redis;
    try {
      assert.equal(await node.probe('/readyz'), 503);
      const health = await runGateway(['health'], node.env);
      assert.notEqual(health.code, 0);
      redis = await startRedis(redisPort);
      await node.whenReady();
      assert.equal((await runGateway(['health'], node.env)).code, 0);
      await redis.stop();
      await eventually('/readyz is 503', async () => (await node.probe('/readyz')) === 503, 12_000);
      assert.equal(await node.probe('/healthz'), 200);
      redis = await startRedis(redisPort);
      await node.whenReady();
    } finally {
      await node.stop();
      await redis?.stop();
    }
  });

  test('a node waits for its database, not ready, and heals', async () => {
    const database = await Database.create();
    const cable = await Cable.to(database.port);
    const node = await Gateway.start({ DATABASE_URL: database.urlThrough(cable.port) }, { ready: false });
    try {
      assert.equal(await node.probe('/readyz'), 503);
      const early = await restClient(node.url).post('/auth/login', { email: 'a@example.com', password: 'some password' });
      assertError(early, 503, 'SERVICE_UNAVAILABLE');
      await cable.plugIn();
      await node.whenReady();
      await cable.pullOut();
      await eventually('/readyz is 503', async () => (await node.probe('/readyz')) === 503, 12_000);
      await cable.plugIn();
      await node.whenReady();
    } finally {
      await node.stop();
      await cable.pullOut();
      await database.close();
    }
  });

  test('nobody to be healthy: gateway health fails', async () => {
    const { code } = await runGateway(['health'], { PORT: String(await freePort()) });
    assert.notEqual(code, 0);
  });
});

describeOn(Cluster, (setup, limited) => {
  limited('messages written while Redis is away are delivered when it is back, in order, each once', async () => {
    const agent = await setup.admin();
    const client = await setup.client();
    const { id } = await client.converse(agent);
    const [agentSocket, clientSocket] = [await agent.connect(1), await client.connect(0)];
    const first = await clientSocket.ask('chatMessage', { conversationId: id, message: words() });
    await agentSocket.next('chatMessage', (m) => m.id === first.id);
    const { port } = setup.redis;
    await setup.redis.stop('SIGKILL');
    const texts = [words('one'), words('two'), words('three')];
    // Acknowledged or refused, but answered; what was refused is sent again under its name.
    const acks = [];
    for (const [i, message] of texts.entries()) {
      acks.push(await clientSocket.request('chatMessage', { conversationId: id, message, clientMessageId: `m${i}` }).catch(() => undefined));
    }
    // It comes back empty.
    setup.redis = await startRedis(port);
    for (const node of setup.nodes) await node.whenReady();
    await clientSocket.reconnected(20_000);
    await agentSocket.reconnected(20_000);
    for (const [i, message] of texts.entries()) {
      const stored = await clientSocket.ask('chatMessage', { conversationId: id, message, clientMessageId: `m${i}` });
      if (acks[i]?.success) assert.equal(stored.id, acks[i].data.id);
    }
    const { messages } = dataOf(await agent.rest.get(`/chat/conversations/${id}/messages`));
    assert.deepEqual(messages.map((m) => m.content).slice(1), texts);
    await agentSocket.next('chatMessage', (m) => m.seq === 4, 20_000);
    assert.deepEqual(agentSocket.all('chatMessage').map((m) => m.seq), [1, 2, 3, 4]);
  });
});

describeOn(Single, (setup, limited) => {
  limited('metrics: their names, on a listener of their own', async () => {
    const [node] = setup.nodes;
    const client = await setup.client();
    const agent = await setup.admin();
    const { id } = await client.converse(agent);
    const sockets = [await client.connect(0, { transports: ['websocket'] }), await client.connect(0, { transports: ['polling'] })];
    sockets.push(await client.connectPlain(0), await agent.connect(0, { transports: ['websocket'] }));
    const connections = (transport, role) => node.metric('chat_connections', { transport, role });
    await eventually('all are counted', async () => (await node.metric('chat_connections')) === 4);
    assert.deepEqual(
      [await connections('websocket', 'user'), await connections('polling', 'user'), await connections('plain', 'user'), await connections('websocket', 'admin')],
      [1, 1, 1, 1],
    );
    await sockets[0].ask('chatMessage', { conversationId: id, message: words() });
    await sockets[3].ask('chatMessage', { conversationId: id, message: words() });
    await sockets[0].next('chatMessage');
    await sockets[3].next('chatMessage');
    assert.equal(await sockets[0].refused('chatMessage', { conversationId: id, message: ' ' }), 'EMPTY_MESSAGE');
    assert.equal(await node.metric('chat_messages_total', { sender_type: 'client' }), 1);
    assert.equal(await node.metric('chat_messages_total', { sender_type: 'agency' }), 1);
    assert.equal(await node.metric('chat_errors_total', { code: 'EMPTY_MESSAGE' }), 1);
    assert.ok((await node.metric('chat_events_total', { direction: 'in', event: 'chatMessage' })) >= 3);
    assert.ok((await node.metric('chat_events_total', { direction: 'out', event: 'chatMessage' })) >= 2);
    assert.ok((await node.metric('chat_message_latency_seconds_count')) >= 2);
    const text = (await node.metrics()).join('\n');
    assert.match(text, /^# TYPE chat_message_latency_seconds histogram$/m);
    assert.match(text, /^chat_message_latency_seconds_bucket\{.*le="/m);
    // What a client sends must not become a label.
    const name = secret(`event-${unique()}`);
    await sockets[0].refused(name, {});
    assert.ok(!(await node.metrics()).join('\n').includes(name));
    assert.equal((await axios.get(`${node.url}/metrics`, { validateStatus: () => true, proxy: false })).status, 404);
    setup.closeConnections();
    await eventually('none is left', async () => (await node.metric('chat_connections')) === 0);
  });

  limited('logs: a line of JSON each; one for a connect and one for a disconnect', async () => {
    const [node] = setup.nodes;
    const client = await setup.client();
    const from = node.logs.length;
    const socket = await client.connect(0, { transports: ['websocket'] });
    socket.close();
    // The end is logged when the node has noticed it.
    await eventually('both are logged', () => node.logs.slice(from).split('\n').length >= 3);
    for (const line of node.logs.trim().split('\n')) assert.doesNotThrow(() => JSON.parse(line), line);
    const about = node.logs.slice(from).trim().split('\n').map((line) => JSON.stringify(JSON.parse(line)));
    const lines = about.filter((line) => new RegExp(`\\b${client.id}\\b`).test(line) && /connect/i.test(line));
    assert.equal(lines.length, 2, lines.join('\n'));
    for (const line of lines) {
      assert.match(line, /websocket/);
      assert.match(line, /"user"|role.{0,5}user/);
    }
  });

  limited('origins: those named, with credentials', async () => {
    const [node] = setup.nodes;
    const ask = (origin, options = {}) =>
      axios.request({
        ...{ url: `${node.url}/api/auth/login`, method: 'OPTIONS', validateStatus: () => true, proxy: false },
        headers: { Origin: origin, 'Access-Control-Request-Method': 'POST', 'Access-Control-Request-Headers': 'authorization,content-type' },
        ...options,
      });
    const preflight = await ask('https://chat.example.com');
    assert.ok(preflight.status < 300);
    assert.equal(preflight.headers['access-control-allow-origin'], 'https://chat.example.com');
    assert.equal(preflight.headers['access-control-allow-credentials'], 'true');
    assert.match(preflight.headers['access-control-allow-methods'], /POST/);
    assert.match(preflight.headers['access-control-allow-headers'], /authorization/i);
    assert.match(preflight.headers['access-control-allow-headers'], /content-type/i);
    for (const origin of ['https://evil.example.com', 'http://chat.example.com', 'null']) {
      assert.equal((await ask(origin)).headers['access-control-allow-origin'], undefined, origin);
    }
    const polling = (origin) =>
      axios.get(`${node.url}/socket.io/?EIO=4&transport=polling`, { headers: { Origin: origin }, validateStatus: () => true, proxy: false });
    assert.equal((await polling('https://chat.example.com')).headers['access-control-allow-origin'], 'https://chat.example.com');
    assert.equal((await polling('https://evil.example.com')).headers['access-control-allow-origin'], undefined);
    // Answers and faults bear them too.
    const fault = await axios.get(`${node.url}/api/auth/me`, { headers: { Origin: 'https://other.example.com' }, validateStatus: () => true, proxy: false });
    assert.equal(fault.status, 401);
    assert.equal(fault.headers['access-control-allow-origin'], 'https://other.example.com');
  });

  limited('the origin of a WebSocket handshake', async () => {
    const client = await setup.client();
    const base = setup.nodes[0].url.replace('http', 'ws');
    const open = (path, origin) =>
      new Promise((resolve) => {
        const ws = new WebSocket(base + path, { origin, headers: { Authorization: `Bearer ${client.token}` } });
        ws.on('open', () => resolve(101));
        ws.on('unexpected-response', (_request, response) => resolve(response.statusCode));
        ws.on('error', () => {});
        setup.keep(Promise.resolve({ close: () => ws.terminate() }));
      });
    for (const path of ['/ws', '/socket.io/?EIO=4&transport=websocket']) {
      assert.equal(await open(path, undefined), 101);
      assert.equal(await open(path, 'https://chat.example.com'), 101);
      assert.equal(await open(path, 'https://evil.example.com'), 403, path);
    }
  });
}, { CORS_ORIGINS: 'https://chat.example.com, https://other.example.com' });

describe('rotating the secret', () => {
  test('tokens of a previous secret are still good', async () => {
    const env = { DATABASE_URL: `sqlite://${temporaryFolder()}/chat.db` };
    const fresh = 'the-secret-that-comes-after-the-old-one-0123';
    const node = await Gateway.start({ ...env, JWT_SECRET: fresh, JWT_PREVIOUS_SECRETS: `another-previous-secret-0123456789abc,${JWT_SECRET}` });
    try {
      const registered = await restClient(node.url).post('/auth/register', {
        ...{ email: 'r@example.com', password: secret('a password of mine'), firstName: 'R', lastName: 'R' },
      });
      const { user } = dataOf(registered, 201);
      for (const key of [fresh, JWT_SECRET, 'another-previous-secret-0123456789abc']) {
        dataOf(await restClient(node.url, mintToken(user, 60, { key })).get('/auth/me'));
      }
      const foreign = mintToken(user, 60, { key: 'a-secret-that-was-never-used-0123456789' });
      assert.equal((await restClient(node.url, foreign).get('/auth/me')).status, 401);
      const socket = await Client.connect(node.url, { auth: { token: mintToken(user, 60) } });
      socket.close();
    } finally {
      await node.stop();
    }
  });
});
