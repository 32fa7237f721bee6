// SIGTERM: the node stops being ready, moves its sockets elsewhere in batches, finishes what is in flight and ends with 0.
// The death of a node without goodbye is in node-death.test.mjs.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { describe } from 'node:test';
import { Gateway } from './harness/gateway.mjs';
import { eventually, pause, temporaryFolder, within } from './harness/processes.mjs';
import { words } from './harness/secrets.mjs';
import { Cluster, describeOn, limitedTest } from './harness/setups.mjs';
import { Client } from './harness/sockets.mjs';

const DRAIN_SECONDS = 4;

describeOn(Cluster, (setup, test) => {
  test('clients of a node that goes come back on the other by themselves, and chat on', async () => {
    const agent = await setup.admin();
    const leaving = setup.nodes[0];
    const people = [];
    while (people.length < 6) {
      const client = await setup.client();
      const { id } = await client.converse(agent);
      // Through the balancer, to node `a` as its cookie says; the cookie must not hold them there.
      const options = { withCredentials: true, extraHeaders: { cookie: 'GATEWAY=a' }, reconnectionDelay: 200 };
      // A WebSocket that begins as one goes wherever there are fewest: those on the other node are not what this is about.
      if (people.length % 2) options.transports = ['websocket'];
      const socket = await viaBalancer(client, options);
      if ((await leaving.metric('chat_connections')) > people.length) people.push({ id, client, socket });
    }
    const agentSocket = await viaBalancer(agent, { withCredentials: true, extraHeaders: { cookie: 'GATEWAY=b' } });
    await eventually('they are on the first node', async () => (await leaving.metric('chat_connections')) === 6);
    const plain = await people[0].client.connectPlain(0);

    const began = Date.now();
    const ended = leaving.stop('SIGTERM', (DRAIN_SECONDS + 10) * 1000);
    await eventually('/readyz is 503', async () => [503, undefined].includes(await leaving.probe('/readyz')), 3000);
    assert.equal((await plain.whenClosed()).code, 1012);
    // While it drains, what clients write is stored and delivered.
    const sent = [];
    for (const { id, socket } of people) {
      await socket.reconnected(15_000);
      const body = { conversationId: id, message: words(), clientMessageId: 'while draining' };
      const request = () => socket.request('chatMessage', body).catch(() => undefined);
      sent.push((await eventually('acknowledged', async () => ((answer) => answer?.success && answer)(await request()))).data);
    }
    const { code } = await ended;
    assert.equal(code, 0);
    assert.ok(Date.now() - began < (DRAIN_SECONDS + 8) * 1000);
    for (const { socket } of people) {
      await socket.reconnected(15_000);
      assert.ok(socket.disconnects.length >= 1);
      for (const { reason } of socket.disconnects) assert.ok(['transport close', 'transport error'].includes(reason), reason);
    }
    for (const message of sent) await agentSocket.next('chatMessage', (m) => m.id === message.id);
    assert.deepEqual(agentSocket.disconnects, []);
    assert.equal(await setup.nodes[1].probe('/readyz'), 200);
    // Where they are now, they hear.
    const { id, socket } = people[1];
    const answer = await agentSocket.ask('chatMessage', { conversationId: id, message: words() });
    assert.deepEqual(await socket.next('chatMessage', (m) => m.id === answer.id), answer);
  });

  function viaBalancer(person, options) {
    return setup.keep(Client.connect(setup.url, { auth: { token: person.token }, ...options }));
  }
}, { DRAIN_SECONDS: String(DRAIN_SECONDS) });

describe('without sockets', () => {
  limitedTest('a node serves until balancers have noticed that it goes, then ends with 0', async () => {
    const node = await Gateway.start({ DATABASE_URL: `sqlite://${temporaryFolder()}/chat.db`, DRAIN_SECONDS: '30' });
    const began = Date.now();
    const ended = node.stop('SIGTERM');
    await eventually('it goes, and says so', async () => (await node.probe('/readyz')) === 503);
    // A balancer asks every second, and believes the third answer.
    for (let seconds = 0; seconds < 3; seconds += 1) {
      assert.equal(await node.probe('/api/openapi.json'), 200);
      await pause(1000);
    }
    const { code } = await ended;
    assert.equal(code, 0);
    assert.ok(Date.now() - began < 10_000, 'there was nobody to wait for any more');
  });

  limitedTest('a node ends, with 0, though a client never takes its answers', async () => {
    const node = await Gateway.start({ DATABASE_URL: `sqlite://${temporaryFolder()}/chat.db` });
    const client = net.connect(node.port, '127.0.0.1');
    client.on('error', () => {});
    // More than the kernels' buffers hold; what is readable is never read.
    client.write('GET /api/docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: node\r\n\r\n'.repeat(30));
    await within(10_000, once(client, 'readable'), () => 'the first answer');
    const { code } = await node.stop('SIGTERM');
    assert.equal(code, 0);
    client.destroy();
  });
});
