// Archive, backup and restore of a large database, while two people chat on a node that serves it: how long each takes, whether
// every message is there afterwards, and what the two notice of it.

import { rmSync, statSync } from 'node:fs';
import path from 'node:path';
import { runGateway } from '../e2e/harness/gateway.mjs';
import { pause, temporaryFolder } from '../e2e/harness/processes.mjs';
import { Database } from '../e2e/harness/servers.mjs';
import { restClient } from '../e2e/harness/people.mjs';
import { Client } from '../e2e/harness/sockets.mjs';
import { mintToken } from '../e2e/harness/tokens.mjs';
import { Fleet } from './fleet.mjs';
import { quantile } from './ledger.mjs';
import { isMain, main, number } from './program.mjs';

/** How long a token of theirs is good, seconds. */
const LIFE = 3 * 3600;

/** How long one command may take. */
const COMMAND_MS = 30 * 60_000;

/**
 * `messages` in `conversations`, all but the newest of each older than a month; the two say something `everyMs`.
 * `worstMs`: above this p99 of what they say, from sent to heard, while the archive is at work, it fails.
 */
export async function upkeep({ messages, conversations, everyMs = 50, worstMs = 2000 }, log = () => {}) {
  const faults = [];
  const figures = {};
  const fleet = await Fleet.start();
  const folder = temporaryFolder();
  const copy = await Database.create();
  const must = (holds, what) => holds || faults.push(what);
  try {
    const { agents, clients } = await fleet.populate({ agents: 2, clients: conversations });
    log(`filling in ${messages} messages`);
    await fill(fleet.database, messages, conversations, agents.length);
    const talk = await Talk.start(fleet.nodes[0], clients[0], agents[0], everyMs);
    const command = async (name, args, env = {}) => {
      log(name);
      const before = talk.begin();
      const begun = Date.now();
      const { code, output } = await runGateway(args, { ...fleet.env, ...env }, { withinMs: COMMAND_MS });
      const seconds = (Date.now() - begun) / 1000;
      const delays = talk.since(before);
      figures[name] = `${seconds.toFixed(1)} s; meanwhile ${delays.length} heard, p50 ${quantile(delays, 0.5)} ms, p99 ${quantile(delays, 0.99)} ms`;
      must(code === 0, `${name} ended with ${code}: ${output.slice(-500)}`);
      return { output, p99: quantile(delays, 0.99), heard: delays.length };
    };

    const quiet = talk.begin();
    await pause(3000);
    const delays = talk.since(quiet);
    figures['chat alone'] = `${delays.length} heard, p50 ${quantile(delays, 0.5)} ms, p99 ${quantile(delays, 0.99)} ms`;

    const dry = await command('dry run', ['archive', '--older-than', '30d', '--dry-run']);
    // Killed on the way: what it has not done, the next one does.
    const killed = runGateway(['archive', '--older-than', '30d', '--batch', '50'], fleet.env, { withinMs: 700 });
    await killed.catch(() => {});
    // The server takes a moment to notice.
    await pause(1000);
    const part = await count(fleet.database);
    figures['archived when killed'] = part.archived;
    const archive = await command('archive', ['archive', '--older-than', '30d']);
    must(archive.p99 < worstMs, `p99 while archiving: ${archive.p99} ms`);
    const after = await count(fleet.database);
    const old = messages - conversations;
    must(dry.output.includes(`${old} messages of`), `the dry run found something else than ${old}: ${dry.output.slice(-300)}`);
    must(after.archived === old, `${after.archived} archived of ${old}`);
    figures['messages, archived'] = `${after.recent} + ${after.archived}`;
    const rest = restClient(fleet.nodes[0].url, mintToken(clients[0], LIFE));
    const { data } = await rest.get(`/chat/conversations/${clients[0].conversationId}/messages?beforeSeq=4&limit=10`);
    const seqs = data.data?.messages.map((one) => one.seq).join();
    must(seqs === '1,2,3', `the beginning of a history is ${seqs}`);

    const file = path.join(folder, 'backup.sql');
    const backup = await command('backup', ['backup', '--to', file]);
    must(backup.heard > 0, 'nobody chatted during the backup');
    figures['backup, bytes'] = statSync(file).size;
    const env = { DATABASE_URL: copy.url };
    await command('restore, into another database', ['restore', '--from', file], env);
    const verdict = await compare(fleet.database, copy);
    figures['messages restored'] = verdict.restored;
    must(verdict.restored >= messages, `only ${verdict.restored} came back`);
    must(verdict.wrong === 0, `${verdict.wrong} conversations differ from what they were`);
    const lost = await talk.end(fleet.database);
    figures['said while at it'] = talk.said;
    must(lost.length === 0, `chat: ${lost.join('; ')}`);
  } finally {
    rmSync(path.join(folder, 'backup.sql'), { force: true });
    await copy.close();
    await fleet.stop();
  }
  return { figures, faults };
}

/** Messages by SQL, two months old but for the newest of each conversation; doubled until there are enough. */
async function fill(database, messages, conversations, agents) {
  const each = messages / conversations;
  const old = `DATE_SUB(UTC_TIMESTAMP(3), INTERVAL 60 DAY)`;
  await database.query(`
    CREATE TABLE Numbers (i INT NOT NULL PRIMARY KEY) SELECT seq AS i FROM seq_1_to_${Math.max(each, conversations)};
    INSERT INTO Messages (conversationId, senderId, receiverId, senderType, content, isRead, createdAt, updatedAt, seq, eventSeq)
      SELECT c.id, ${agents} + c.id, c.agencyId, 'client', CONCAT('message ', n.i, ' of a talk that was had long ago'), 1,
        IF(n.i = ${each}, UTC_TIMESTAMP(3), ${old}), IF(n.i = ${each}, UTC_TIMESTAMP(3), ${old}), n.i, n.i
      FROM Conversations c JOIN Numbers n ON n.i <= ${each} ORDER BY n.i, c.id;
    INSERT INTO ConversationEvents (conversationId, eventSeq, kind, actorId, messageId, unreadCount, createdAt)
      SELECT conversationId, eventSeq, 'message', senderId, id, 0, 0 FROM Messages;
    UPDATE Conversations SET lastSeq = ${each}, lastEventSeq = ${each}, agencyReadSeq = ${each}, clientReadSeq = ${each};
    DROP TABLE Numbers;`);
}

async function count(database) {
  const [row] = await database.query(
    'SELECT (SELECT COUNT(*) FROM Messages) AS recent, (SELECT COUNT(*) FROM ArchivedMessages) AS archived',
  );
  return row;
}

const EVERY = '(SELECT id, conversationId, seq, content FROM Messages UNION ALL SELECT id, conversationId, seq, content FROM ArchivedMessages) m';

/** Whether each conversation has in the copy all that it had in the original up to the copy's last message. */
async function compare(original, copy) {
  const sums = 'COUNT(*) AS n, SUM(m.id) AS ids, SUM(CRC32(m.content)) AS texts';
  const copied = await copy.query(`SELECT m.conversationId AS id, MAX(m.seq) AS last, ${sums} FROM ${EVERY} GROUP BY 1 ORDER BY 1`);
  await original.query('CREATE TABLE Copied (id INT PRIMARY KEY, last BIGINT NOT NULL)');
  for (let at = 0; at < copied.length; at += 1000) {
    await original.query('INSERT INTO Copied VALUES ?', [copied.slice(at, at + 1000).map((row) => [row.id, row.last])]);
  }
  const there = await original.query(
    `SELECT m.conversationId AS id, MAX(m.seq) AS last, ${sums} FROM ${EVERY} JOIN Copied c ON c.id = m.conversationId AND m.seq <= c.last GROUP BY 1 ORDER BY 1`,
  );
  await original.query('DROP TABLE Copied');
  const wrong = copied.filter((row, i) => JSON.stringify(row) !== JSON.stringify(there[i]) || row.n !== row.last);
  return { restored: copied.reduce((sum, row) => sum + row.n, 0), wrong: wrong.length + Math.abs(copied.length - there.length) };
}

/** A client and its agent who chat on a node, by turns, on stock clients. */
class Talk {
  said = 0;
  #delays = [];
  #sentAt = new Map();
  #heard = new Map();
  #faults = [];

  static async start(node, client, agent, everyMs) {
    const talk = new Talk();
    talk.conversationId = client.conversationId;
    talk.ends = await Promise.all([client, agent].map((person) =>
      Client.connect(node.url, { auth: { token: mintToken(person, LIFE) } })));
    for (const end of talk.ends) {
      end.socket.on('chatMessage', (message) => talk.#hear(message));
      end.socket.on('disconnect', (reason) => talk.#faults.push(`disconnected: ${reason}`));
    }
    talk.timer = setInterval(() => talk.#say(), everyMs);
    return talk;
  }

  #say() {
    const name = `said-${++this.said}`;
    this.#sentAt.set(name, Date.now());
    const payload = { conversationId: this.conversationId, message: name, clientMessageId: name };
    this.ends[this.said % 2].ask('chatMessage', payload).catch((error) => this.#faults.push(`${name}: ${error.message}`));
  }

  #hear({ clientMessageId: name }) {
    this.#heard.set(name, (this.#heard.get(name) ?? 0) + 1);
    this.#delays.push(Date.now() - this.#sentAt.get(name));
  }

  /** A place in what is heard. */
  begin() {
    return this.#delays.length;
  }

  /** How long what was heard since a place took, in order. */
  since(place) {
    return this.#delays.slice(place).sort((a, b) => a - b);
  }

  /** Ends it; all that was wrong. */
  async end(database) {
    clearInterval(this.timer);
    await pause(3000);
    for (const name of this.#sentAt.keys()) {
      if (this.#heard.get(name) !== 1) this.#faults.push(`${name} was heard ${this.#heard.get(name) ?? 0} times`);
    }
    const [{ n }] = await database.query(`SELECT COUNT(*) AS n FROM ${EVERY} WHERE m.content LIKE 'said-%'`);
    if (n !== this.said) this.#faults.push(`${n} stored of ${this.said}`);
    for (const end of this.ends) {
      end.socket.removeAllListeners('disconnect');
      end.socket.close();
    }
    return this.#faults.slice(0, 10);
  }
}

if (isMain(import.meta)) {
  await main('Archive, backup and restore while two people chat', (log) =>
    upkeep({ messages: number('MESSAGES', 1_000_000), conversations: number('CONVERSATIONS', 1_000) }, log));
}
