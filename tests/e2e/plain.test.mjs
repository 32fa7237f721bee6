// Plain WebSocket clients at /ws: how they come in, how they are answered, how they are closed; and that they hear the same
// as Socket.IO clients. What is malformed on purpose is in hostile.test.mjs.

import assert from 'node:assert/strict';
import { assertMessageShape } from './harness/assertions.mjs';
import { words } from './harness/secrets.mjs';
import { onBothSetups } from './harness/setups.mjs';
import { PlainClient } from './harness/sockets.mjs';
import { claimsOf, mintToken } from './harness/tokens.mjs';

onBothSetups((setup, test) => {
  let agent;

  test('an agent arrives', async () => {
    agent = await setup.admin('Ada', 'Agent');
  });

  const open = (options, node = 0) => setup.keep(PlainClient.connect(setup.socketUrl(node), options));

  test('a token in the header, or in the first frame', async () => {
    const person = await setup.client();
    const byHeader = await person.connectPlain(0);
    assert.deepEqual(await byHeader.ask('getOnlineUsers', {}), { users: [] });
    const byFrame = await open({});
    const { expiresAt } = await byFrame.ask('authenticate', { token: person.token });
    assert.equal(expiresAt, new Date(claimsOf(person.token).exp * 1000).toISOString());
    assert.deepEqual(await byFrame.ask('getOnlineUsers', {}), { users: [] });
    // Without an id: the next question shows that it is in.
    const quiet = await open({});
    quiet.send('authenticate', { token: person.token });
    assert.deepEqual(await quiet.ask('getOnlineUsers', {}), { users: [] });
  });

  test('a bad header is HTTP 401, with the envelope', async () => {
    const { user } = await setup.client();
    for (const [token, code] of [['nonsense', 'INVALID_TOKEN'], [mintToken(user, -5), 'TOKEN_EXPIRED']]) {
      const { status, body } = await PlainClient.refusal(setup.socketUrl(0), { token });
      assert.equal(status, 401);
      const { success, error } = JSON.parse(body);
      assert.deepEqual([success, error.code], [false, code]);
    }
  });

  // A first frame that is another event breaks the protocol, or fails to authenticate: the contract takes no side.
  const assertNotLetIn = (code) => assert.ok([4400, 4401].includes(code), `closed with ${code}`);

  test('a socket that is not in yet may not ask for anything', async () => {
    const socket = await open({});
    socket.send('getOnlineUsers', {});
    assertNotLetIn((await socket.whenClosed()).code);
    assert.deepEqual(socket.all('onlineUsers'), []);
  });

  test('the token is never taken from the URL', async () => {
    const { token } = await setup.client();
    const socket = await setup.keep(PlainClient.connect(setup.socketUrl(0), { query: `?token=${token}` }));
    socket.send('getOnlineUsers', {});
    assertNotLetIn((await socket.whenClosed()).code);
  });

  test('a first frame with a bad token is closed with 4401', async () => {
    const { user } = await setup.client();
    for (const token of ['nonsense', mintToken(user, -5)]) {
      const socket = await open({});
      socket.send('authenticate', { token });
      assert.equal((await socket.whenClosed()).code, 4401);
    }
  });

  test('frames that are none are closed with 4400', async () => {
    const person = await setup.client();
    for (const frame of ['garbage', '{', '17', '[]', '{}', '{"event":5}', '{"event":"typing","id":{}}', Buffer.from([1, 2, 3])]) {
      const socket = await person.connectPlain(0);
      socket.ws.send(frame);
      assert.equal((await socket.whenClosed()).code, 4400, String(frame));
    }
  });

  test('acknowledgements bear the id they answer', async () => {
    const person = await setup.client();
    const { id } = await person.converse(agent);
    const socket = await person.connectPlain(1);
    const answers = [];
    socket.ws.on('message', (bytes) => answers.push(JSON.parse(bytes)));
    socket.ws.send(JSON.stringify({ event: 'joinConversation', data: { conversationId: id }, id: 7 }));
    socket.ws.send(JSON.stringify({ event: 'chatMessage', data: { conversationId: id, message: '' }, id: 8 }));
    socket.ws.send(JSON.stringify({ event: 'noSuchEvent', id: 0 }));
    await socket.ask('getOnlineUsers', {});
    const acks = answers.filter((frame) => [7, 8, 0].includes(frame.ack));
    assert.deepEqual(acks.map((a) => [a.ack, a.data.success, a.data.error?.code ?? a.data.data.id]), [
      [7, true, id],
      [8, false, 'EMPTY_MESSAGE'],
      [0, false, 'UNKNOWN_EVENT'],
    ]);
    for (const frame of acks) assert.deepEqual(Object.keys(frame).sort(), ['ack', 'data']);
  });

  test('failures without an id come as error events', async () => {
    const person = await setup.client();
    const socket = await person.connectPlain(0);
    socket.send('noSuchEvent', {});
    const error = await socket.next('error');
    assert.deepEqual([error.success, error.error.code, error.event], [false, 'UNKNOWN_EVENT', 'noSuchEvent']);
  });

  test('a plain client and a Socket.IO client chat', async () => {
    const person = await setup.client();
    const { id } = await person.converse(agent);
    const [plain, stock] = [await person.connectPlain(0), await agent.connect(1)];
    const plainAgent = await agent.connectPlain(0);
    await stock.ask('joinConversation', { conversationId: id });
    await plain.ask('joinConversation', { conversationId: id });

    const message = await plain.ask('chatMessage', { conversationId: id, message: words(), clientMessageId: 'p' });
    assertMessageShape(message);
    assert.deepEqual(await plain.next('messageReceived'), message);
    assert.deepEqual(await stock.next('chatMessage'), message);
    assert.deepEqual(await plainAgent.next('chatMessage'), message);
    assert.deepEqual(
      await plainAgent.next('newMessageNotification', (n) => n.conversationId === id),
      await stock.next('newMessageNotification', (n) => n.conversationId === id),
    );
    const answer = await stock.ask('chatMessage', { conversationId: id, message: words() });
    assert.deepEqual(await plain.next('chatMessage'), answer);

    stock.send('typing', { conversationId: id, isTyping: true });
    assert.deepEqual(await plain.next('typingStatus'), { conversationId: id, userId: agent.id, isTyping: true });
    assert.deepEqual(await plain.ask('markAsRead', { conversationId: id }), { upToSeq: 2, count: 1 });
    assert.equal((await plain.next('messagesMarkedRead')).count, 1);
    assert.equal((await stock.next('messagesRead', (e) => e.conversationId === id)).readBy, person.id);
    assert.deepEqual(await plain.ask('chatMessage', { conversationId: id, message: words(), clientMessageId: 'p' }), message);
    const { conversations } = await plain.ask('sync', { conversations: [{ conversationId: id, afterEventSeq: 2 }] });
    assert.deepEqual(conversations[0].events.map((e) => e.eventSeq), [3, 4]);
  });

  test('a renewed token, and another\'s', async () => {
    const [person, other] = [await setup.client(), await setup.client()];
    const socket = await person.connectPlain(0);
    assert.equal(await socket.refused('authenticate', { token: other.token }), 'FORBIDDEN');
    await socket.ask('authenticate', { token: person.token });
  });

  test('logging out closes with 4401', async () => {
    const person = await setup.client();
    const socket = await person.connectPlain(1);
    await person.rest.post('/auth/logout');
    assert.equal((await socket.whenClosed()).code, 4401);
  });
});
