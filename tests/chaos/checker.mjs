// What was promised, held against what was seen: the ledger of what was sent, the notebook of each reader, and the checks
// of both against the database. Pure: it knows neither sockets nor servers, so that checker.test.mjs can feed it every
// wrong it must find.

/** What can be found. The first three are the promise of the wire contract, section 4, in the order of its title. */
export const KINDS = {
  lost: 'a message that was acknowledged is not stored, or one that is stored was not heard',
  doubled: 'stored or heard more than once',
  disordered: 'heard, or numbered, out of order',
  late: 'a reader that listened all the time heard it long after any fault could explain',
  hole: 'a number of `seq` or `eventSeq` is missing from the database',
  stray: 'stored or heard, and never sent so',
  refused: 'an error that no fault explains to a client',
  unanswered: 'never acknowledged, though everything was healed',
  broken: 'a node crashed, did not come up, or did not end as it should',
  absent: 'a client did not come back',
  leftover: 'committed, and never struck from the outbox',
  indiscreet: 'a log shows the text of a message',
  tame: 'fewer faults were done than wanted',
};

/**
 * So long may a message take to a reader that listened, in ms. Faults last 8 s and may follow on each other with a rest too
 * short to heal in: some 20 s are seen. Twice that is a server that does not come back by itself.
 */
export const LATE_MS = 40_000;

/** What was found wrong, in the order of finding. */
export class Verdict {
  violations = [];

  /** `times` where one line tells of several. */
  add(kind, text, times = 1) {
    if (!(kind in KINDS)) throw new Error(`${kind} is no kind of violation`);
    this.violations.push({ kind, text, times, at: Date.now() });
  }

  count(kind) {
    return this.violations.reduce((sum, violation) => sum + (violation.kind === kind ? violation.times : 0), 0);
  }
}

/** Every message that anybody began to send. */
export class Ledger {
  #entries = new Map();

  constructor(verdict) {
    this.verdict = verdict;
  }

  /** Notes a message before it is sent for the first time; it is sent with the entry's `clientMessageId`. */
  write(senderId, conversationId, content) {
    const clientMessageId = `m${this.#entries.size + 1}`;
    const entry = { senderId, conversationId, content, clientMessageId, attempts: 0, message: undefined };
    this.#entries.set(clientMessageId, entry);
    return entry;
  }

  /** Notes what a message was acknowledged with. */
  acknowledge(entry, message) {
    entry.message = message;
    if (!isOf(message, entry)) this.verdict.add('stray', `${entry.clientMessageId} was acknowledged as ${short(message)}`);
  }

  /** The entry a message is of, or undefined where nobody sent such a one. */
  of(message) {
    const entry = this.#entries.get(message.clientMessageId);
    return entry && isOf(message, entry) ? entry : undefined;
  }

  get entries() {
    return this.#entries.values();
  }

  get sent() {
    return this.#entries.size;
  }

  get acknowledged() {
    let n = 0;
    for (const { message } of this.entries) if (message) n++;
    return n;
  }
}

/**
 * What one reader hears of its conversations. It keeps two books:
 *
 * - what came live over one life of a socket, which has to be in order and each once with no help of anybody. A life goes
 *   on over a connection state recovery, and ends where a connection begins anew;
 * - what a competent front end then has: live events, and after a new beginning what `sync` answers before those that came
 *   meanwhile. What both brought is taken once, by its number. This has to be the whole conversation in the end.
 */
export class Notebook {
  #pages = new Map();
  #life = new Map();
  #listeningSince = 0;

  /** Numbers for the report. */
  counts = { heard: 0, synced: 0 };
  /** The longest from taking a message in to having it: `{ms, what}`. */
  longest = { ms: 0 };
  /** The same, of what it listened for all the time. */
  longestLive = { ms: 0 };

  constructor(name, conversationIds, { ledger, verdict }) {
    this.name = name;
    this.ledger = ledger;
    this.verdict = verdict;
    for (const id of conversationIds) {
      this.#pages.set(id, { lastSeq: 0, lastEventSeq: 0, taken: new Map(), gaps: [], behind: true, held: [] });
    }
  }

  get conversations() {
    return [...this.#pages.keys()];
  }

  /** A connection has begun that recovered nothing: what was missed has to be fetched. */
  beginLife(at = Date.now()) {
    this.#life = new Map();
    this.#listeningSince = at;
    for (const page of this.#pages.values()) {
      page.behind = true;
      page.held = [];
    }
  }

  /** It was away, or did not read, and goes on with the same life: what comes late by now is no delay of the server's. */
  wasDistracted(at = Date.now()) {
    this.#listeningSince = at;
  }

  /** An event that came over the socket. */
  hear(event, data, at = Date.now()) {
    // Passing signs have no number, and nothing is promised of them.
    if (typeof data?.eventSeq !== 'number') return;
    this.#checkLife(event, data);
    if (!isMessage(event)) return;
    this.counts.heard++;
    const page = this.#pages.get(data.conversationId);
    if (!page) return;
    this.#checkSent(data);
    const takenIn = Date.parse(data.createdAt);
    if (takenIn > this.#listeningSince && at - takenIn > LATE_MS) this.#blame('late', data, `came after ${at - takenIn} ms`);
    if (takenIn > this.#listeningSince) this.longestLive = this.#longer(this.longestLive, data, at);
    if (page.behind) page.held.push(data);
    else this.#take(page, data, 'live', at);
  }

  /** What to ask `sync` for: positions of the conversations that have to be caught up with. Empty when all are. */
  positions() {
    return [...this.#pages]
      .filter(([, page]) => page.behind)
      .map(([conversationId, page]) => ({ conversationId, afterEventSeq: page.lastEventSeq }));
  }

  /** What `sync` answered to the positions `asked`. */
  synced(asked, answers, at = Date.now()) {
    const after = new Map(asked.map(({ conversationId, afterEventSeq }) => [conversationId, afterEventSeq]));
    for (const { conversationId, lastEventSeq, events, hasMore } of answers) {
      const page = this.#pages.get(conversationId);
      if (!page?.behind || !after.has(conversationId)) continue;
      let last = after.get(conversationId);
      for (const { eventSeq, event, data } of events) {
        if (!isMessage(event)) continue;
        if (eventSeq <= last) {
          this.#blame(eventSeq === last ? 'doubled' : 'disordered', data, `came by sync after ${last}`);
        }
        last = eventSeq;
        this.counts.synced++;
        this.#checkSent(data);
        this.#take(page, data, 'by sync', at);
      }
      if (hasMore) continue;
      page.lastEventSeq = Math.max(page.lastEventSeq, lastEventSeq);
      page.behind = false;
      for (const data of page.held) this.#take(page, data, 'live meanwhile', at);
      page.held = [];
    }
  }

  /** The number of the last message it has of a conversation. */
  lastSeq(conversationId) {
    return this.#pages.get(conversationId).lastSeq;
  }

  /** Whether nothing is waited for. */
  get isCaughtUp() {
    return [...this.#pages.values()].every((page) => !page.behind);
  }

  /** Holds a conversation against the messages that are stored of it, in the order of `seq`. */
  checkAgainst(conversationId, stored) {
    const { taken, gaps } = this.#pages.get(conversationId);
    let run = [];
    const tellRun = () => {
      if (run.length > 0) this.#tellLost(conversationId, run, gaps);
      run = [];
    };
    for (const message of stored) {
      const id = taken.get(message.seq);
      if (id === undefined) {
        run.push(message.seq);
        continue;
      }
      tellRun();
      if (id !== message.id) this.#blame('stray', message, `was heard as message ${id}`);
    }
    tellRun();
    const last = stored.at(-1)?.seq ?? 0;
    for (const seq of taken.keys()) {
      if (seq > last) this.verdict.add('stray', `${this.name}: conversation ${conversationId} seq ${seq} was heard and is not stored`);
    }
  }

  /** The life of a socket: in order, each once. */
  #checkLife(event, data) {
    const { conversationId, eventSeq } = data;
    let life = this.#life.get(conversationId);
    if (!life) this.#life.set(conversationId, (life = { last: 0, heard: new Set() }));
    // `messageReceived` is in place of `chatMessage`: both together are the message once.
    const key = `${eventSeq} ${isMessage(event) ? 'message' : event}`;
    if (life.heard.has(key)) this.#blame('doubled', data, `(${event}) came twice over one socket`);
    else if (eventSeq < life.last) this.#blame('disordered', data, `(${event}) came after eventSeq ${life.last}`);
    life.heard.add(key);
    life.last = Math.max(life.last, eventSeq);
  }

  #checkSent(data) {
    if (!this.ledger.of(data)) this.#blame('stray', data, 'was heard, and nobody sent it so');
  }

  #take(page, data, by, at) {
    // What `sync` and the socket both brought, or what the books of the life complain of.
    if (data.seq <= page.lastSeq) return;
    // Kept as evidence: whether it is lost shows in the end.
    if (data.seq !== page.lastSeq + 1) page.gaps.push({ after: page.lastSeq, before: data.seq, by, at });
    page.taken.set(data.seq, data.id);
    this.longest = this.#longer(this.longest, data, at);
    page.lastSeq = data.seq;
    page.lastEventSeq = Math.max(page.lastEventSeq, data.eventSeq);
  }

  #longer(longest, data, at) {
    const ms = at - Date.parse(data.createdAt);
    return ms <= longest.ms ? longest : { ms, what: `${short(data)} taken in at ${data.createdAt}, by ${this.name}` };
  }

  /** Messages in a row that it lacks: one line, since they have one cause. */
  #tellLost(conversationId, seqs, gaps) {
    const gap = gaps.find(({ after, before }) => after < seqs[0] && seqs[0] < before);
    const when = gap
      ? `noticed at ${new Date(gap.at).toISOString()}, when ${gap.before} came ${gap.by} after ${gap.after}`
      : 'and nothing after';
    const which = seqs.length === 1 ? `${seqs[0]} was` : `${seqs[0]} to ${seqs.at(-1)} were`;
    this.verdict.add('lost', `${this.name}: conversation ${conversationId} seq ${which} never heard; ${when}`, seqs.length);
  }

  #blame(kind, { conversationId, seq, eventSeq }, what) {
    const number = seq === undefined ? '' : `seq ${seq} `;
    this.verdict.add(kind, `${this.name}: conversation ${conversationId} ${number}eventSeq ${eventSeq} ${what}`);
  }
}

/**
 * Holds the database against the ledger: `messages` and `events` (of the log) are all rows there are, `conversations` their
 * heads. What is unanswered is said too: call it when everybody had the time to be answered.
 */
export function checkStored({ messages, events, conversations }, ledger, verdict) {
  const rows = new Map();
  for (const row of messages) {
    const entry = ledger.of(row);
    if (!entry) verdict.add('stray', `nobody sent what is stored as ${short(row)}`);
    else if (rows.has(entry)) verdict.add('doubled', `${short(row)} is stored twice`);
    else rows.set(entry, row);
  }
  for (const entry of ledger.entries) {
    const row = rows.get(entry);
    const { message } = entry;
    if (!message) verdict.add('unanswered', `${entry.clientMessageId} after ${entry.attempts} attempts (${row ? '' : 'not '}stored)`);
    else if (!row) verdict.add('lost', `${short(message)} was acknowledged and is not stored`);
    else if (row.id !== message.id || row.seq !== message.seq || row.eventSeq !== message.eventSeq) {
      verdict.add('stray', `${short(row)} was acknowledged as ${short(message)}`);
    }
  }
  const byConversation = groupBy(messages, (row) => row.conversationId);
  const eventsByConversation = groupBy(events, (row) => row.conversationId);
  for (const { id, lastSeq, lastEventSeq } of conversations) {
    const stored = byConversation.get(id) ?? [];
    checkNumbers(`conversation ${id} seq`, stored.map((row) => row.seq), lastSeq, verdict);
    const logged = eventsByConversation.get(id) ?? [];
    checkNumbers(`conversation ${id} eventSeq`, logged.map((row) => row.eventSeq), lastEventSeq, verdict);
    const places = new Map(logged.map((row) => [row.eventSeq, row.messageId]));
    let last = 0;
    for (const row of [...stored].sort((a, b) => a.seq - b.seq)) {
      if (places.get(row.eventSeq) !== row.id) verdict.add('hole', `the log has no such event for ${short(row)}`);
      if (row.eventSeq <= last) verdict.add('disordered', `${short(row)} has no later eventSeq than its elder`);
      last = row.eventSeq;
    }
  }
}

/**
 * What one socket sends in a row gets numbers in that order. `entries` are in the order sent, each with the `life` of the
 * socket that it was sent over; what was sent again proves nothing.
 */
export function checkSendOrder(entries, verdict) {
  const last = new Map();
  for (const entry of entries) {
    if (entry.attempts !== 1 || !entry.message || entry.life === undefined) continue;
    const key = `${entry.life} ${entry.conversationId}`;
    const elder = last.get(key);
    if (elder && elder.message.seq > entry.message.seq) {
      verdict.add('disordered', `${short(entry.message)} was sent after ${short(elder.message)} over one socket`);
    }
    last.set(key, entry);
  }
}

function checkNumbers(what, numbers, last, verdict) {
  const seen = new Set();
  for (const number of numbers) {
    if (seen.has(number)) verdict.add('doubled', `${what} ${number} is given twice`);
    seen.add(number);
  }
  const greatest = Math.max(last, ...seen);
  for (let number = 1; number <= greatest; number++) {
    if (!seen.has(number)) verdict.add('hole', `${what} ${number} is missing (of ${greatest})`);
  }
  if (last !== greatest) verdict.add('hole', `${what} has come to ${greatest}, and the conversation says ${last}`);
}

function isMessage(event) {
  return event === 'chatMessage' || event === 'messageReceived';
}

function isOf(message, entry) {
  return ['senderId', 'conversationId', 'content', 'clientMessageId'].every((field) => message[field] === entry[field]);
}

function groupBy(rows, key) {
  const groups = new Map();
  for (const row of rows) {
    const group = groups.get(key(row));
    if (group) group.push(row);
    else groups.set(key(row), [row]);
  }
  return groups;
}

/** A message in a line, without its text. */
function short({ id, conversationId, senderId, seq, eventSeq, clientMessageId }) {
  return `message ${id} (conversation ${conversationId}, sender ${senderId}, seq ${seq}, eventSeq ${eventSeq}, ${clientMessageId})`;
}
