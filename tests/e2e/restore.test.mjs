// `gateway restore` on a cluster: a restore that was cut short, which no node serves; and one after which Redis and the clients
// still know what the database has lost.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createAdmin, Gateway, runGateway } from './harness/gateway.mjs';
import { eventually, temporaryFolder } from './harness/processes.mjs';
import { secret, words } from './harness/secrets.mjs';
import { Database } from './harness/servers.mjs';
import { Cluster, describeOn, limitedTest } from './harness/setups.mjs';

/** Runs an upkeep command that must do what it is asked for. */
async function run(env, ...args) {
  const { code, output } = await runGateway(args, env, { withinMs: 60_000 });
  assert.equal(code, 0, output);
  return output;
}

limitedTest('a restore that was cut short is served by no node, is named by doctor, and can be made whole', { timeout: 120_000 }, async () => {
  const database = await Database.create();
  const env = { DATABASE_URL: database.url };
  const nodes = [];
  const start = async (more, options) => {
    const node = await Gateway.start({ ...env, ...more }, options);
    nodes.push(node);
    return node;
  };
  const stopAll = () => Promise.all(nodes.splice(0).map((node) => node.stop()));
  try {
    await run(env, 'migrate');
    const password = secret('a-password-of-an-agent');
    await createAdmin(env, 'agent@example.com', password);
    const file = path.join(temporaryFolder(), 'backup.sql');
    await run(env, 'backup', '--to', file);

    // Without the tool that loads it nothing is touched.
    const bare = await runGateway(['restore', '--from', file, '--replace-everything'], { ...env, PATH: '/nowhere' });
    assert.equal(bare.code, 1);
    assert.match(bare.output, /mariadb-client/);
    await run(env, 'doctor');
    assert.equal((await database.query('SELECT COUNT(*) AS n FROM Users'))[0].n, 1);

    // What is broken comes after the version of the schema and before the accounts.
    const broken = path.join(temporaryFolder(), 'broken.sql');
    const text = readFileSync(file, 'utf8');
    const place = text.indexOf('DROP TABLE IF EXISTS `Users`');
    writeFileSync(broken, `${text.slice(0, place)}SELECT nothing FROM nowhere;\n${text.slice(place)}`);
    // The pool of this test is no node, but counts as one.
    const restore = async (from) => {
      await database.disconnect();
      return runGateway(['restore', '--from', from, '--replace-everything'], env, { withinMs: 60_000 });
    };
    const cut = await restore(broken);
    assert.equal(cut.code, 1, cut.output);
    assert.deepEqual(await database.query("SELECT COUNT(*) AS n FROM SchemaProgress WHERE name = 'schema'"), [{ n: 1 }]);

    const doctor = await runGateway(['doctor'], env);
    assert.equal(doctor.code, 1);
    assert.match(doctor.output, /^fail +schema +.*gateway restore/m);
    for (const AUTO_MIGRATE of ['true', 'false']) {
      const refused = await runGateway(['create-admin', '--email', 'b@example.com', '--password-stdin'], { ...env, AUTO_MIGRATE }, { input: `${password}\n` });
      assert.equal(refused.code, 1);
      assert.match(refused.output, /gateway restore/);
      const node = await start({ AUTO_MIGRATE }, { ready: false });
      await eventually(`AUTO_MIGRATE=${AUTO_MIGRATE}: the log says why`, () => /a restore is under way or was cut short.*gateway restore/.test(node.logs));
      assert.equal(await node.probe('/readyz'), 503);
    }
    await stopAll();

    const whole = await restore(file);
    assert.equal(whole.code, 0, whole.output);
    assert.match(whole.output, /^restored 1 users/m);
    await run(env, 'doctor');
    const serving = await start({ AUTO_MIGRATE: 'false' });
    // A node that serves, when somebody begins to put something into its database by other means, or was overlooked.
    await database.query('CREATE TABLE RestoreUnfinished (id INT NOT NULL PRIMARY KEY)');
    await eventually('a node that was ready is not any more', async () => (await serving.probe('/readyz')) === 503, 10_000);
    assert.match(serving.logs, /a restore is under way/);
    await database.query('DROP TABLE RestoreUnfinished');
    await serving.whenReady();
  } finally {
    await stopAll();
    await database.close();
  }
});

describeOn(Cluster, (setup, test) => {
  test('Redis and the clients still know what the restored database has lost, and nothing new is taken for it', { timeout: 180_000 }, async () => {
    const [agent, person] = [await setup.admin(), await setup.client()];
    const { id } = await person.converse(agent);
    const say = (socket, name, conversationId = id) =>
      socket.ask('chatMessage', { conversationId, message: words(name), clientMessageId: name });
    const names = (socket) => socket.heard
      .filter(({ event, data }) => ['chatMessage', 'messageReceived'].includes(event) && data.conversationId === id)
      .map(({ data }) => data.clientMessageId);

    const writers = [await agent.connect(0), await agent.connect(1)];
    // Comes back by itself, as a browser does; is away while all this happens, with what it needs to recover; has only a place to
    // sync from.
    const staying = await person.connect(0);
    const away = await person.connect(1, { transports: ['websocket'], reconnection: false });
    const plain = await person.connectPlain(0);
    for (const name of ['kept 1', 'kept 2', 'kept 3']) await say(writers[0], name);
    await plain.next('chatMessage', (m) => m.clientMessageId === 'kept 3');
    const keptPlace = plain.all('chatMessage').find((m) => m.clientMessageId === 'kept 2').eventSeq;
    const file = path.join(temporaryFolder(), 'backup.sql');
    await run(setup.storeEnv, 'backup', '--to', file);

    // Life goes on, and is lost: messages, and a conversation.
    for (const name of ['lost 1', 'lost 2']) await say(writers[1], name);
    const newcomer = await setup.client();
    const lostTalk = await newcomer.converse(agent);
    await say(writers[0], 'lost elsewhere', lostTalk.id);
    for (const socket of [staying, away, plain]) await socket.next('chatMessage', (m) => m.clientMessageId === 'lost 2');
    away.socket.io.engine.transport.ws.terminate();
    await away.disconnected();
    await say(writers[0], 'lost 3');
    await plain.next('chatMessage', (m) => m.clientMessageId === 'lost 3');
    const lostPlace = plain.all('chatMessage').find((m) => m.clientMessageId === 'lost 3').eventSeq;
    plain.close();

    // Everything stops but Redis.
    const restore = async () => {
      await Promise.all(setup.nodes.map((node) => node.stop()));
      await setup.database.disconnect();
      await run(setup.storeEnv, 'restore', '--from', file, '--replace-everything');
      const begun = await Promise.all(setup.nodes.map(({ port }) => Gateway.start({ ...setup.storeEnv, PORT: String(port) })));
      setup.nodes.splice(0, setup.nodes.length, ...begun);
    };
    await restore();

    for (const socket of [...writers, staying]) await socket.reconnected(30_000);
    const fresh = await person.connect(1);
    // From both nodes at once, into a conversation that Redis takes to be elsewhere. What was lost may be said again by its name.
    const said = ['new 1', 'new 2', 'new 3', 'lost 1', 'new 4', 'new 5'];
    const stored = [];
    for (const [i, name] of said.entries()) stored.push(await say(writers[i % 2], name));
    assert.deepEqual(stored.map(({ seq }) => seq), [4, 5, 6, 7, 8, 9]);

    // Who was there, and who comes now: each once, in order, by the way of the bus.
    for (const socket of [staying, fresh]) await socket.next('chatMessage', (m) => m.clientMessageId === 'new 5', 20_000);
    assert.deepEqual(names(fresh), said);
    assert.deepEqual(names(staying), ['kept 1', 'kept 2', 'kept 3', 'lost 1', 'lost 2', 'lost 3', ...said]);

    // Who was away: recovered from what Redis has kept, which is all of it; the lost one that it had not heard comes first.
    away.socket.io.uri = setup.socketUrl(0);
    away.socket.connect();
    await away.reconnected();
    await away.next('chatMessage', (m) => m.clientMessageId === 'new 5', 20_000);
    assert.equal(away.socket.recovered, true);
    assert.deepEqual(names(away), ['kept 1', 'kept 2', 'kept 3', 'lost 1', 'lost 2', 'lost 3', ...said]);
    const last = await say(writers[0], 'new 6');
    for (const socket of [staying, fresh, away]) await socket.next('chatMessage', (m) => m.clientMessageId === 'new 6');

    // Who comes back by `sync`, from a place that the backup has, or from one that it has not.
    const again = await person.connectPlain(1);
    const missedAfter = async (afterEventSeq) => {
      const { conversations: [answer] } = await again.ask('sync', { conversations: [{ conversationId: id, afterEventSeq }] });
      assert.equal(answer.hasMore, false);
      assert.equal(answer.lastSeq, 10);
      assert.equal(answer.lastEventSeq, last.eventSeq);
      assert.ok(!answer.gone);
      const places = answer.events.map(({ eventSeq }) => eventSeq);
      assert.ok(places.every((place, i) => place > (places[i - 1] ?? afterEventSeq)), String(places));
      return answer.events.map(({ data }) => data.clientMessageId);
    };
    assert.deepEqual(await missedAfter(lostPlace), [...said, 'new 6']);
    assert.deepEqual(await missedAfter(keptPlace), ['kept 3', ...said, 'new 6']);
    assert.deepEqual(await missedAfter(last.eventSeq), []);
    // The head tells that something happened, also to who had heard more than there is now.
    const { conversations: heads } = await again.ask('sync', {});
    assert.deepEqual(heads.map(({ conversationId, lastEventSeq }) => [conversationId, lastEventSeq]), [[id, last.eventSeq]]);
    assert.ok(last.eventSeq > lostPlace);

    // What is lost altogether is not there, whoever asks; and its number names nothing else later.
    const position = { conversationId: lostTalk.id, afterEventSeq: 1 };
    assert.equal(await writers[0].refused('sync', { conversations: [position] }), 'CONVERSATION_NOT_FOUND');
    const next = await setup.client();
    assert.ok(next.id > newcomer.id);
    assert.ok((await next.converse(agent)).id > lostTalk.id);
    assert.equal((await newcomer.rest.get('/auth/me')).status, 404);

    // The same backup once more: what was said after the first restore is lost as well, and is not taken for what is said now.
    await restore();
    for (const socket of [...writers, staying]) await socket.reconnected(30_000);
    for (const name of ['newer 1', 'newer 2']) assert.ok((await say(writers[0], name)).eventSeq > last.eventSeq);
    await staying.next('chatMessage', (m) => m.clientMessageId === 'newer 2', 20_000);
    assert.deepEqual(names(staying).slice(-4), ['new 5', 'new 6', 'newer 1', 'newer 2']);
  });
});
