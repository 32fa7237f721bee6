// The main story through the whole house: two browsers' worth of default-option sockets, on different nodes behind HAProxy
// with its stickiness cookie, over MariaDB and Redis: they chat, type, read, and see each other come and go.
//
// A browser keeps the balancer's cookie and sends it back by itself; Node has no cookie jar, so here the clients say
// `withCredentials: true`, which gives each of them one. Nothing else differs from `io(URL, {auth: {token}})`.

import assert from 'node:assert/strict';
import { dataOf } from './harness/assertions.mjs';
import { eventually } from './harness/processes.mjs';
import { words } from './harness/secrets.mjs';
import { Cluster, describeOn } from './harness/setups.mjs';
import { Client } from './harness/sockets.mjs';

describeOn(Cluster, (setup, test) => {
  // The balancer goes by the client's address: the `agent` gives it one that leads to that node.
  const browser = (person, node) =>
    setup.keep(Client.connect(setup.url, { auth: { token: person.token }, withCredentials: true, agent: setup.agentTo(node) }));

  test('a client and an agent on different nodes', async () => {
    const agent = await setup.admin('Ada', 'Agent');
    const client = await setup.client();
    const { id } = await client.converse(agent);

    const agentSocket = await browser(agent, 0);
    const clientSocket = await browser(client, 1);
    for (const socket of [agentSocket, clientSocket]) await socket.upgraded();
    assert.deepEqual([await nodeOf('admin'), await nodeOf('user')], ['0', '1'], 'they are on different nodes');

    // They see each other come.
    assert.equal((await agentSocket.next('userOnline', (e) => e.userId === client.id)).role, 'user');
    assert.deepEqual((await clientSocket.ask('getOnlineUsers', {})).users.map((u) => u.id), [agent.id]);

    // They chat.
    for (const socket of [agentSocket, clientSocket]) await socket.ask('joinConversation', { conversationId: id });
    const question = await clientSocket.ask('chatMessage', { conversationId: id, message: words('is anybody there?') });
    assert.deepEqual(await agentSocket.next('chatMessage'), question);
    assert.deepEqual((await agentSocket.next('newMessageNotification')).message, question);
    assert.deepEqual(await clientSocket.next('messageReceived'), question);

    // The agent types, and answers.
    agentSocket.send('typing', { conversationId: id, isTyping: true });
    assert.deepEqual(await clientSocket.next('typingStatus'), { conversationId: id, userId: agent.id, isTyping: true });
    agentSocket.send('typing', { conversationId: id, isTyping: false });
    assert.equal((await clientSocket.next('typingStatus')).isTyping, false);
    const answer = await agentSocket.ask('chatMessage', { conversationId: id, message: words('yes') });
    assert.deepEqual(await clientSocket.next('chatMessage'), answer);

    // They read.
    assert.deepEqual(await agentSocket.ask('markAsRead', { conversationId: id }), { upToSeq: 2, count: 1 });
    assert.equal((await clientSocket.next('messagesRead')).readBy, agent.id);
    assert.deepEqual(await clientSocket.ask('markAsRead', { conversationId: id }), { upToSeq: 2, count: 1 });
    assert.equal((await agentSocket.next('messagesRead')).readBy, client.id);

    // A hundred each way at once: the same order on both sides, each message once.
    const burst = (socket) => Array.from({ length: 100 }, () => socket.ask('chatMessage', { conversationId: id, message: words() }));
    await Promise.all([...burst(agentSocket), ...burst(clientSocket)]);
    const everySeq = Array.from({ length: 202 }, (_, i) => i + 1);
    for (const socket of [agentSocket, clientSocket]) {
      const seqs = () => socket.heard.filter((e) => ['chatMessage', 'messageReceived'].includes(e.event)).map((e) => e.data.seq);
      await eventually('all have come', () => seqs().length >= everySeq.length);
      assert.deepEqual(seqs(), everySeq);
    }
    const { messages } = dataOf(await client.rest.get(`/chat/conversations/${id}/messages`, { params: { afterSeq: 100, limit: 100 } }));
    assert.deepEqual(messages.map((m) => m.seq), everySeq.slice(100, 200));

    // And they see each other go.
    agentSocket.close();
    assert.equal((await clientSocket.next('userOffline', undefined, 25_000)).userId, agent.id);
    assert.deepEqual((await clientSocket.ask('getOnlineUsers', {})).users, []);
    clientSocket.hasNotHeard('error');
    agentSocket.hasNotHeard('error');
  });

  /** The index of the one node that has sockets of that role. */
  async function nodeOf(role) {
    return eventually(`one node has the ${role}`, async () => {
      const counts = await Promise.all(setup.nodes.map((node) => node.metric('chat_connections', { role })));
      const at = counts.findIndex((count) => count > 0);
      return at >= 0 && counts.filter((count) => count > 0).length === 1 && String(at);
    });
  }
});
