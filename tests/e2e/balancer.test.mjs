// What the shipped balancer sees to: long-polling stays on one node without a cookie, WebSockets are spread, and a fault that all nodes see ends
// nothing. What nodes do that go is in drain.test.mjs and node-death.test.mjs.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { describe } from 'node:test';
import axios from 'axios';
import { assertError, dataOf } from './harness/assertions.mjs';
import { eventually, freePort, pause } from './harness/processes.mjs';
import { words } from './harness/secrets.mjs';
import { startHaproxy, startRedis } from './harness/servers.mjs';
import { Cluster, describeOn, limitedTest } from './harness/setups.mjs';
import { Client, PlainClient } from './harness/sockets.mjs';

describeOn(Cluster, (setup, test) => {
  /** As a page of another origin does it: nothing but the token, and no cookie. */
  const connect = (person, options) => setup.keep(Client.connect(setup.url, { auth: { token: person.token }, ...options }));

  test('default options alone connect by polling, upgrade and chat', async () => {
    const agent = await setup.admin();
    const client = await setup.client();
    const { id } = await client.converse(agent);
    const sockets = [await connect(client)];
    for (const node of [0, 1]) sockets.push(await connect(agent, { agent: setup.agentTo(node) }));
    for (const socket of sockets) await socket.upgraded();
    const [clientSocket, ...agentSockets] = sockets;
    const message = await clientSocket.ask('chatMessage', { conversationId: id, message: words() });
    for (const socket of agentSockets) assert.deepEqual(await socket.next('chatMessage'), message);
    const answer = await agentSockets[0].ask('chatMessage', { conversationId: id, message: words() });
    for (const socket of [clientSocket, agentSockets[1]]) {
      assert.deepEqual(await socket.next('chatMessage', (m) => m.id === answer.id), answer);
    }
    for (const socket of sockets) assert.deepEqual(socket.disconnects, []);
  });

  test('polling alone, without a cookie, stays connected', async () => {
    const agent = await setup.admin();
    const client = await setup.client();
    const { id } = await client.converse(agent);
    const polling = [];
    for (const node of [0, 1]) polling.push(await connect(client, { transports: ['polling'], agent: setup.agentTo(node) }));
    for (let i = 0; i < 10; i++) {
      const message = await polling[i % 2].ask('chatMessage', { conversationId: id, message: words() });
      assert.deepEqual(await polling[(i + 1) % 2].next('chatMessage'), message);
    }
    for (const socket of polling) assert.deepEqual(socket.disconnects, []);
  });

  test('WebSockets that begin as such are dealt out evenly, whatever their address', async () => {
    const client = await setup.client();
    const before = await Promise.all(setup.nodes.map((node) => node.metric('chat_connections')));
    // All from one address, which the hash would lead to one node.
    const options = { transports: ['websocket'], agent: setup.agentTo(0) };
    for (let i = 0; i < 6; i++) await connect(client, options);
    for (let i = 0; i < 4; i++) await setup.keep(PlainClient.connect(setup.url, { token: client.token }));
    const after = await Promise.all(setup.nodes.map((node) => node.metric('chat_connections')));
    const gained = after.map((count, i) => count - before[i]);
    assert.equal(gained[0] + gained[1], 10);
    // By what each has through this backend: sockets that came by polling count elsewhere.
    assert.deepEqual(gained, [5, 5]);
  });

  test('the balancer tells Prometheus how its nodes are', async () => {
    const ask = (path) =>
      axios.get(`http://127.0.0.1:${setup.haproxy.metricsPort}${path}`, { validateStatus: () => true, proxy: false });
    const { data } = await ask('/metrics');
    for (const server of ['a', 'b']) {
      const up = `haproxy_server_status{proxy="gateways",server="${server}",state="UP"} 1`;
      assert.ok(data.includes(up), up);
    }
    assert.equal((await ask('/')).status, 404);
    assert.equal((await axios.get(`${setup.url}/metrics`, { validateStatus: () => true, proxy: false })).status, 404);
  });

  test('while Redis is away from all nodes, requests are answered, and a polling client is served again by itself', async () => {
    const agent = await setup.admin();
    const client = await setup.client();
    const { id } = await client.converse(agent);
    const polling = await connect(client, { transports: ['polling'] });
    const port = setup.redis.port;
    await setup.redis.stop('SIGKILL');
    for (const node of setup.nodes) await eventually('not ready', async () => (await node.probe('/readyz')) === 503);
    // Longer than the balancer takes to see it.
    await pause(4000);
    assert.equal(dataOf(await client.rest.get(`/chat/conversations/${id}`)).id, id);
    setup.redis = await startRedis(port);
    for (const node of setup.nodes) await node.whenReady();
    // The balancer may see one node ready a second before the other, and then send the other's sessions there: their clients
    // come back by themselves.
    const join = () => polling.ask('joinConversation', { conversationId: id }).catch(() => undefined);
    await eventually('it is served again', async () => (await join())?.id === id);
  });
});

describe('without a node', () => {
  limitedTest('the balancer answers as the gateway does, to any page', async () => {
    const haproxy = await startHaproxy([await freePort(), await freePort()]);
    try {
      for (const [headers, origin] of [[{ Origin: 'https://app.example.com' }, 'https://app.example.com'], [{}, undefined]]) {
        const answer = await axios.get(`${haproxy.url}/api/auth/me`, { headers, validateStatus: () => true, proxy: false });
        assertError(answer, 503, 'SERVICE_UNAVAILABLE');
        assert.equal(answer.headers['content-type'], 'application/json');
        assert.equal(answer.headers['retry-after'], '1');
        assert.equal(answer.headers['access-control-allow-origin'], origin);
      }
    } finally {
      await haproxy.stop();
    }
  });

  limitedTest('a node that comes back gets new sockets in growing measure', async () => {
    let ready = true;
    const servers = [0, 1].map(() => http.createServer((_request, response) => response.writeHead(ready ? 200 : 503).end()));
    for (const server of servers) await once(server.listen(0, '127.0.0.1'), 'listening');
    const haproxy = await startHaproxy(servers.map((server) => server.address().port));
    const ofNodeA = async (proxy, name, more = '') => {
      const { data } = await axios.get(`http://127.0.0.1:${haproxy.metricsPort}/metrics`, { proxy: false });
      const labels = `{proxy="${proxy}",server="a"${more}} `;
      const line = data.split('\n').find((l) => l.startsWith(`haproxy_server_${name}${labels}`));
      return Number(line?.split(' ')[1]);
    };
    const isUp = (up) => async () => (await ofNodeA('sockets', 'status', ',state="UP"')) === up;
    try {
      ready = false;
      await eventually('it is out', isUp(0));
      ready = true;
      await eventually('it is back', isUp(1));
      // Per cent of its share; no value where it has all of it. What goes by the hash goes there at once.
      assert.ok((await ofNodeA('sockets', 'current_throttle')) < 50);
      assert.ok(Number.isNaN(await ofNodeA('gateways', 'current_throttle')));
    } finally {
      await haproxy.stop();
      for (const server of servers) server.close();
    }
  });
});
