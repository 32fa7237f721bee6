// What was committed and not published: it goes out later, whatever else lies in the outbox.

import assert from 'node:assert/strict';
import { after, before, describe } from 'node:test';
import { createAdmin, Gateway } from './harness/gateway.mjs';
import { logIn, registerClient } from './harness/people.mjs';
import { eventually } from './harness/processes.mjs';
import { secret, unique, words } from './harness/secrets.mjs';
import { Database } from './harness/servers.mjs';
import { limitedTest } from './harness/setups.mjs';
import { Client } from './harness/sockets.mjs';

describe('the outbox', () => {
  let database;
  let node;

  before(async () => {
    database = await Database.create();
    node = await Gateway.start({ DATABASE_URL: database.url });
  });
  after(async () => {
    await node?.stop();
    await database?.close();
  });

  limitedTest('a change that cannot be read does not keep the others in', async () => {
    const email = `agent-${unique()}@example.com`;
    const password = secret(`agent-pass-${unique()}`);
    await createAdmin({ DATABASE_URL: database.url }, email, password);
    const agent = await logIn(node, email, password);
    const [broken, well] = [await registerClient(node), await registerClient(node)];
    const [{ id: brokenId }, { id }] = [await broken.converse(agent), await well.converse(agent)];
    const published = async () => (await database.query('SELECT id FROM Outbox')).length === 0;
    await eventually('what was published is struck', published);

    // Elder than the other, and no payload of any version.
    await database.query(
      `INSERT INTO ConversationEvents (conversationId, eventSeq, kind, actorId, payload, createdAt)
       VALUES (?, 2, 'read', ?, 'nonsense', 0)`,
      [brokenId, agent.id],
    );
    await database.query(
      'INSERT INTO Outbox (conversationId, firstEventSeq, lastEventSeq, createdAt) VALUES (?, 2, 2, 0)',
      [brokenId],
    );
    // As a node leaves it that dies between the commit and the publishing.
    const socket = await Client.connect(node.url, { auth: { token: agent.token } });
    try {
      const content = words('left behind');
      const { insertId } = await database.query(
        `INSERT INTO Messages (conversationId, senderId, receiverId, senderType, content, createdAt, updatedAt, seq, eventSeq)
         VALUES (?, ?, ?, 'client', ?, UTC_TIMESTAMP(), UTC_TIMESTAMP(), 1, 2)`,
        [id, well.id, agent.id, content],
      );
      await database.query('UPDATE Conversations SET lastSeq = 1, lastEventSeq = 2, unreadCount = 1 WHERE id = ?', [id]);
      await database.query(
        `INSERT INTO ConversationEvents (conversationId, eventSeq, kind, actorId, messageId, unreadCount, createdAt)
         VALUES (?, 2, 'message', ?, ?, 1, 1)`,
        [id, well.id, insertId],
      );
      await database.query(
        'INSERT INTO Outbox (conversationId, firstEventSeq, lastEventSeq, createdAt) VALUES (?, 2, 2, 1)',
        [id],
      );
      const heard = await socket.next('chatMessage', (m) => m.conversationId === id);
      assert.equal(heard.content, content);
      const struck = async () => (await database.query('SELECT id FROM Outbox WHERE conversationId = ?', [id])).length === 0;
      await eventually('it is struck', struck);
    } finally {
      socket.close();
    }
  });
});
