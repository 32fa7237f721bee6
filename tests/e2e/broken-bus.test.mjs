// Nodes whose links to Redis break in every way while people go on writing: whoever stayed connected hears every message
// once and in order, and needs to do nothing for it.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { eventually, pause } from './harness/processes.mjs';
import { words } from './harness/secrets.mjs';
import { Cable, startRedis } from './harness/servers.mjs';
import { Cluster, describeOn } from './harness/setups.mjs';

/** Two nodes, the second of which reaches Redis by a cable. */
class Cabled extends Cluster {
  async nodeEnvs() {
    this.cable = await Cable.to(this.redis.port);
    await this.cable.plugIn();
    return [this.storeEnv, { ...this.storeEnv, REDIS_URL: `redis://127.0.0.1:${this.cable.port}/` }];
  }

  async stop() {
    await super.stop();
    await this.cable?.pullOut();
  }
}

describeOn(Cabled, (setup, test) => {
  test('links are killed and cut, Redis comes back empty, and nobody misses a message', { timeout: 120_000 }, async () => {
    const agent = await setup.admin();
    const people = await Promise.all([1, 2, 3].map(() => setup.client()));
    const talks = await Promise.all(people.map((person) => person.converse(agent).then(({ id }) => id)));
    const listeners = [
      { name: 'the agent on the first node', socket: await agent.connect(0), of: talks },
      { name: 'the agent on the second node', socket: await agent.connect(1), of: talks },
    ];
    for (const [i, person] of people.entries()) {
      const socket = await person.connect(i);
      listeners.push({ name: `client ${i}`, socket, of: [talks[i]] });
      const other = await person.connect(i + 1);
      listeners.push({ name: `client ${i} elsewhere`, socket: other, of: [talks[i]] });
    }

    // A steady flow from both nodes, into every conversation, from both sides.
    let flowing = true;
    let acknowledged = 0;
    const write = async (socket, id) => {
      const waiting = [];
      for (let i = 0; flowing; i++) {
        waiting.push(socket.ask('chatMessage', { conversationId: id, message: words(String(i)) }).then(() => acknowledged++));
        await pause(25);
      }
      await Promise.all(waiting);
    };
    const writers = people.map((_, i) => write(listeners[2 + 2 * i].socket, talks[i]));
    writers.push(...talks.map((id, i) => write(listeners[i % 2].socket, id)));

    // Links that are killed come back, and the bus has what they missed.
    for (let i = 0; i < 8; i++) {
      await pause(250);
      await tellRedis(setup.redis.port, 'CLIENT KILL TYPE pubsub');
    }
    // A link that is cut for a while.
    await setup.cable.pullOut();
    await pause(1500);
    await setup.cable.plugIn();
    await pause(1500);
    for (const node of setup.nodes) {
      assert.ok((await node.metric('chat_bus_gaps_total', { filled_by: 'history' })) > 0, 'the bus had what was missed');
      assert.equal(await node.metric('chat_bus_gaps_total', { filled_by: 'database' }), 0);
    }
    // One that is cut, and then what it missed is lost with Redis. Only the database has it.
    await setup.cable.pullOut();
    await pause(1500);
    await setup.redis.stop('SIGKILL');
    await pause(500);
    setup.redis = await startRedis(setup.redis.port);
    await pause(500);
    await setup.cable.plugIn();
    await pause(1500);
    // Once more, with nothing cut before.
    await setup.redis.stop('SIGKILL');
    setup.redis = await startRedis(setup.redis.port);
    await pause(1000);
    await tellRedis(setup.redis.port, 'CLIENT KILL TYPE pubsub');
    await pause(500);
    flowing = false;
    await Promise.all(writers);

    const count = await setup.database.query('SELECT conversationId AS id, COUNT(*) AS n FROM Messages GROUP BY conversationId');
    const stored = new Map(count.map(({ id, n }) => [String(id), n]));
    assert.equal([...stored.values()].reduce((a, b) => a + b, 0), acknowledged);
    for (const { name, socket, of } of listeners) {
      for (const id of of) {
        const heard = () =>
          socket.heard
            .filter((e) => ['chatMessage', 'messageReceived'].includes(e.event) && e.data.conversationId === id)
            .map((e) => e.data.seq);
        const expected = Array.from({ length: stored.get(String(id)) }, (_, i) => i + 1);
        await eventually(`${name} has heard all of conversation ${id}`, () => heard().includes(expected.length), 20_000).catch(
          () => {},
        );
        assert.deepEqual(heard(), expected, `${name}, conversation ${id}`);
        assert.deepEqual(socket.disconnects, [], `${name} stayed connected`);
      }
    }
    for (const node of setup.nodes) {
      assert.ok((await node.metric('chat_bus_gaps_total', { filled_by: 'database' })) > 0, 'the log had what Redis lost');
      assert.ok((await node.metric('chat_bus_replayed_total')) > 0);
    }
  });
});

/** One command, without any library between. */
async function tellRedis(port, command) {
  const socket = net.connect(port, '127.0.0.1');
  await once(socket, 'connect');
  socket.write(`${command}\r\n`);
  const [answer] = await once(socket, 'data');
  socket.destroy();
  assert.match(String(answer), /^[:+]/);
}
