// The chat over Socket.IO with the stock client: connecting, messages, reading, sync, who hears what and who does not.
// Clients and agents are on different nodes where there are two. Typing and presence are in presence.test.mjs, the life
// of tokens in tokens.test.mjs.

import assert from 'node:assert/strict';
import { assertConversationShape, assertMessageShape, assertNoContent, assertTime, dataOf } from './harness/assertions.mjs';
import { unique, words } from './harness/secrets.mjs';
import { onBothSetups } from './harness/setups.mjs';
import { Client } from './harness/sockets.mjs';
import { mintToken } from './harness/tokens.mjs';

onBothSetups((setup, test) => {
  let agent, colleague;

  test('agents arrive', async () => {
    agent = await setup.admin('Ada', 'Agent');
    colleague = await setup.admin('Cole', 'League');
  });

  /** A client with a conversation, and sockets of both: the client's on one node, the agent's on the other. */
  async function pair() {
    const client = await setup.client();
    const conversation = await client.converse(agent);
    const [hers, his] = await Promise.all([agent.connect(1), client.connect(0)]);
    return { client, conversation, id: conversation.id, agentSocket: hers, clientSocket: his };
  }

  /** Waits until everything sent in a conversation so far has passed a socket that hears its messages. */
  async function passes(sender, id, listeners) {
    const marker = await sender.ask('chatMessage', { conversationId: id, message: words('marker') });
    for (const listener of listeners) await listener.next('chatMessage', (m) => m.id === marker.id);
  }

  test('the default client connects, by polling first, and moves to WebSocket', async () => {
    const client = await setup.client();
    const socket = await client.connect(0);
    await socket.upgraded();
    assert.equal(socket.socket.io.engine.transport.name, 'websocket');
    assert.deepEqual(await socket.ask('getOnlineUsers', {}), { users: [] });
  });

  test('either transport alone serves too', async () => {
    const client = await setup.client();
    await client.converse(agent);
    for (const transport of ['polling', 'websocket']) {
      const socket = await client.connect(0, { transports: [transport] });
      assert.equal(socket.socket.io.engine.transport.name, transport);
      const { users } = await socket.ask('getOnlineUsers', {});
      assert.deepEqual(await socket.next('onlineUsers'), { users });
      socket.close();
    }
  });

  test('whom a socket is refused', async () => {
    const { user, token } = await setup.client();
    const refusal = async (options) => {
      const error = await Client.refusal(setup.socketUrl(0), options);
      assert.ok(error.message.length > 0);
      return error.data?.code;
    };
    assert.equal(await refusal({}), 'MISSING_TOKEN');
    assert.equal(await refusal({ auth: {} }), 'MISSING_TOKEN');
    assert.equal(await refusal({ auth: { token: 'nonsense' } }), 'INVALID_TOKEN');
    assert.ok(['INVALID_TOKEN', 'MISSING_TOKEN'].includes(await refusal({ auth: { token: 17 } })));
    assert.equal(await refusal({ auth: { token: mintToken(user, -5) } }), 'TOKEN_EXPIRED');
    assert.equal(await refusal({ auth: { token: mintToken(user, 60, { key: 'x'.repeat(40) }) } }), 'INVALID_TOKEN');
    assert.equal(await refusal({ transports: ['websocket'] }), 'MISSING_TOKEN');
    // Never from the URL.
    assert.equal(await refusal({ query: { token } }), 'MISSING_TOKEN');
  });

  test('the token may come in the Authorization header', async () => {
    const { token } = await setup.client();
    const socket = await setup.keep(
      Client.connect(setup.socketUrl(0), { extraHeaders: { Authorization: `Bearer ${token}` } }),
    );
    await socket.ask('getOnlineUsers', {});
  });

  test('unknown namespaces are refused', async () => {
    const { token } = await setup.client();
    const error = await Client.refusal(`${setup.socketUrl(0)}/elsewhere`, { auth: { token } });
    assert.match(error.message, /namespace/i);
  });

  test('a message: acknowledged, stored, and heard by whom it should be', async () => {
    const { client, id, agentSocket, clientSocket } = await pair();
    const clientOther = await client.connect(1);
    const colleagueSocket = await colleague.connect(0);
    const stranger = await setup.client();
    const strangerSocket = await stranger.connect(1);
    const strangerConversation = await stranger.converse(agent);

    const content = words('  hi there\n');
    const message = await clientSocket.ask('chatMessage', { conversationId: id, message: content, clientMessageId: 'a1' });
    assertMessageShape(message);
    assert.deepEqual(
      [message.content, message.seq, message.senderId, message.receiverId, message.senderType, message.clientMessageId],
      [content, 1, client.id, agent.id, 'client', 'a1'],
    );
    // Acknowledged is stored.
    assert.deepEqual(dataOf(await agent.rest.get(`/chat/conversations/${id}/messages`)).messages, [message]);

    assert.deepEqual(await clientSocket.next('messageReceived'), message);
    assert.deepEqual(await clientOther.next('chatMessage'), message);
    assert.deepEqual(await agentSocket.next('chatMessage'), message);
    for (const socket of [agentSocket, colleagueSocket]) {
      const notification = await socket.next('newMessageNotification', (n) => n.conversationId === id);
      assert.deepEqual(notification.message, message);
      assert.equal(notification.unreadCount, 1);
      assert.equal(notification.client.userId, client.id);
      assert.equal(notification.eventSeq, message.eventSeq);
    }

    // Something later of its own has reached each; nothing it should not hear came before.
    await passes(strangerSocket, strangerConversation.id, [agentSocket]);
    await strangerSocket.next('messageReceived');
    await colleagueSocket.next('newMessageNotification', (n) => n.conversationId === strangerConversation.id);
    strangerSocket.hasNotHeard('chatMessage');
    strangerSocket.hasNotHeard('newMessageNotification');
    colleagueSocket.hasNotHeard('chatMessage');
    clientSocket.hasNotHeard('chatMessage');
    clientOther.hasNotHeard('messageReceived');
    clientSocket.hasNotHeard('newMessageNotification');
    assert.equal(agentSocket.all('chatMessage', (m) => m.id === message.id).length, 1);
  });

  test('an answer of the agency goes to the client, without a notification', async () => {
    const { client, id, agentSocket, clientSocket } = await pair();
    const message = await agentSocket.ask('chatMessage', { conversationId: String(id), message: words() });
    assert.deepEqual([message.senderType, message.receiverId], ['agency', client.id]);
    assert.deepEqual(await clientSocket.next('chatMessage'), message);
    assert.deepEqual(await agentSocket.next('messageReceived'), message);
    // Another agent may write too: the assigned one hears it only where it has the conversation open.
    const colleagueSocket = await colleague.connect(0);
    await agentSocket.ask('joinConversation', { conversationId: id });
    const second = await colleagueSocket.ask('chatMessage', { conversationId: id, message: words() });
    assert.deepEqual([second.senderId, second.receiverId, second.seq], [colleague.id, client.id, 2]);
    assert.deepEqual(await clientSocket.next('chatMessage', (m) => m.seq === 2), second);
    assert.deepEqual(await agentSocket.next('chatMessage', (m) => m.seq === 2), second);
    agentSocket.hasNotHeard('newMessageNotification', (n) => n.conversationId === id);
  });

  test('joining and leaving a conversation', async () => {
    const { client, id, clientSocket } = await pair();
    const watcher = await colleague.connect(1);
    const joined = await watcher.ask('joinConversation', { conversationId: id });
    assertConversationShape(joined);
    assert.equal(joined.id, id);
    // In two of the target rooms, once: the client has joined and is the receiver's side.
    await clientSocket.ask('joinConversation', { conversationId: id });
    const second = await client.connect(1);
    await second.ask('joinConversation', { conversationId: id });
    const first = await clientSocket.ask('chatMessage', { conversationId: id, message: words() });
    assert.deepEqual(await watcher.next('chatMessage'), first);
    await second.next('chatMessage');
    assert.equal((await watcher.ask('leaveConversation', { conversationId: id })).id, id);
    await passes(clientSocket, id, [second]);
    await clientSocket.next('messageReceived', (m) => m.seq === 2);
    await watcher.next('newMessageNotification', (n) => n.message.seq === 2);
    assert.equal(watcher.all('chatMessage').length, 1, 'after leaving, nothing more');
    assert.deepEqual(second.all('chatMessage').map((m) => m.seq), [1, 2]);
    assert.deepEqual(clientSocket.all('messageReceived').map((m) => m.seq), [1, 2]);
  });

  test('what a client may not do by a socket', async () => {
    const { id, clientSocket } = await pair();
    const stranger = await (await setup.client()).connect(0);
    for (const [event, data] of [
      ['joinConversation', { conversationId: id }],
      ['leaveConversation', { conversationId: id }],
      ['chatMessage', { conversationId: id, message: words() }],
      ['typing', { conversationId: id, isTyping: true }],
      ['markAsRead', { conversationId: id }],
    ]) {
      assert.equal(await stranger.refused(event, data), 'FORBIDDEN', event);
      assert.equal(await clientSocket.refused(event, { ...data, conversationId: 987654 }), 'CONVERSATION_NOT_FOUND', event);
      for (const conversationId of ['x', 0, -1, 1.5, null, undefined, {}, []]) {
        assert.equal(await clientSocket.refused(event, { ...data, conversationId }), 'VALIDATION_ERROR', `${event} ${conversationId}`);
      }
    }
  });

  test('what is no message', async () => {
    const { id, clientSocket } = await pair();
    const refused = (fields) => clientSocket.refused('chatMessage', { conversationId: id, ...fields });
    assert.equal(await refused({ message: '' }), 'EMPTY_MESSAGE');
    assert.equal(await refused({ message: ' \n\u3000' }), 'EMPTY_MESSAGE');
    assert.equal(await refused({}), 'VALIDATION_ERROR');
    assert.equal(await refused({ message: 5 }), 'VALIDATION_ERROR');
    assert.equal(await refused({ message: 'x', clientMessageId: '' }), 'VALIDATION_ERROR');
    assert.equal(await refused({ message: 'x', clientMessageId: 'x'.repeat(65) }), 'VALIDATION_ERROR');
    const long = `\n ${'\u{1F468}'.repeat(5000)} `;
    assert.equal((await clientSocket.ask('chatMessage', { conversationId: id, message: long })).content, long);
    assert.equal(await refused({ message: '\u{1F468}'.repeat(5001) }), 'VALIDATION_ERROR');
    for (const payload of [null, 'text', 17, [], true]) {
      assert.equal(await clientSocket.refused('chatMessage', payload), 'VALIDATION_ERROR');
    }
    assert.equal((await clientSocket.socket.timeout(5000).emitWithAck('chatMessage')).error.code, 'VALIDATION_ERROR');
  });

  test('unknown events, and failures that nobody asked to acknowledge', async () => {
    const { id, clientSocket } = await pair();
    assert.equal(await clientSocket.refused('noSuchEvent', {}), 'UNKNOWN_EVENT');
    clientSocket.send('noSuchEvent', {});
    const unknown = await clientSocket.next('error');
    assert.deepEqual([unknown.success, unknown.error.code, unknown.event], [false, 'UNKNOWN_EVENT', 'noSuchEvent']);
    assert.ok(!('details' in unknown.error));
    clientSocket.send('chatMessage', { conversationId: id, message: ' ' });
    const empty = await clientSocket.next('error');
    assert.deepEqual([empty.error.code, empty.event], ['EMPTY_MESSAGE', 'chatMessage']);
    // A server's event is none of a client's.
    assert.equal(await clientSocket.refused('messageReceived', {}), 'UNKNOWN_EVENT');
  });

  test('a message without an acknowledgement is heard as messageReceived', async () => {
    const { id, clientSocket, agentSocket } = await pair();
    const content = words();
    clientSocket.send('chatMessage', { conversationId: id, message: content, clientMessageId: 'quiet' });
    const message = await clientSocket.next('messageReceived');
    assert.equal(message.content, content);
    assert.deepEqual(await agentSocket.next('chatMessage'), message);
    // Its repeat is answered in the same way, and nobody else hears it.
    clientSocket.send('chatMessage', { conversationId: id, message: content, clientMessageId: 'quiet' });
    assert.deepEqual(await clientSocket.next('messageReceived'), message);
    await passes(clientSocket, id, [agentSocket]);
    assert.equal(agentSocket.all('chatMessage', (m) => m.id === message.id).length, 1);
  });

  test('a repeat is acknowledged with the stored message, and nobody hears it again', async () => {
    const { client, id, clientSocket, agentSocket } = await pair();
    const other = await client.connect(1);
    const first = await clientSocket.ask('chatMessage', { conversationId: id, message: words(), clientMessageId: 'r' });
    const body = { conversationId: id, message: words(), clientMessageId: 'r' };
    // From the same socket, from another on another node, and by REST.
    assert.deepEqual(await clientSocket.ask('chatMessage', body), first);
    assert.deepEqual(await other.ask('chatMessage', body), first);
    assert.deepEqual(dataOf(await client.rest.post(`/chat/conversations/${id}/messages`, body), 200), first);
    await passes(clientSocket, id, [agentSocket, other]);
    assert.equal(agentSocket.all('chatMessage', (m) => m.id === first.id).length, 1);
    assert.equal(agentSocket.all('newMessageNotification', (n) => n.message.id === first.id).length, 1);
    assert.equal(other.all('chatMessage', (m) => m.id === first.id).length, 1);
    assert.equal(dataOf(await client.rest.get(`/chat/conversations/${id}`)).lastSeq, 2);
  });

  test('a burst of 200 keeps its order everywhere', async () => {
    const { id, clientSocket, agentSocket } = await pair();
    await agentSocket.ask('joinConversation', { conversationId: id });
    const tag = unique();
    const texts = Array.from({ length: 200 }, (_, i) => `${tag} ${i}`);
    const acks = await Promise.all(texts.map((message) => clientSocket.ask('chatMessage', { conversationId: id, message })));
    assert.deepEqual(acks.map((m) => [m.content, m.seq]), texts.map((text, i) => [text, i + 1]));
    await agentSocket.next('chatMessage', (m) => m.seq === 200);
    await clientSocket.next('messageReceived', (m) => m.seq === 200);
    const everySeq = texts.map((_, i) => i + 1);
    assert.deepEqual(agentSocket.all('chatMessage', (m) => m.conversationId === id).map((m) => m.seq), everySeq);
    assert.deepEqual(clientSocket.all('messageReceived').map((m) => m.seq), everySeq);
    assert.deepEqual(agentSocket.all('newMessageNotification', (n) => n.conversationId === id).map((n) => n.message.seq), everySeq);
  });

  test('two who write at once are heard in the same order by all, each message once', async () => {
    const { id, clientSocket, agentSocket } = await pair();
    const watcher = await colleague.connect(0);
    await watcher.ask('joinConversation', { conversationId: id });
    const send = (socket) => socket.ask('chatMessage', { conversationId: id, message: words() });
    await Promise.all(Array.from({ length: 60 }, (_, i) => send(i % 2 ? clientSocket : agentSocket)));
    const everySeq = Array.from({ length: 60 }, (_, i) => i + 1);
    for (const socket of [clientSocket, agentSocket, watcher]) {
      const heard = () => socket.heard.filter((e) => ['chatMessage', 'messageReceived'].includes(e.event) && e.data.conversationId === id);
      await Promise.race(['chatMessage', 'messageReceived'].map((event) => socket.next(event, (m) => m.conversationId === id && m.seq === 60)));
      assert.deepEqual(heard().map((e) => e.data.seq), everySeq);
    }
  });

  test('a message by REST is heard like one by a socket', async () => {
    const { client, id, clientSocket, agentSocket } = await pair();
    const message = dataOf(await client.rest.post(`/chat/conversations/${id}/messages`, { message: words() }), 201);
    assert.deepEqual(await agentSocket.next('chatMessage'), message);
    assert.deepEqual((await agentSocket.next('newMessageNotification', (n) => n.conversationId === id)).message, message);
    // No socket sent it: all of the sender's are other sockets.
    assert.deepEqual(await clientSocket.next('chatMessage'), message);
  });

  test('reading: the reader\'s sockets and the other party hear of it', async () => {
    const { client, id, clientSocket, agentSocket } = await pair();
    const clientOther = await client.connect(1);
    const colleagueSocket = await colleague.connect(1);
    for (let i = 0; i < 3; i++) await clientSocket.ask('chatMessage', { conversationId: id, message: words() });
    for (let i = 0; i < 2; i++) await agentSocket.ask('chatMessage', { conversationId: id, message: words() });

    // The agent reads two of three.
    assert.deepEqual(await agentSocket.ask('markAsRead', { conversationId: id, upToSeq: 2 }), { upToSeq: 2, count: 2 });
    const marked = await agentSocket.next('messagesMarkedRead');
    assertTime(marked.readAt);
    assert.deepEqual(marked, { conversationId: id, eventSeq: 7, upToSeq: 2, count: 2, readAt: marked.readAt });
    const expected = { conversationId: id, eventSeq: 7, readBy: agent.id, upToSeq: 2, count: 2, readAt: marked.readAt };
    assert.deepEqual(await clientSocket.next('messagesRead'), expected);
    assert.deepEqual(await clientOther.next('messagesRead'), expected);
    const { messages } = dataOf(await client.rest.get(`/chat/conversations/${id}/messages`));
    assert.deepEqual(messages.map((m) => m.isRead), [true, true, false, false, false]);
    assert.equal(messages[0].readAt.slice(0, 19), marked.readAt.slice(0, 19));

    // The client reads all.
    assert.deepEqual(await clientSocket.ask('markAsRead', { conversationId: id }), { upToSeq: 5, count: 2 });
    for (const socket of [clientSocket, clientOther]) {
      assert.deepEqual((({ eventSeq, upToSeq, count }) => [eventSeq, upToSeq, count])(await socket.next('messagesMarkedRead')), [8, 5, 2]);
    }
    const read = await agentSocket.next('messagesRead');
    assert.deepEqual([read.readBy, read.eventSeq, read.upToSeq, read.count], [client.id, 8, 5, 2]);

    // Nothing new to read changes nothing, and nobody hears of it.
    assert.deepEqual(await clientSocket.ask('markAsRead', { conversationId: id, upToSeq: 3 }), { upToSeq: 3, count: 0 });
    const marker = await clientSocket.ask('chatMessage', { conversationId: id, message: words() });
    assert.equal(marker.eventSeq, 9);
    await agentSocket.next('chatMessage', (m) => m.id === marker.id);
    await colleagueSocket.next('newMessageNotification', (n) => n.message.id === marker.id);
    assert.equal(agentSocket.all('messagesRead').length, 1);
    agentSocket.hasNotHeard('messagesMarkedRead', (e) => e.eventSeq === 8);
    clientSocket.hasNotHeard('messagesRead', (e) => e.eventSeq === 8);
    colleagueSocket.hasNotHeard('messagesRead');
    colleagueSocket.hasNotHeard('messagesMarkedRead');
    // By REST, the same.
    assert.deepEqual(dataOf(await agent.rest.post(`/chat/conversations/${id}/read`, { upToSeq: 6 })), { upToSeq: 6, count: 2 });
    assert.equal((await agentSocket.next('messagesMarkedRead', (e) => e.eventSeq === 10)).count, 2);
    assert.equal((await clientSocket.next('messagesRead', (e) => e.eventSeq === 10)).count, 2);
    assert.equal(await agentSocket.refused('markAsRead', { conversationId: id, upToSeq: -1 }), 'VALIDATION_ERROR');
  });

  test('conversations made and deleted are heard by both parties and all agents', async () => {
    const client = await setup.client();
    const stranger = await setup.client();
    const [clientSocket, strangerSocket] = [await client.connect(0), await stranger.connect(1)];
    const [agentSocket, colleagueSocket] = [await agent.connect(1), await colleague.connect(0)];
    const conversation = await client.converse(agent);
    const { id } = conversation;
    for (const socket of [clientSocket, agentSocket, colleagueSocket]) {
      const created = await socket.next('conversationCreated', (e) => e.conversationId === id);
      assert.equal(created.eventSeq, 1);
      assertConversationShape(created.conversation);
      assert.equal(created.conversation.id, id);
    }
    // Finding it again makes nothing.
    await client.converse(agent);
    await clientSocket.ask('joinConversation', { conversationId: id });
    await clientSocket.ask('chatMessage', { conversationId: id, message: words() });
    assertNoContent(await colleague.rest.delete(`/chat/conversations/${id}`));
    for (const socket of [clientSocket, agentSocket, colleagueSocket]) {
      assert.deepEqual(await socket.next('conversationDeleted', (e) => e.conversationId === id), { conversationId: id, eventSeq: 3 });
      assert.equal(socket.all('conversationCreated', (e) => e.conversationId === id).length, 1);
      assert.equal(socket.all('conversationDeleted', (e) => e.conversationId === id).length, 1);
    }
    assert.equal(await clientSocket.refused('joinConversation', { conversationId: id }), 'CONVERSATION_NOT_FOUND');
    assert.equal(await clientSocket.refused('chatMessage', { conversationId: id, message: words() }), 'CONVERSATION_NOT_FOUND');
    await stranger.converse(agent);
    await strangerSocket.next('conversationCreated');
    strangerSocket.hasNotHeard('conversationDeleted');
    strangerSocket.hasNotHeard('conversationCreated', (e) => e.conversationId === id);
  });

  const DURABLE = [
    ...['chatMessage', 'newMessageNotification', 'messagesMarkedRead', 'messagesRead', 'conversationCreated'],
    'conversationDeleted',
  ];

  test('sync gives what was heard live, in the same form and order', async () => {
    const client = await setup.client();
    const [clientSocket, agentSocket] = [await client.connect(0), await agent.connect(1)];
    // A second socket of the client hears live what a socket that sends nothing hears.
    const clientOther = await client.connect(1);
    const { id } = await client.converse(agent);
    for (let i = 0; i < 3; i++) {
      await clientSocket.ask('chatMessage', { conversationId: id, message: words() });
      await colleague.rest.post(`/chat/conversations/${id}/messages`, { message: words() });
      dataOf(await agent.rest.post(`/chat/conversations/${id}/read`, {}));
      dataOf(await client.rest.post(`/chat/conversations/${id}/read`, {}));
    }
    const last = 13;
    for (const listener of [clientOther, agentSocket]) {
      await Promise.race(['messagesMarkedRead', 'messagesRead'].map((e) => listener.next(e, (d) => d.conversationId === id && d.eventSeq === last)));
      const live = listener.heard
        .filter((e) => DURABLE.includes(e.event) && e.data.conversationId === id)
        .map(({ event, data }) => ({ event, data, eventSeq: data.eventSeq }));
      // No change was missed: every place in the log, from the first to the last, in order.
      const places = [...new Set(live.map((e) => e.eventSeq))];
      const heard = places.length;
      assert.deepEqual(places, [...places].sort((a, b) => a - b));
      assert.equal(places.at(-1), last);
      const synced = [];
      let afterEventSeq = 0;
      for (;;) {
        const { conversations } = await listener.ask('sync', { conversations: [{ conversationId: id, afterEventSeq }], limit: 4 });
        assert.equal(conversations.length, 1);
        assert.deepEqual([conversations[0].lastSeq, conversations[0].lastEventSeq], [6, last]);
        synced.push(...conversations[0].events);
        if (!conversations[0].hasMore) break;
        assert.ok(conversations[0].events.length > 0, 'a page with more behind it is not empty');
        afterEventSeq = conversations[0].events.at(-1).eventSeq;
      }
      assert.deepEqual(synced, live.map(({ eventSeq, event, data }) => ({ eventSeq, event, data })));
      if (listener === clientOther) assert.equal(heard, last, 'a participant hears every change');
    }
  });

  test('sync: heads of all, what is gone, whose it is not', async () => {
    const { client, id, clientSocket, agentSocket } = await pair();
    await clientSocket.ask('chatMessage', { conversationId: id, message: words() });
    const heads = (await clientSocket.ask('sync', {})).conversations;
    assert.deepEqual(heads.map((h) => [h.conversationId, h.lastSeq, h.lastEventSeq]), [[id, 1, 2]]);
    const all = (await agentSocket.ask('sync', {})).conversations;
    assert.ok(all.length > 1);
    assert.ok(all.some((h) => h.conversationId === id));
    const [upToDate] = (await clientSocket.ask('sync', { conversations: [{ conversationId: id, afterEventSeq: 2 }] })).conversations;
    assert.deepEqual([upToDate.events, upToDate.hasMore], [[], false]);
    // Another's conversation shows nothing, however it is answered.
    const stranger = await (await setup.client()).connect(1);
    const answer = await stranger.request('sync', { conversations: [{ conversationId: id, afterEventSeq: 0 }] });
    if (answer.success) {
      assert.deepEqual(answer.data.conversations.flatMap((c) => c.events), []);
    } else {
      assert.ok(['FORBIDDEN', 'CONVERSATION_NOT_FOUND'].includes(answer.error.code), answer.error.code);
    }
    assertNoContent(await agent.rest.delete(`/chat/conversations/${id}`));
    const [gone] = (await clientSocket.ask('sync', { conversations: [{ conversationId: id, afterEventSeq: 2 }] })).conversations;
    assert.deepEqual([gone.conversationId, gone.gone], [id, true]);
    assert.equal(await clientSocket.refused('sync', { conversations: [{ conversationId: 'x', afterEventSeq: 0 }] }), 'VALIDATION_ERROR');
    assert.equal(await clientSocket.refused('sync', { conversations: 7 }), 'VALIDATION_ERROR');
    assert.deepEqual((await client.rest.post('/chat/sync', {})).data.data.conversations, []);
  });
});
