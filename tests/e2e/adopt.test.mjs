// Taking over the old system's MySQL database in place: its tables as Sequelize made them, its rows, its password hashes.
// `gateway migrate` only adds, numbers what is there, and may run again to take in what plain SQL added since.

import assert from 'node:assert/strict';
import { after, before, describe } from 'node:test';
import { assertConversationShape, assertError, assertMessageShape, assertUserShape, dataOf } from './harness/assertions.mjs';
import { Gateway, runGateway } from './harness/gateway.mjs';
import { logIn, restClient } from './harness/people.mjs';
import { secret, words } from './harness/secrets.mjs';
import { Database } from './harness/servers.mjs';
import { limitedTest as test } from './harness/setups.mjs';
import { Client } from './harness/sockets.mjs';

const PASSWORD = secret('an old passw0rd');
// bcrypt of it, cost 10, with the three prefixes that libraries write for the same thing.
const HASHES = {
  a: '$2a$10$dVAZWv1tqrqNpCdYCY9lFObAtjTqDucUI6rIMK8ACS7kP6.GUGjC.',
  b: '$2b$10$tc5Ec3D9Sc1LjMkYY/2fvejc3s29Op1DtL3O1vxWk1divBn4oc7fK',
  y: '$2y$10$i6t/NAGBoyGfW19DL.FU8uhwulhJUR7x4uVDEQuWOVbPzG7mK752m',
};

// As `sequelize.sync()` writes them for MySQL.
const OLD_SCHEMA = `
CREATE TABLE IF NOT EXISTS \`Users\` (\`id\` INTEGER auto_increment , \`email\` VARCHAR(255) NOT NULL UNIQUE,
  \`password\` VARCHAR(255) NOT NULL, \`role\` ENUM('user', 'admin') DEFAULT 'user', \`firstName\` VARCHAR(255),
  \`lastName\` VARCHAR(255), \`company\` VARCHAR(255), \`phone\` VARCHAR(255), \`profilePicture\` VARCHAR(255),
  \`isOnboardingCompleted\` TINYINT(1) DEFAULT false, \`createdAt\` DATETIME, \`updatedAt\` DATETIME,
  PRIMARY KEY (\`id\`)) ENGINE=InnoDB;
CREATE TABLE IF NOT EXISTS \`Clients\` (\`id\` INTEGER auto_increment , \`name\` VARCHAR(100) NOT NULL,
  \`email\` VARCHAR(255) NOT NULL, \`company\` VARCHAR(100), \`country\` VARCHAR(100) NOT NULL, \`phone\` VARCHAR(255),
  \`contactPerson\` VARCHAR(100), \`status\` ENUM('active', 'inactive') DEFAULT 'active', \`createdAt\` DATETIME,
  \`updatedAt\` DATETIME, PRIMARY KEY (\`id\`)) ENGINE=InnoDB;
CREATE TABLE IF NOT EXISTS \`Conversations\` (\`id\` INTEGER auto_increment , \`clientId\` INTEGER NOT NULL,
  \`agencyId\` INTEGER NOT NULL, \`lastMessage\` TEXT, \`lastMessageTime\` DATETIME, \`unreadCount\` INTEGER DEFAULT 0,
  \`isActive\` TINYINT(1) DEFAULT true, \`createdAt\` DATETIME, \`updatedAt\` DATETIME, PRIMARY KEY (\`id\`),
  UNIQUE \`unique_conversation\` (\`clientId\`, \`agencyId\`),
  FOREIGN KEY (\`clientId\`) REFERENCES \`Clients\` (\`id\`) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (\`agencyId\`) REFERENCES \`Users\` (\`id\`) ON DELETE CASCADE ON UPDATE CASCADE) ENGINE=InnoDB;
CREATE TABLE IF NOT EXISTS \`Messages\` (\`id\` INTEGER auto_increment , \`conversationId\` INTEGER NOT NULL,
  \`senderId\` INTEGER NOT NULL, \`receiverId\` INTEGER NOT NULL, \`senderType\` ENUM('client', 'agency') NOT NULL,
  \`content\` TEXT NOT NULL, \`isRead\` TINYINT(1) DEFAULT false, \`readAt\` DATETIME, \`createdAt\` DATETIME,
  \`updatedAt\` DATETIME, PRIMARY KEY (\`id\`),
  FOREIGN KEY (\`conversationId\`) REFERENCES \`Conversations\` (\`id\`) ON DELETE CASCADE ON UPDATE CASCADE,
  FOREIGN KEY (\`senderId\`) REFERENCES \`Users\` (\`id\`) ON DELETE NO ACTION ON UPDATE CASCADE,
  FOREIGN KEY (\`receiverId\`) REFERENCES \`Users\` (\`id\`) ON DELETE NO ACTION ON UPDATE CASCADE) ENGINE=InnoDB;
`;

const AT = '2023-05-01 10:00:00';
const [ADA, CARLA, CONRAD, LATE] = [1, 2, 3, 4];

// Carla's Clients row has her address in another case; Conrad is inactive; Nora has no account; Late has no Clients row.
const OLD_ROWS = `
INSERT INTO Users (id, email, password, role, firstName, lastName, isOnboardingCompleted, createdAt, updatedAt) VALUES
  (${ADA}, 'ada@agency.example', '${HASHES.a}', 'admin', 'Ada', 'Agent', 1, '${AT}', '${AT}'),
  (${CARLA}, 'carla@client.example', '${HASHES.b}', 'user', 'Carla', 'Client', 0, '${AT}', '${AT}'),
  (${CONRAD}, 'conrad@client.example', '${HASHES.y}', 'user', NULL, NULL, 0, NULL, NULL),
  (${LATE}, 'late@client.example', '${HASHES.b}', 'user', 'Late', 'Comer', NULL, '${AT}', '${AT}');
INSERT INTO Clients (id, name, email, company, country, status, createdAt, updatedAt) VALUES
  (11, 'Carla Client', 'Carla@Client.Example', 'Acme', 'Germany', 'active', '${AT}', '${AT}'),
  (12, 'Conrad', 'conrad@client.example', NULL, 'France', 'inactive', NULL, NULL),
  (13, 'Nora', 'nora@client.example', NULL, 'Spain', 'active', '${AT}', '${AT}');
INSERT INTO Conversations (id, clientId, agencyId, lastMessage, lastMessageTime, unreadCount, isActive, createdAt, updatedAt) VALUES
  (21, 11, ${ADA}, 'old message 70', '2023-05-01 11:10:00', 2, 1, '${AT}', '${AT}'),
  (22, 12, ${ADA}, NULL, NULL, 0, 1, NULL, NULL),
  (23, 13, ${ADA}, NULL, NULL, 0, 1, '${AT}', '${AT}');
`;

/** Seventy messages in Carla's conversation: odd ones hers, even ones Ada's; the last four are unread; some have no times. */
function oldMessages() {
  return Array.from({ length: 70 }, (_, i) => {
    const n = i + 1;
    const carlas = n % 2 === 1;
    const time = n % 10 === 5 ? null : new Date(Date.UTC(2023, 4, 1, 10, n)).toISOString().slice(0, 19).replace('T', ' ');
    const read = n <= 66;
    return [21, carlas ? CARLA : ADA, carlas ? ADA : CARLA, carlas ? 'client' : 'agency', `old message ${n}`, read, read ? time : null, time, time];
  });
}

const INSERT_MESSAGES =
  'INSERT INTO Messages (conversationId, senderId, receiverId, senderType, content, isRead, readAt, createdAt, updatedAt) VALUES ?';

describe('a database of the old system', () => {
  // `setup` is what a `Person` needs to know.
  let database, env, node, old, setup;
  const TABLES = ['Users', 'Clients', 'Conversations', 'Messages'];

  before(async () => {
    database = await Database.create();
    env = { DATABASE_URL: database.url };
    await database.query(OLD_SCHEMA);
    await database.query(OLD_ROWS);
    await database.query(INSERT_MESSAGES, [oldMessages()]);
    old = await snapshot();
  });

  after(async () => {
    await node?.stop();
    await database?.close();
  });

  const migrate = async () => {
    const { code, output } = await runGateway(['migrate'], env);
    assert.equal(code, 0, output);
  };

  test('migrating only adds, and may be done again', async () => {
    await migrate();
    await assertOnlyAdded();
    const schema = await tables();
    await migrate();
    await assertOnlyAdded();
    assert.deepEqual(await tables(), schema);
    const clients = await database.query('SELECT id, userId FROM Clients ORDER BY id');
    assert.deepEqual(clients.filter((c) => c.id < 20), [{ id: 11, userId: CARLA }, { id: 12, userId: CONRAD }, { id: 13, userId: null }]);
  });

  test('a node starts on it', async () => {
    node = await Gateway.start(env);
    setup = { url: node.url };
  });

  test('old passwords log in, whatever the hash\'s prefix', async () => {
    for (const [email, role] of [['ada@agency.example', 'admin'], ['carla@client.example', 'user'], ['CONRAD@client.example', 'user']]) {
      const { user } = await logIn(setup, email, PASSWORD);
      assertUserShapeLoosely(user);
      assert.equal(user.role, role);
      const wrong = await restClient(node.url).post('/auth/login', { email, password: `${PASSWORD}x` });
      assertError(wrong, 401, 'INVALID_CREDENTIALS');
    }
  });

  test('old conversations and their counts are there', async () => {
    const [ada, carla] = [await logIn(setup, 'ada@agency.example', PASSWORD), await logIn(setup, 'carla@client.example', PASSWORD)];
    const { conversations } = dataOf(await ada.rest.get('/chat/conversations'));
    assert.deepEqual(conversations.map((c) => c.id).sort(), [21, 22, 23]);
    assert.equal(conversations[0].id, 21, 'latest activity first');
    const hers = dataOf(await carla.rest.get('/chat/conversations')).conversations;
    assert.deepEqual(hers.map((c) => c.id), [21]);
    assertConversationShape(hers[0]);
    assert.deepEqual([hers[0].client.userId, hers[0].lastSeq, hers[0].lastMessage], [CARLA, 70, 'old message 70']);
    // Of the last four messages two are each side's.
    assert.equal(hers[0].unreadCount, 2);
    assert.equal(conversations[0].unreadCount, 2);
    assert.deepEqual(dataOf(await ada.rest.get('/chat/unread-count')), { unreadCount: 2, mine: 2 });
  });

  test('old messages page in order, numbered from 1', async () => {
    const carla = await logIn(setup, 'carla@client.example', PASSWORD);
    const path = '/chat/conversations/21/messages';
    const seen = [];
    let beforeSeq;
    for (;;) {
      const { messages, hasMore } = dataOf(await carla.rest.get(path, { params: { limit: 30, beforeSeq } }));
      seen.unshift(...messages);
      if (!hasMore) break;
      beforeSeq = messages[0].seq;
    }
    assert.deepEqual(seen.map((m) => [m.seq, m.content]), Array.from({ length: 70 }, (_, i) => [i + 1, `old message ${i + 1}`]));
    for (const [i, message] of seen.entries()) {
      assert.equal(message.clientMessageId, null);
      if (i) assert.ok(message.eventSeq > seen[i - 1].eventSeq);
    }
    assertMessageShape(seen[0]);
    assert.equal(seen[0].createdAt, '2023-05-01T10:01:00.000Z');
    assert.equal(seen[4].createdAt, null, 'a time that was never written is null');
  });

  test('sync gives the old changes too', async () => {
    const carla = await logIn(setup, 'carla@client.example', PASSWORD);
    const events = [];
    let afterEventSeq = 0;
    for (;;) {
      const body = { conversations: [{ conversationId: 21, afterEventSeq }] };
      const [page] = dataOf(await carla.rest.post('/chat/sync', body)).conversations;
      events.push(...page.events);
      if (!page.hasMore) break;
      afterEventSeq = page.events.at(-1).eventSeq;
    }
    const messages = events.filter((e) => e.event === 'chatMessage');
    assert.deepEqual(messages.map((e) => e.data.seq), Array.from({ length: 70 }, (_, i) => i + 1));
    const places = events.map((e) => e.eventSeq);
    assert.deepEqual(places, places.map((_, i) => i + 1), 'without gaps');
  });

  test('the chat goes on where it stopped', async () => {
    const [ada, carla] = [await logIn(setup, 'ada@agency.example', PASSWORD), await logIn(setup, 'carla@client.example', PASSWORD)];
    const [hers, his] = [
      await Client.connect(node.url, { auth: { token: carla.token } }),
      await Client.connect(node.url, { auth: { token: ada.token } }),
    ];
    try {
      const message = await hers.ask('chatMessage', { conversationId: 21, message: words('after all these years') });
      assert.equal(message.seq, 71);
      assert.deepEqual(await his.next('chatMessage'), message);
      assert.deepEqual(await his.ask('markAsRead', { conversationId: 21 }), { upToSeq: 71, count: 3 });
    } finally {
      hers.close();
      his.close();
    }
  });

  test('a client without an account, an inactive one, one without a Clients row', async () => {
    const [ada, conrad, late] = await Promise.all(
      ['ada@agency.example', 'conrad@client.example', 'late@client.example'].map((email) => logIn(setup, email, PASSWORD)),
    );
    const send = (who, id) => who.rest.post(`/chat/conversations/${id}/messages`, { message: words() });
    assertError(await send(ada, 23), 409, 'CLIENT_HAS_NO_ACCOUNT');
    // Nobody takes Nora over by her address.
    const takeover = { email: 'NORA@client.example', password: 'long enough', firstName: 'N', lastName: 'N' };
    assertError(await restClient(node.url).post('/auth/register', takeover), 409, 'EMAIL_TAKEN');
    dataOf(await conrad.rest.get('/chat/conversations/22'));
    dataOf(await conrad.rest.get('/chat/conversations/22/messages'));
    assertError(await send(conrad, 22), 403, 'FORBIDDEN');
    dataOf(await send(ada, 22), 201);
    assertConversationShape(dataOf(await late.rest.post('/chat/conversations', {}), 201));
  });

  test('an account made later by plain SQL is linked by its address', async () => {
    await database.query(
      `INSERT INTO Users (email, password, role, createdAt, updatedAt) VALUES ('Nora@Client.Example', '${HASHES.a}', 'user', NULL, NULL)`,
    );
    const ada = await logIn(setup, 'ada@agency.example', PASSWORD);
    const nora = await logIn(setup, 'nora@client.example', PASSWORD);
    const sent = dataOf(await ada.rest.post('/chat/conversations/23/messages', { message: words() }), 201);
    assert.equal(sent.receiverId, nora.id);
    assert.deepEqual(dataOf(await nora.rest.get('/chat/conversations')).conversations.map((c) => c.id), [23]);
    assert.deepEqual(await database.query('SELECT userId FROM Clients WHERE id = 13'), [{ userId: nora.id }]);
  });

  test('rows that plain SQL adds later are taken in by the next migrate', async () => {
    const carla = await logIn(setup, 'carla@client.example', PASSWORD);
    const rows = [
      [21, ADA, CARLA, 'agency', 'by plain SQL, one', false, null, '2030-01-01 00:00:00', '2030-01-01 00:00:00'],
      [21, CARLA, ADA, 'client', 'by plain SQL, two', false, null, null, null],
    ];
    await database.query(INSERT_MESSAGES, [rows]);
    await database.query(
      `INSERT INTO Users (id, email, password, role) VALUES (1001, 'new@agency.example', '${HASHES.y}', 'admin');
       INSERT INTO Conversations (id, clientId, agencyId) VALUES (1021, 11, 1001);
       INSERT INTO Messages (conversationId, senderId, receiverId, senderType, content) VALUES (1021, 1001, ${CARLA}, 'agency', 'a first one')`,
    );
    // While the node runs: what it shows stays in order.
    await migrate();
    const { messages } = dataOf(await carla.rest.get('/chat/conversations/21/messages', { params: { afterSeq: 70 } }));
    assert.deepEqual(messages.map((m) => m.seq), [71, 72, 73]);
    assert.deepEqual(messages.slice(1).map((m) => m.content), ['by plain SQL, one', 'by plain SQL, two']);
    const conversation = dataOf(await carla.rest.get('/chat/conversations/1021'));
    assert.deepEqual([conversation.lastSeq, conversation.lastEventSeq >= 1], [1, true]);
    const sent = dataOf(await carla.rest.post('/chat/conversations/21/messages', { message: words() }), 201);
    assert.equal(sent.seq, 74);
    await logIn(setup, 'new@agency.example', PASSWORD);
  });

  /** The old columns of every old row, and their definitions. */
  async function snapshot() {
    const taken = {};
    for (const table of TABLES) {
      const columns = await columnsOf(table);
      const names = columns.map((c) => `\`${c.COLUMN_NAME}\``).join(', ');
      taken[table] = { columns, rows: await database.query(`SELECT ${names} FROM ${table} ORDER BY id`), names };
    }
    return taken;
  }

  async function assertOnlyAdded() {
    for (const table of TABLES) {
      const { columns, rows, names } = old[table];
      const now = await columnsOf(table);
      for (const column of columns) assert.deepEqual(now.find((c) => c.COLUMN_NAME === column.COLUMN_NAME), column);
      for (const column of now.slice(columns.length)) {
        assert.ok(column.IS_NULLABLE === 'YES' || column.COLUMN_DEFAULT !== null, `${table}.${column.COLUMN_NAME} has a default`);
      }
      assert.deepEqual(await database.query(`SELECT ${names} FROM ${table} ORDER BY id`), rows, `the rows of ${table}`);
    }
  }

  function columnsOf(table) {
    return database.query(
      `SELECT COLUMN_NAME, COLUMN_TYPE, IS_NULLABLE, COLUMN_DEFAULT, EXTRA FROM information_schema.COLUMNS
       WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION`,
      [table],
    );
  }

  function tables() {
    return database.query(
      `SELECT TABLE_NAME, COLUMN_NAME, COLUMN_TYPE FROM information_schema.COLUMNS
       WHERE TABLE_SCHEMA = DATABASE() ORDER BY TABLE_NAME, ORDINAL_POSITION`,
    );
  }
});

/** Rows of the old system may lack times. */
function assertUserShapeLoosely(user) {
  assertUserShape({ ...user, createdAt: user.createdAt ?? '2023-05-01T10:00:00.000Z' });
}
