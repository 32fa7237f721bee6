// Connection state recovery: a stock client whose connection broke comes back to any node, and has missed nothing without
// a line of code for it; and where that can't be promised, `recovered` is false.

import assert from 'node:assert/strict';
import { pause } from './harness/processes.mjs';
import { words } from './harness/secrets.mjs';
import { Cluster, describeOn, onBothSetups } from './harness/setups.mjs';

/** A client that comes back when it is told to. */
async function connectHeld(person, node = 0, options = {}) {
  const client = await person.connect(node, { transports: ['websocket'], reconnection: false, ...options });
  assert.equal(client.socket.recovered, false);
  return client;
}

/** Cuts a client off, as a tunnel does: neither side says goodbye. */
async function cutOff(client) {
  const count = client.disconnects.length;
  client.socket.io.engine.transport.ws.terminate();
  while (client.disconnects.length === count) await pause(5);
}

/** Lets a client come back, to the `node`th node. */
async function comeBack(setup, client, node = 0) {
  client.socket.io.uri = setup.socketUrl(node);
  client.socket.connect();
  await client.reconnected();
}

const seqs = (client, ...events) =>
  client.heard.filter((e) => events.includes(e.event)).map((e) => e.data.seq);

onBothSetups((setup, test) => {
  test('what was missed comes once and in order, on another node, and nothing changes for the client', async () => {
    const [agent, person] = [await setup.admin(), await setup.client()];
    const { id } = await person.converse(agent);
    const say = (socket, text) => socket.ask('chatMessage', { conversationId: id, message: words(text) });
    const [writer, client] = [await agent.connect(1), await connectHeld(person)];
    await say(writer, 'heard live');
    await client.next('chatMessage', (m) => m.seq === 1);
    const [sid, before] = [client.socket.id, client.heard.length];

    await cutOff(client);
    for (let i = 2; i <= 9; i++) await say(writer, `missed ${i}`);
    await comeBack(setup, client, 1);
    assert.equal(client.socket.recovered, true);
    assert.equal(client.socket.id, sid);
    await say(writer, 'live again');
    await client.next('chatMessage', (m) => m.seq === 10);
    assert.deepEqual(seqs(client, 'chatMessage'), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);

    // Its own message still comes back under its own name, and the way on is as good as the first time.
    await say(client, 'its own');
    await client.next('messageReceived', (m) => m.seq === 11);
    await cutOff(client);
    await say(writer, 'missed again');
    await comeBack(setup, client, 0);
    assert.equal(client.socket.recovered, true);
    await client.next('chatMessage', (m) => m.seq === 12);
    assert.deepEqual(seqs(client, 'chatMessage', 'messageReceived'), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert.ok(client.heard.length > before);
  });

  test('a client that has heard nothing yet, and polls, recovers too', async () => {
    const [agent, person] = [await setup.admin(), await setup.client()];
    const { id } = await person.converse(agent);
    const writer = await agent.connect(0);
    const client = await person.connect(0, { transports: ['polling'], reconnection: false });
    client.socket.io.engine.close();
    await client.disconnected();
    await writer.ask('chatMessage', { conversationId: id, message: words('while away') });
    await comeBack(setup, client, 1);
    assert.equal(client.socket.recovered, true);
    await client.next('chatMessage', (m) => m.seq === 1);
  });

  test('an agent hears all that it missed of what concerns it, each event once', async () => {
    const [agent, colleague, person] = [await setup.admin(), await setup.admin(), await setup.client()];
    const { id } = await person.converse(agent);
    const client = await person.connect(1);
    const watcher = await connectHeld(colleague);
    await watcher.ask('joinConversation', { conversationId: id });
    await client.ask('chatMessage', { conversationId: id, message: words('one') });
    await watcher.next('newMessageNotification', (n) => n.conversationId === id);
    await watcher.next('chatMessage', (m) => m.seq === 1);

    await cutOff(watcher);
    const missed = [2, 3, 4].map((n) => client.ask('chatMessage', { conversationId: id, message: words(String(n)) }));
    await Promise.all(missed);
    await client.ask('markAsRead', { conversationId: id });
    await comeBack(setup, watcher, 1);
    assert.equal(watcher.socket.recovered, true);
    // The conversation is open again, without asking.
    await client.ask('chatMessage', { conversationId: id, message: words('five') });
    await watcher.next('chatMessage', (m) => m.seq === 5);
    await watcher.next('newMessageNotification', (n) => n.conversationId === id && n.message.seq === 5);
    assert.deepEqual(seqs(watcher, 'chatMessage'), [1, 2, 3, 4, 5]);
    const notified = watcher.all('newMessageNotification', (n) => n.conversationId === id).map((n) => n.message.seq);
    assert.deepEqual(notified, [1, 2, 3, 4, 5]);

    // One that was closed stays closed.
    await watcher.ask('leaveConversation', { conversationId: id });
    await cutOff(watcher);
    await client.ask('chatMessage', { conversationId: id, message: words('six') });
    await comeBack(setup, watcher, 0);
    assert.equal(watcher.socket.recovered, true);
    await watcher.next('newMessageNotification', (n) => n.conversationId === id && n.message.seq === 6);
    watcher.hasNotHeard('chatMessage', (m) => m.seq === 6);
  });

  test('nobody recovers what is not theirs, or what they left', async () => {
    const [agent, person, other] = [await setup.admin(), await setup.client(), await setup.client()];
    const { id } = await person.converse(agent);
    const writer = await agent.connect(0);
    const client = await connectHeld(person);
    await writer.ask('chatMessage', { conversationId: id, message: words('one') });
    await client.next('chatMessage', (m) => m.seq === 1);
    const [pid, offset, sid] = [client.socket._pid, client.socket._lastOffset, client.socket.id];
    assert.ok(pid && offset);
    await cutOff(client);
    await writer.ask('chatMessage', { conversationId: id, message: words('two') });

    // Somebody else with a good token of their own, and all that the client knows.
    const thief = await other.connect(1, { auth: { token: other.token, pid, offset }, reconnection: false });
    assert.notEqual(thief.socket.id, sid);
    assert.notEqual(thief.socket._pid, pid);
    // Its owner, with nonsense.
    for (const nonsense of [{ pid: 'x', offset }, { pid: 7, offset: {} }, { pid: `${pid}x` }, { pid: null, offset: null }]) {
      const confused = await person.connect(1, { auth: { token: person.token, ...nonsense }, reconnection: false });
      assert.notEqual(confused.socket._pid, pid);
      confused.close();
    }
    // A bad token gets nothing, whatever it shows.
    const refused = await client.constructor.refusal(setup.url, { auth: { token: 'x', pid, offset } });
    assert.equal(refused.data.code, 'INVALID_TOKEN');
    await comeBack(setup, client, 1);
    assert.equal(client.socket.recovered, true);
    await client.next('chatMessage', (m) => m.seq === 2);
    thief.hasNotHeard('chatMessage');

    // Who says goodbye leaves nothing to come back to.
    client.socket.disconnect();
    await writer.ask('chatMessage', { conversationId: id, message: words('three') });
    await comeBack(setup, client, 0);
    assert.equal(client.socket.recovered, false);
    await writer.ask('chatMessage', { conversationId: id, message: words('four') });
    await client.next('chatMessage', (m) => m.seq === 4);
    client.hasNotHeard('chatMessage', (m) => m.seq === 3);
  });

  test('offsets that nobody gave out lead nowhere', async () => {
    const [agent, person] = [await setup.admin(), await setup.client()];
    await person.converse(agent);
    const client = await connectHeld(person);
    for (const offset of ['0000000000000000:1', 'zz', 'ffffffffffffffff:18446744073709551615:3']) {
      client.socket._lastOffset = offset;
      await cutOff(client);
      await comeBack(setup, client, 1);
      // What the node itself knows is enough.
      assert.equal(client.socket.recovered, true, offset);
    }
  });

  test('more than a socket may have waiting is not sent at once: the client is to sync', async () => {
    const [agent, person] = [await setup.admin(), await setup.client()];
    const { id } = await person.converse(agent);
    const writer = await agent.connect(1);
    const client = await connectHeld(person);
    await cutOff(client);
    const long = words('long ').repeat(1000).slice(0, 5000);
    for (let round = 0; round < 8; round++) {
      const some = Array.from({ length: 20 }, () => writer.ask('chatMessage', { conversationId: id, message: long }));
      await Promise.all(some);
      await pause(400);
    }
    await comeBack(setup, client, 0);
    assert.equal(client.socket.recovered, false);
    await writer.ask('chatMessage', { conversationId: id, message: words('live') });
    await client.next('chatMessage', (m) => m.seq === 161);
    assert.deepEqual(seqs(client, 'chatMessage'), [161]);
  });
}, { RATE_LIMIT_EVENTS_PER_SECOND: '0' });

describeOn(Cluster, (setup, test) => {
  test('a node is killed: its clients recover on the other, those too that heard nothing for long', async () => {
    const agent = await setup.admin();
    const people = await Promise.all(Array.from({ length: 10 }, () => setup.client()));
    const talks = await Promise.all(people.map((person) => person.converse(agent).then(({ id }) => id)));
    const writer = await agent.connect(1);
    const clients = await Promise.all(people.map((person) => person.connect(0, { reconnectionDelay: 100 })));
    const say = (i, text) => writer.ask('chatMessage', { conversationId: talks[i], message: words(text) });
    await say(0, 'one has heard something');
    await clients[0].next('chatMessage');

    for (const client of clients) client.socket.io.uri = setup.socketUrl(1);
    setup.nodes[0].program.child.kill('SIGKILL');
    await Promise.all(people.map((_, i) => say(i, 'while they are away')));
    await Promise.all(clients.map((client) => client.disconnected()));
    await Promise.all(clients.map((client) => client.reconnected()));
    await Promise.all(people.map((_, i) => say(i, 'live')));
    for (const [i, client] of clients.entries()) {
      assert.equal(client.socket.recovered, true, `client ${i}`);
      const last = i === 0 ? 3 : 2;
      await client.next('chatMessage', (m) => m.seq === last);
      assert.deepEqual(seqs(client, 'chatMessage'), Array.from({ length: last }, (_, n) => n + 1));
    }
  });
});
