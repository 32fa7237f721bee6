// The chat over REST: conversations, messages, reading, counts, paging, who may do what. What others hear of it by
// sockets is in realtime.test.mjs; the envelope of faults that no route knows is in envelope.test.mjs.

import assert from 'node:assert/strict';
import { assertConversationShape, assertError, assertMessageShape, assertNoContent, dataOf } from './harness/assertions.mjs';
import { restClient } from './harness/people.mjs';
import { pause } from './harness/processes.mjs';
import { words } from './harness/secrets.mjs';
import { onBothSetups } from './harness/setups.mjs';

onBothSetups((setup, test) => {
  let lonely, client, stranger, agent, colleague;

  test('without any agent there is nobody to talk to', async () => {
    lonely = await setup.client();
    assertError(await lonely.rest.post('/chat/conversations', {}), 409, 'NO_AGENT');
    assertError(await lonely.rest.post('/chat/conversations', { agencyId: 12345 }), 404, 'USER_NOT_FOUND');
  });

  test('people arrive', async () => {
    agent = await setup.admin('Ada', 'Agent');
    colleague = await setup.admin('Cole', 'League');
    client = await setup.client({ firstName: 'Carla', lastName: 'Client', company: 'Acme' });
    stranger = await setup.client();
  });

  test('a conversation is opened once', async () => {
    const answer = await client.rest.post('/chat/conversations', { agencyId: agent.id });
    const opened = dataOf(answer, 201);
    assertConversationShape(opened);
    assert.equal(opened.agencyId, agent.id);
    assert.deepEqual(opened.agency, { id: agent.id, email: agent.user.email, firstName: 'Ada', lastName: 'Agent' });
    assert.equal(opened.client.userId, client.id);
    assert.equal(opened.client.email, client.user.email);
    assert.equal(opened.client.company, 'Acme');
    assert.equal(opened.client.name, 'Carla Client');
    assert.deepEqual(
      [opened.lastMessage, opened.lastMessageTime, opened.unreadCount, opened.isActive, opened.lastSeq, opened.lastEventSeq],
      [null, null, 0, true, 0, 1],
    );
    // Ids may be strings of digits.
    const again = dataOf(await client.rest.post('/chat/conversations', { agencyId: String(agent.id) }), 200);
    assert.deepEqual(again, opened);
  });

  test('of many attempts to open it at once, one makes it', async () => {
    const person = await setup.client();
    const attempts = Array.from({ length: 6 }, () => person.rest.post('/chat/conversations', { agencyId: agent.id }));
    const answers = await Promise.all(attempts);
    assert.deepEqual(answers.map((a) => a.status).sort(), [200, 200, 200, 200, 200, 201]);
    assert.equal(new Set(answers.map((a) => a.data.data.id)).size, 1);
  });

  test('opening one: whom with, and who may', async () => {
    const open = (who, body) => who.rest.post('/chat/conversations', body);
    assertError(await open(client, { agencyId: 987654 }), 404, 'USER_NOT_FOUND');
    // A client is no agent.
    assertError(await open(client, { agencyId: stranger.id }), 404, 'USER_NOT_FOUND');
    for (const agencyId of ['one', '-1', 1.5, true, {}, [], '', '1e3', ' 1', '99999999999999999999']) {
      assertError(await open(client, { agencyId }), 400, 'VALIDATION_ERROR');
    }
    assertError(await open(agent, {}), 403, 'FORBIDDEN');
    assertError(await open(agent, { agencyId: colleague.id }), 403, 'FORBIDDEN');
    assertError(await restClient(setup.url).post('/chat/conversations', {}), 401, 'MISSING_TOKEN');
  });

  test('without a wish, the agent with the fewest conversations gets it', async () => {
    // So far every conversation is Ada's.
    assert.equal((await (await setup.client()).converse()).agencyId, colleague.id);
    const someone = await setup.client();
    const first = await someone.converse();
    assert.equal((await someone.converse()).id, first.id, 'without a wish the one there is serves again');
  });

  test('who may see a conversation', async () => {
    const { id } = await client.converse(agent);
    const path = `/chat/conversations/${id}`;
    for (const who of [client, agent, colleague]) assertConversationShape(dataOf(await who.rest.get(path)));
    assertError(await stranger.rest.get(path), 403, 'FORBIDDEN');
    assertError(await stranger.rest.get(`${path}/messages`), 403, 'FORBIDDEN');
    assertError(await stranger.rest.post(`${path}/messages`, { message: words() }), 403, 'FORBIDDEN');
    assertError(await stranger.rest.post(`${path}/read`, {}), 403, 'FORBIDDEN');
    assertError(await stranger.rest.delete(path), 403, 'FORBIDDEN');
    assertError(await client.rest.delete(path), 403, 'FORBIDDEN');
    assertError(await restClient(setup.url).get(path), 401, 'MISSING_TOKEN');
    assertError(await client.rest.get('/chat/conversations/987654'), 404, 'CONVERSATION_NOT_FOUND');
    assertError(await agent.rest.get('/chat/conversations/987654/messages'), 404, 'CONVERSATION_NOT_FOUND');
    for (const bad of ['abc', '0', '-1', '1.5', '99999999999999999999', '%20']) {
      assertError(await agent.rest.get(`/chat/conversations/${bad}`), 400, 'VALIDATION_ERROR');
    }
  });

  test('messages are numbered, kept as sent, and stored once', async () => {
    const person = await setup.client();
    const { id } = await person.converse(agent);
    const path = `/chat/conversations/${id}/messages`;
    const content = words('  <script>alert(1)</script> & "quotes" \u{1F600}\n\t');
    const first = dataOf(await person.rest.post(path, { message: `${content}  `, clientMessageId: 'c-1' }), 201);
    assertMessageShape(first);
    assert.deepEqual(
      [first.content, first.seq, first.eventSeq, first.senderType, first.senderId, first.receiverId, first.conversationId],
      [`${content}  `, 1, 2, 'client', person.id, agent.id, id],
    );
    assert.deepEqual([first.isRead, first.readAt, first.clientMessageId], [false, null, 'c-1']);
    // A repeat, even with other words, is the stored one.
    assert.deepEqual(dataOf(await person.rest.post(path, { message: words(), clientMessageId: 'c-1' }), 200), first);
    // The same name from somebody else is another message; an admin's goes to the client.
    const second = dataOf(await colleague.rest.post(path, { message: words(), clientMessageId: 'c-1' }), 201);
    assert.deepEqual(
      [second.seq, second.senderType, second.senderId, second.receiverId],
      [2, 'agency', colleague.id, person.id],
    );
    const third = dataOf(await agent.rest.post(path, { message: words() }), 201);
    assert.deepEqual([third.seq, third.eventSeq, third.clientMessageId], [3, 4, null]);
    assert.deepEqual(dataOf(await person.rest.get(path)), { messages: [first, second, third], hasMore: false });
    const conversation = dataOf(await person.rest.get(`/chat/conversations/${id}`));
    assert.deepEqual(
      [conversation.lastMessage, conversation.lastMessageTime, conversation.lastSeq, conversation.lastEventSeq],
      [third.content, third.createdAt, 3, 4],
    );
  });

  test('of many repeats at once, one is stored', async () => {
    const person = await setup.client();
    const { id } = await person.converse(agent);
    const path = `/chat/conversations/${id}/messages`;
    const body = { message: words(), clientMessageId: 'at once' };
    const answers = await Promise.all(Array.from({ length: 8 }, () => person.rest.post(path, body)));
    assert.deepEqual(answers.map((a) => a.status).sort(), [200, 200, 200, 200, 200, 200, 200, 201]);
    assert.equal(new Set(answers.map((a) => a.data.data.id)).size, 1);
    assert.equal(dataOf(await person.rest.get(path)).messages.length, 1);
  });

  test('writers at the same time leave no gap and no double', async () => {
    const person = await setup.client();
    const { id } = await person.converse(agent);
    const path = `/chat/conversations/${id}/messages`;
    const writers = [person, agent, colleague];
    await Promise.all(Array.from({ length: 30 }, (_, i) => writers[i % 3].rest.post(path, { message: words(String(i)) })));
    const { messages } = dataOf(await agent.rest.get(path));
    assert.deepEqual(messages.map((m) => m.seq), Array.from({ length: 30 }, (_, i) => i + 1));
    assert.deepEqual(messages.map((m) => m.eventSeq), Array.from({ length: 30 }, (_, i) => i + 2));
  });

  test('what is no message', async () => {
    const { id } = await client.converse(agent);
    const send = (body) => client.rest.post(`/chat/conversations/${id}/messages`, body);
    for (const message of ['', ' ', '\n\t \u00a0\u2003']) assertError(await send({ message }), 400, 'EMPTY_MESSAGE');
    for (const message of [undefined, null, 5, {}, ['x']]) assertError(await send({ message }), 400, 'VALIDATION_ERROR');
    const long = '\u{1F600}'.repeat(5000);
    assert.equal(dataOf(await send({ message: `  ${long}\n` }), 201).content, `  ${long}\n`);
    assertError(await send({ message: `${long}x` }), 400, 'VALIDATION_ERROR');
    for (const clientMessageId of ['', 'x'.repeat(65), 5, {}]) {
      assertError(await send({ message: 'x', clientMessageId }), 400, 'VALIDATION_ERROR');
    }
    const name = '\u{1F600}'.repeat(64);
    assert.equal(dataOf(await send({ message: words(), clientMessageId: name }), 201).clientMessageId, name);
    assertError(await agent.rest.post('/chat/conversations/987654/messages', { message: 'x' }), 404, 'CONVERSATION_NOT_FOUND');
  });

  test('paging through messages', async () => {
    const person = await setup.client();
    const { id } = await person.converse(agent);
    const path = `/chat/conversations/${id}/messages`;
    for (let i = 1; i <= 57; i++) dataOf(await person.rest.post(path, { message: words(String(i)) }), 201);
    const page = async (params) => {
      const { messages, hasMore } = dataOf(await agent.rest.get(path, { params }));
      return [messages[0]?.seq, messages.at(-1)?.seq, messages.length, hasMore];
    };
    assert.deepEqual(await page({}), [8, 57, 50, true]);
    assert.deepEqual(await page({ limit: 100 }), [1, 57, 57, false]);
    assert.deepEqual(await page({ beforeSeq: 8 }), [1, 7, 7, false]);
    assert.deepEqual(await page({ beforeSeq: 8, limit: 7 }), [1, 7, 7, false]);
    assert.deepEqual(await page({ beforeSeq: 8, limit: 3 }), [5, 7, 3, true]);
    assert.deepEqual(await page({ beforeSeq: 1 }), [undefined, undefined, 0, false]);
    assert.deepEqual(await page({ afterSeq: 0, limit: 10 }), [1, 10, 10, true]);
    assert.deepEqual(await page({ afterSeq: 47, limit: 10 }), [48, 57, 10, false]);
    assert.deepEqual(await page({ afterSeq: 57 }), [undefined, undefined, 0, false]);
    for (const bad of [
      ...[{ limit: 0 }, { limit: 101 }, { limit: -1 }, { limit: 'ten' }, { limit: '' }],
      ...[{ beforeSeq: 'x' }, { afterSeq: -1 }, { afterSeq: 1.5 }],
    ]) {
      assertError(await agent.rest.get(path, { params: bad }), 400, 'VALIDATION_ERROR');
    }
  });

  test('reading, and the counts of both sides', async () => {
    const person = await setup.client();
    const { id } = await person.converse(agent);
    const path = `/chat/conversations/${id}`;
    const send = async (who, times) => {
      for (let i = 0; i < times; i++) dataOf(await who.rest.post(`${path}/messages`, { message: words() }), 201);
    };
    await send(person, 3); // 1 to 3
    await send(agent, 2); // 4, 5
    const counts = async () => [
      dataOf(await person.rest.get(path)).unreadCount,
      dataOf(await agent.rest.get(path)).unreadCount,
      dataOf(await person.rest.get('/chat/unread-count')).unreadCount,
    ];
    const before = dataOf(await agent.rest.get('/chat/unread-count'));
    assert.deepEqual(await counts(), [2, 3, 2]);
    const read = (who, body) => who.rest.post(`${path}/read`, body);
    // Up to 2: two of the client's three.
    assert.deepEqual(dataOf(await read(agent, { upToSeq: 2 })), { upToSeq: 2, count: 2 });
    assert.deepEqual(await counts(), [2, 1, 2]);
    assert.deepEqual(dataOf(await read(agent, { upToSeq: 2 })), { upToSeq: 2, count: 0 });
    assert.deepEqual(dataOf(await read(agent, { upToSeq: '1' })), { upToSeq: 1, count: 0 });
    // Without a place, the last; one's own messages do not count.
    assert.deepEqual(dataOf(await read(agent, {})), { upToSeq: 5, count: 1 });
    assert.deepEqual(dataOf(await read(person, { upToSeq: 4 })), { upToSeq: 4, count: 1 });
    assert.deepEqual(await counts(), [1, 0, 1]);
    assert.deepEqual(dataOf(await read(person)), { upToSeq: 5, count: 1 });
    assert.deepEqual(await counts(), [0, 0, 0]);
    const after = dataOf(await agent.rest.get('/chat/unread-count'));
    assert.deepEqual([before.unreadCount - after.unreadCount, before.mine - after.mine], [3, 3]);
    for (const message of dataOf(await agent.rest.get(`${path}/messages`)).messages) {
      assert.equal(message.isRead, true);
      assert.match(message.readAt, /Z$/);
    }
    for (const upToSeq of [-1, 'x', 1.5, {}]) assertError(await read(agent, { upToSeq }), 400, 'VALIDATION_ERROR');
    assertError(await agent.rest.post('/chat/conversations/987654/read', {}), 404, 'CONVERSATION_NOT_FOUND');
  });

  test('unread messages of all conversations, and of one\'s own', async () => {
    const person = await setup.client();
    const { id } = await person.converse(agent);
    const counts = async (who) => dataOf(await who.rest.get('/chat/unread-count'));
    const [ofAgent, ofColleague] = [await counts(agent), await counts(colleague)];
    dataOf(await person.rest.post(`/chat/conversations/${id}/messages`, { message: words() }), 201);
    assert.deepEqual(await counts(agent), { unreadCount: ofAgent.unreadCount + 1, mine: ofAgent.mine + 1 });
    assert.deepEqual(await counts(colleague), { unreadCount: ofColleague.unreadCount + 1, mine: ofColleague.mine });
    assertError(await restClient(setup.url).get('/chat/unread-count'), 401, 'MISSING_TOKEN');
  });

  test('listing conversations: latest activity first, page by page', async () => {
    const person = await setup.client();
    const ids = [];
    for (let i = 0; i < 3; i++) {
      const other = await setup.admin();
      ids.push((await person.converse(other)).id);
    }
    const list = async (params, who = person) => dataOf(await who.rest.get('/chat/conversations', { params }));
    assert.deepEqual((await list()).conversations.map((c) => c.id), [ids[2], ids[1], ids[0]]);
    // The old system's DATETIME columns hold whole seconds: what happens in the same one has no order.
    await pause(1_100);
    dataOf(await person.rest.post(`/chat/conversations/${ids[0]}/messages`, { message: words() }), 201);
    const all = await list();
    assert.deepEqual(all.conversations.map((c) => c.id), [ids[0], ids[2], ids[1]]);
    assert.equal(all.nextCursor, null);
    for (const conversation of all.conversations) assertConversationShape(conversation);
    const first = await list({ limit: 2 });
    assert.deepEqual(first.conversations, all.conversations.slice(0, 2));
    const second = await list({ limit: 2, cursor: first.nextCursor });
    assert.deepEqual(second, { conversations: all.conversations.slice(2), nextCursor: null });
    for (const bad of [{ limit: 0 }, { limit: 101 }, { limit: 'x' }, { cursor: 'nonsense' }]) {
      assertError(await person.rest.get('/chat/conversations', { params: bad }), 400, 'VALIDATION_ERROR');
    }
    assertError(await restClient(setup.url).get('/chat/conversations'), 401, 'MISSING_TOKEN');
  });

  test('an agent lists every conversation, each once', async () => {
    const seen = [];
    let cursor;
    do {
      const page = dataOf(await colleague.rest.get('/chat/conversations', { params: { limit: 3, cursor } }));
      seen.push(...page.conversations);
      cursor = page.nextCursor;
    } while (cursor);
    const ids = seen.map((c) => c.id);
    assert.equal(new Set(ids).size, ids.length);
    assert.ok(ids.includes((await client.converse(agent)).id));
    const activity = seen.map((c) => c.lastMessageTime ?? c.createdAt);
    assert.deepEqual(activity, [...activity].sort().reverse());
    // A client only its own.
    const mine = dataOf(await client.rest.get('/chat/conversations')).conversations;
    assert.ok(mine.length > 0);
    for (const conversation of mine) assert.equal(conversation.client.userId, client.id);
  });

  test('deleting a conversation takes its messages along', async () => {
    const person = await setup.client();
    const { id } = await person.converse(agent);
    const path = `/chat/conversations/${id}`;
    dataOf(await person.rest.post(`${path}/messages`, { message: words() }), 201);
    // Any agent may.
    assertNoContent(await colleague.rest.delete(path));
    for (const who of [person, agent]) {
      assertError(await who.rest.get(path), 404, 'CONVERSATION_NOT_FOUND');
      assertError(await who.rest.get(`${path}/messages`), 404, 'CONVERSATION_NOT_FOUND');
      assertError(await who.rest.post(`${path}/messages`, { message: 'x' }), 404, 'CONVERSATION_NOT_FOUND');
      assertError(await who.rest.post(`${path}/read`, {}), 404, 'CONVERSATION_NOT_FOUND');
    }
    assertError(await agent.rest.delete(path), 404, 'CONVERSATION_NOT_FOUND');
    assert.deepEqual(dataOf(await person.rest.get('/chat/conversations')).conversations, []);
    // The same two may begin anew, under a new id.
    const anew = await person.converse(agent);
    assert.notEqual(anew.id, id);
    assert.deepEqual([anew.lastSeq, anew.lastEventSeq], [0, 1]);
  });

  test('sync by REST: heads, pages, what is gone', async () => {
    const person = await setup.client();
    const { id } = await person.converse(agent);
    const path = `/chat/conversations/${id}`;
    for (let i = 0; i < 5; i++) dataOf(await agent.rest.post(`${path}/messages`, { message: words() }), 201);
    const sync = async (body) => dataOf(await person.rest.post('/chat/sync', body)).conversations;
    const [head] = await sync({});
    assert.deepEqual([head.conversationId, head.lastSeq, head.lastEventSeq], [id, 5, 6]);
    const [page] = await sync({ conversations: [{ conversationId: id, afterEventSeq: 1 }], limit: 2 });
    assert.equal(page.hasMore, true);
    assert.deepEqual(page.events.map((e) => [e.eventSeq, e.event]), [[2, 'chatMessage'], [3, 'chatMessage']]);
    const [rest] = await sync({ conversations: [{ conversationId: String(id), afterEventSeq: 3 }] });
    assert.equal(rest.hasMore, false);
    assert.deepEqual(rest.events.map((e) => e.eventSeq), [4, 5, 6]);
    assertNoContent(await agent.rest.delete(path));
    const [gone] = await sync({ conversations: [{ conversationId: id, afterEventSeq: 6 }] });
    assert.equal(gone.gone, true);
    for (const bad of [
      ...[{ conversations: 'all' }, { conversations: [{}] }, { conversations: [{ conversationId: id }] }],
      ...[{ conversations: [{ conversationId: id, afterEventSeq: -1 }] }, { conversations: [], limit: 'x' }, { limit: 0 }],
    ]) {
      assertError(await person.rest.post('/chat/sync', bad), 400, 'VALIDATION_ERROR');
    }
    assertError(await restClient(setup.url).post('/chat/sync', {}), 401, 'MISSING_TOKEN');
  });

  test('who is online, by REST', async () => {
    const person = await setup.client();
    const other = await setup.client();
    await person.converse(agent);
    await agent.connect(0);
    await person.connect(1);
    const online = async (who) => dataOf(await who.rest.get('/chat/online')).users;
    const ada = { id: agent.id, role: 'admin', firstName: 'Ada', lastName: 'Agent' };
    assert.deepEqual(await online(person), [ada]);
    assert.deepEqual(await online(other), [], 'an agent one does not talk to is not shown');
    const all = await online(agent);
    assert.deepEqual(all.find((u) => u.id === agent.id), ada);
    assert.ok(all.some((u) => u.id === person.id && u.role === 'user'));
    assertError(await restClient(setup.url).get('/chat/online'), 401, 'MISSING_TOKEN');
  });
});
