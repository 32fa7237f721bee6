// The checker finds what it is there to find: each test plays one wrong to it, and one right beside it. Without these a
// chaos run that prints zeros would prove nothing.

import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { checkSendOrder, checkStored, LATE_MS, Ledger, Notebook, Verdict } from './checker.mjs';

const TALK = 7;
const SENDER = 3;
const NOW = Date.parse('2026-01-31T12:00:00.000Z');

let verdict;
let ledger;
let notebook;

beforeEach(() => {
  verdict = new Verdict();
  ledger = new Ledger(verdict);
  notebook = new Notebook('reader', [TALK], { ledger, verdict });
});

/** So many messages that were sent, acknowledged and stored, as the wire and the database show them. */
function sent(n) {
  return Array.from({ length: n }, (_, i) => {
    const entry = ledger.write(SENDER, TALK, `words ${i + 1}`);
    entry.attempts = 1;
    const message = {
      ...{ id: 100 + i + 1, conversationId: TALK, senderId: SENDER, content: entry.content },
      // The log begins with the conversation's creation.
      ...{ seq: i + 1, eventSeq: i + 2, clientMessageId: entry.clientMessageId, createdAt: new Date(NOW).toISOString() },
    };
    ledger.acknowledge(entry, message);
    return message;
  });
}

/** The database after these messages. */
function storedAs(messages) {
  return {
    messages,
    events: [
      { conversationId: TALK, eventSeq: 1, messageId: null },
      ...messages.map(({ eventSeq, id }) => ({ conversationId: TALK, eventSeq, messageId: id })),
    ],
    conversations: [{ id: TALK, lastSeq: messages.length, lastEventSeq: messages.length + 1 }],
  };
}

/** A reader's socket that is connected and has nothing to catch up with. */
function connect(lastEventSeq = 0) {
  notebook.beginLife(NOW - 1000);
  notebook.synced(notebook.positions(), [page([], lastEventSeq)]);
}

function page(messages, lastEventSeq, hasMore = false) {
  const events = messages.map((data) => ({ eventSeq: data.eventSeq, event: 'chatMessage', data }));
  return { conversationId: TALK, lastEventSeq, events, hasMore };
}

function hear(...messages) {
  for (const message of messages) notebook.hear('chatMessage', message, NOW + 5);
}

/** What was found, as `{kind: times}`. */
function found() {
  return Object.fromEntries(verdict.violations.map(({ kind }) => [kind, verdict.count(kind)]));
}

describe('a reader', () => {
  test('that hears everything once and in order is content', () => {
    const messages = sent(4);
    connect();
    hear(...messages);
    notebook.checkAgainst(TALK, messages);
    assert.deepEqual(found(), {});
    assert.equal(notebook.counts.heard, 4);
    assert.equal(notebook.longestLive.ms, 5);
  });

  test('notices what it missed in the middle, at the end, and altogether', () => {
    const messages = sent(9);
    connect();
    const [one, two, , , five, six] = messages;
    hear(one, two, five, six);
    notebook.checkAgainst(TALK, messages);
    assert.deepEqual(found(), { lost: 5 });
    assert.match(verdict.violations[0].text, /seq 3 to 4 were never heard; noticed at .* when 5 came live after 2/);
    assert.match(verdict.violations[1].text, /seq 7 to 9 were never heard; and nothing after/);
  });

  test('notices what came twice over one socket', () => {
    const [one, two] = sent(2);
    connect();
    hear(one, two, two);
    notebook.checkAgainst(TALK, [one, two]);
    assert.deepEqual(found(), { doubled: 1 });
  });

  test('notices what came far too late, unless it was away itself', () => {
    const [one, two] = sent(2);
    connect();
    notebook.hear('chatMessage', one, NOW + LATE_MS + 1);
    assert.deepEqual(found(), { late: 1 });
    notebook.wasDistracted(NOW + LATE_MS);
    notebook.hear('chatMessage', two, NOW + LATE_MS + 1);
    assert.deepEqual(found(), { late: 1 });
  });

  test('takes messageReceived and chatMessage of one message for the same', () => {
    const [one] = sent(1);
    connect();
    notebook.hear('messageReceived', one, NOW);
    notebook.hear('chatMessage', one, NOW);
    assert.deepEqual(found(), { doubled: 1 });
  });

  test('takes the other event of one change for another', () => {
    const [one] = sent(1);
    connect();
    notebook.hear('newMessageNotification', { conversationId: TALK, eventSeq: one.eventSeq, message: one }, NOW);
    notebook.hear('chatMessage', one, NOW);
    notebook.checkAgainst(TALK, [one]);
    assert.deepEqual(found(), {});
  });

  test('notices what came out of order, and does not have it by then', () => {
    const messages = sent(3);
    connect();
    const [one, two, three] = messages;
    hear(one, three, two);
    notebook.checkAgainst(TALK, messages);
    assert.deepEqual(found(), { disordered: 1, lost: 1 });
  });

  test('notices order and repeats of events that are no messages', () => {
    connect();
    const read = (eventSeq) => notebook.hear('messagesRead', { conversationId: TALK, eventSeq, upToSeq: 1 }, NOW);
    for (const eventSeq of [2, 4, 3, 4]) read(eventSeq);
    assert.deepEqual(found(), { disordered: 1, doubled: 1 });
  });

  test('notices what nobody sent, and what is not as it was sent', () => {
    const [one, two] = sent(2);
    connect();
    hear({ ...one, content: 'other words' }, { ...two, clientMessageId: 'a stranger' });
    assert.deepEqual(found(), { stray: 2 });
  });

  test('notices what it heard and the database does not have', () => {
    const messages = sent(2);
    connect();
    hear(...messages);
    notebook.checkAgainst(TALK, messages.slice(0, 1));
    assert.deepEqual(found(), { stray: 1 });
  });

  test('that was away has what sync tells, and what both tell it once', () => {
    const messages = sent(6);
    const [one, two, three, four, five, six] = messages;
    connect();
    hear(one);
    notebook.beginLife(NOW);
    const asked = notebook.positions();
    assert.deepEqual(asked, [{ conversationId: TALK, afterEventSeq: one.eventSeq }]);
    hear(four, five);
    notebook.synced(asked, [page([two, three], five.eventSeq, true)]);
    assert.equal(notebook.isCaughtUp, false);
    notebook.synced(notebook.positions(), [page([four, five], five.eventSeq)]);
    assert.equal(notebook.isCaughtUp, true);
    hear(six);
    notebook.checkAgainst(TALK, messages);
    assert.deepEqual(found(), {});
  });

  test('that was away notices what sync leaves out', () => {
    const messages = sent(4);
    const [one, , three, four] = messages;
    connect();
    hear(one);
    notebook.beginLife(NOW);
    notebook.synced(notebook.positions(), [page([three], three.eventSeq)]);
    hear(four);
    notebook.checkAgainst(TALK, messages);
    assert.deepEqual(found(), { lost: 1 });
  });

  test('that was away notices what falls between sync and the socket', () => {
    const messages = sent(4);
    const [one, two, , four] = messages;
    connect();
    hear(one);
    notebook.beginLife(NOW);
    notebook.synced(notebook.positions(), [page([two], two.eventSeq)]);
    hear(four);
    notebook.checkAgainst(TALK, messages);
    assert.deepEqual(found(), { lost: 1 });
  });

  test('notices what sync repeats or turns round', () => {
    const [one, two, three] = sent(3);
    connect();
    hear(one);
    notebook.beginLife(NOW);
    notebook.synced(notebook.positions(), [page([one, three, two], three.eventSeq)]);
    assert.deepEqual(found(), { doubled: 1, disordered: 1 });
  });

  test('whose connection was recovered may neither miss nor repeat anything', () => {
    const messages = sent(5);
    const [one, two, three, four, five] = messages;
    connect();
    hear(one, two);
    // A recovery begins no life, and nothing is fetched: the server owes the rest.
    assert.deepEqual(notebook.positions(), []);
    hear(two, four, five);
    notebook.checkAgainst(TALK, messages);
    assert.deepEqual(found(), { doubled: 1, lost: 1 });
    assert.match(verdict.violations[1].text, /seq 3 was/);
    assert.ok(three);
  });
});

describe('the database', () => {
  test('with everything in it is as it should be', () => {
    checkStored(storedAs(sent(3)), ledger, verdict);
    assert.deepEqual(found(), {});
  });

  test('without an acknowledged message has lost it', () => {
    const messages = sent(3);
    checkStored(storedAs(messages.slice(0, 2)), ledger, verdict);
    assert.deepEqual(found(), { lost: 1 });
  });

  test('with a message twice', () => {
    const messages = sent(2);
    checkStored(storedAs([...messages, { ...messages[1], id: 200, seq: 3, eventSeq: 4 }]), ledger, verdict);
    assert.deepEqual(found(), { doubled: 1 });
  });

  test('with a message that nobody sent, or not so', () => {
    const [one, two] = sent(2);
    checkStored(storedAs([one, { ...two, content: 'other words' }]), ledger, verdict);
    assert.deepEqual(found(), { stray: 1, lost: 1 });
  });

  test('with a message under other numbers than were acknowledged', () => {
    const [one, two] = sent(2);
    checkStored(storedAs([{ ...two, seq: 1, eventSeq: 2 }, { ...one, seq: 2, eventSeq: 3 }]), ledger, verdict);
    assert.deepEqual(found(), { stray: 2 });
  });

  test('with a hole in seq', () => {
    const [one, two, three] = sent(3);
    const database = storedAs([one, two, three]);
    three.seq = 4;
    database.conversations[0].lastSeq = 4;
    checkStored(database, ledger, verdict);
    assert.deepEqual(found(), { hole: 1 });
    assert.match(verdict.violations[0].text, /seq 3 is missing/);
  });

  test('with a hole in eventSeq, and a message without its event', () => {
    const database = storedAs(sent(3));
    database.events.splice(2, 1);
    checkStored(database, ledger, verdict);
    assert.deepEqual(found(), { hole: 2 });
  });

  test('with a number that is given twice', () => {
    const database = storedAs(sent(2));
    database.events.push({ ...database.events[1] });
    checkStored(database, ledger, verdict);
    assert.deepEqual(found(), { doubled: 1 });
  });

  test('whose conversation says another last number', () => {
    const database = storedAs(sent(2));
    database.conversations[0].lastSeq = 1;
    checkStored(database, ledger, verdict);
    assert.deepEqual(found(), { hole: 1 });
  });

  test('with messages whose eventSeq goes another way than their seq', () => {
    const [one, two] = sent(2);
    [one.eventSeq, two.eventSeq] = [two.eventSeq, one.eventSeq];
    checkStored(storedAs([one, two]), ledger, verdict);
    assert.deepEqual(found(), { disordered: 1 });
  });

  test('and a message that was never answered', () => {
    ledger.write(SENDER, TALK, 'into the void').attempts = 9;
    checkStored(storedAs([]), ledger, verdict);
    assert.deepEqual(found(), { unanswered: 1 });
  });
});

describe('a sender', () => {
  const entry = (life, attempts, seq) => ({ life, attempts, conversationId: TALK, message: { seq } });

  test('whose messages are numbered as it sent them is content', () => {
    checkSendOrder([entry('a 1', 1, 1), entry('a 1', 1, 2), entry('a 2', 1, 3)], verdict);
    assert.deepEqual(found(), {});
  });

  test('notices numbers that are not in the order sent', () => {
    checkSendOrder([entry('a 1', 1, 2), entry('a 1', 1, 1)], verdict);
    assert.deepEqual(found(), { disordered: 1 });
  });

  test('expects no order of what it sent again, or over another socket', () => {
    checkSendOrder([entry('a 1', 2, 3), entry('a 1', 1, 2), entry('a 2', 1, 1)], verdict);
    assert.deepEqual(found(), {});
  });

  test('notices an acknowledgement of something else', () => {
    const written = ledger.write(SENDER, TALK, 'words');
    ledger.acknowledge(written, { ...written, content: 'other words' });
    assert.deepEqual(found(), { stray: 1 });
  });
});

test('a kind that is not known is not counted silently', () => {
  assert.throws(() => verdict.add('nonsense', ''));
});
