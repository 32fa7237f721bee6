// Every node is restarted in turn, as a rollout does it, while hundreds of people chat through HAProxy: nothing is lost,
// nothing comes twice, and no reader does anything about it. Readers are stock clients with default options that do nothing
// but listen; senders repeat under the same `clientMessageId` what was not acknowledged, as the contract asks of them.
//
// A reader whose reconnect was not recovered fails the run. With STRICT=0 it calls `sync` instead, as a front end of one's
// own would, and the calls are counted.

import { Gateway } from '../e2e/harness/gateway.mjs';
import { pause, within } from '../e2e/harness/processes.mjs';
import { words } from '../e2e/harness/secrets.mjs';
import { agentFrom } from '../e2e/harness/servers.mjs';
import { io } from '../e2e/harness/sockets.mjs';
import { mintToken } from '../e2e/harness/tokens.mjs';
import { Fleet } from './fleet.mjs';
import { Ledger, quantile } from './ledger.mjs';
import { faultsOf, isMain, main, number, STRICT } from './program.mjs';

/** How long a sender waits for an acknowledgement before it sends again. */
const ACK_MS = 5000;

/** How often messages are handed out. */
const TICK_MS = 20;

/** How long what was said last may take to be acknowledged. */
const LAST_ACKS_MS = 20_000;

/** No message takes longer to anybody than one reconnect of its sender and one of its reader. */
const MAX_DELAY_MS = 15_000;

/**
 * `nodes` nodes; `clients` people with a conversation each and `agents` of staff, all of whom write and read; `rate` messages
 * a second over all; each node takes `drainSeconds` to send its sockets away. Returns `{figures, faults}`.
 */
export async function rolling({ nodes, clients, agents, rate, drainSeconds, strict = STRICT, say = () => {} }) {
  const fleet = await Fleet.start({ nodes, balancers: 1, env: { DRAIN_SECONDS: String(drainSeconds) } });
  const ledger = new Ledger();
  const tally = { reconnects: 0, recovered: 0, unrecovered: 0, syncs: 0, again: 0, refused: 0, failedTries: 0, turnedAway: [] };
  const everybody = [];
  const logs = [];
  try {
    const people = await fleet.populate({ agents, clients });
    const url = fleet.haproxies[0].url;
    for (const person of [...people.clients, ...people.agents]) {
      const own = person.conversationId
        ? [person.conversationId]
        : people.clients.filter((client) => client.agentId === person.id).map((client) => client.conversationId);
      everybody.push(new Participant(url, person, own, everybody.length, { ledger, tally, strict }));
    }
    for (let at = 0; at < everybody.length; at += 20) await Promise.all(everybody.slice(at, at + 20).map((p) => p.connected()));
    await pause(1000);
    say(`${everybody.length} sockets are connected`);

    const flow = startFlow(everybody, rate);
    await pause(Math.min(3000, drainSeconds * 1000));
    const exits = [];
    for (const [i, node] of fleet.nodes.entries()) {
      const begun = Date.now();
      const { code } = await node.stop('SIGTERM', (drainSeconds + 20) * 1000);
      const drained = Date.now() - begun;
      exits.push(code);
      logs.push(node.logs);
      fleet.nodes[i] = await Gateway.start(node.env);
      say(`node ${i + 1}: exit ${code} after ${drained} ms, ready again ${Date.now() - begun - drained} ms later`);
    }
    // Whoever was sent away last comes back.
    await pause(2000);
    const { sent, seconds, unanswered } = await flow.stop();
    const verdict = await ledger.judge(fleet.database);

    const faults = faultsOf(verdict);
    const worst = quantile(verdict.delays, 1);
    // After such an answer a stock client does not come back by itself.
    if (tally.turnedAway.length) faults.push(`${tally.turnedAway.length} were turned away for good: ${tally.turnedAway[0]}`);
    if (unanswered) faults.push(`${unanswered} messages were not acknowledged`);
    if (verdict.stored !== sent) faults.push(`${sent} messages were sent, ${verdict.stored} are stored`);
    if (exits.some((code) => code !== 0)) faults.push('a node did not end with 0');
    if (tally.reconnects < clients) faults.push('hardly anybody was sent away');
    if (strict && tally.unrecovered) faults.push(`${tally.unrecovered} reconnects were not recovered`);
    if (worst > MAX_DELAY_MS) faults.push(`a message took ${worst} ms`);
    if ([...logs, fleet.logs].some((log) => /panicked at/.test(log))) faults.push('a log tells of a panic');
    const silence = Math.max(...everybody.filter((p) => p.isAgent).map((p) => p.reader.longestSilence));
    const figures = {
      'nodes restarted, exit codes': `${exits.length}: ${exits.join(' ')}`,
      'conversations, sockets': `${clients}, ${everybody.length}`,
      'messages, a second': `${sent}, ${(sent / seconds).toFixed(0)}`,
      'deliveries': verdict.expected,
      'lost': verdict.lost,
      'doubled': verdict.doubled,
      'out of order': verdict.disordered,
      'sent to heard, median': `${quantile(verdict.delays, 0.5)} ms`,
      'sent to heard, p99': `${quantile(verdict.delays, 0.99)} ms`,
      'sent to heard, worst': `${worst} ms`,
      'longest silence of an agent': `${silence} ms`,
      'reconnects': tally.reconnects,
      'tries to connect that failed': tally.failedTries,
      'recovered': tally.recovered,
      'not recovered': tally.unrecovered,
      'calls of sync': strict ? 'none: strict' : tally.syncs,
      'sent again for want of an answer': tally.again,
      'refused, and sent again': tally.refused,
    };
    return { figures, faults };
  } finally {
    for (const participant of everybody) participant.close();
    await fleet.stop();
  }
}

/** Somebody who listens, and writes when told to. */
class Participant {
  /** Whether there were connections before. */
  #known = false;
  #closed = false;
  /** What came while a `sync` was under way; undefined where none is. */
  #waiting;
  #lastEventSeq = new Map();
  /** Up to where `sync` told it: what comes live of that is a repeat, to be passed over, as the documents say. */
  #syncedTo = new Map();
  #count = 0;

  constructor(url, person, conversations, number, { ledger, tally, strict }) {
    Object.assign(this, { number, conversations, ledger, tally, strict, isAgent: person.role === 'admin' });
    this.reader = ledger.reader(person.email, conversations);
    for (const id of conversations) this.#lastEventSeq.set(id, 0);
    this.socket = io(url, {
      forceNew: true,
      auth: { token: mintToken(person, 7200) },
      // The balancer goes by the client's address: everybody comes from one of their own.
      agent: agentFrom(`127.1.${number >> 8}.${(number & 0xff) || 255}`),
    });
    this.socket.on('connect', () => this.#connect());
    this.socket.on('connect_error', (error) => {
      this.tally.failedTries++;
      if (!this.socket.active) this.tally.turnedAway.push(error.message);
    });
    this.socket.on('chatMessage', (message) => this.#hear(message));
    this.socket.on('messageReceived', (message) => this.#hear(message));
  }

  connected() {
    const connected = new Promise((resolve) => (this.socket.connected ? resolve() : this.socket.once('connect', resolve)));
    return within(20_000, connected, () => 'a socket is connected');
  }

  /** Says something in one of its conversations, until it is acknowledged. */
  async say() {
    const conversationId = this.conversations[this.#count % this.conversations.length];
    const name = `${this.number}-${++this.#count}`;
    const body = { conversationId, message: words(name), clientMessageId: name };
    this.ledger.sent(name);
    while (!this.#closed) {
      const answer = await this.socket.timeout(ACK_MS).emitWithAck('chatMessage', body).catch(() => undefined);
      if (answer?.success) return;
      if (answer) {
        this.tally.refused++;
        await pause(500);
      } else {
        this.tally.again++;
      }
    }
  }

  #connect() {
    if (!this.#known) {
      this.#known = true;
      return;
    }
    this.tally.reconnects++;
    if (this.socket.recovered) {
      this.tally.recovered++;
    } else {
      this.tally.unrecovered++;
      if (!this.strict) void this.#sync();
    }
  }

  #hear(message) {
    if (message.eventSeq <= this.#syncedTo.get(message.conversationId)) return;
    if (this.#waiting) this.#waiting.push(message);
    else this.#note(message);
  }

  #note(message) {
    const last = this.#lastEventSeq.get(message.conversationId);
    if (last === undefined) return;
    this.#lastEventSeq.set(message.conversationId, Math.max(last, message.eventSeq));
    this.reader.hear(message);
  }

  /** What a front end does that knows nothing of recovery. What comes meanwhile is held back. */
  async #sync() {
    const waiting = (this.#waiting = []);
    const { id } = this.socket;
    let asked = this.conversations;
    while (asked.length) {
      const conversations = asked.slice(0, 200).map((c) => ({ conversationId: c, afterEventSeq: this.#lastEventSeq.get(c) }));
      const answer = await this.socket.timeout(ACK_MS).emitWithAck('sync', { conversations, limit: 500 }).catch(() => undefined);
      this.tally.syncs++;
      // Gone again: the next connection asks anew.
      if (this.socket.id !== id || this.#waiting !== waiting) return;
      if (!answer?.success) continue;
      const more = [];
      for (const { conversationId, events, hasMore } of answer.data.conversations) {
        for (const { event, data } of events) if (event === 'chatMessage') this.#note(data);
        this.#syncedTo.set(conversationId, this.#lastEventSeq.get(conversationId));
        if (hasMore) more.push(conversationId);
      }
      asked = [...more, ...asked.slice(200)];
    }
    this.#waiting = undefined;
    for (const message of waiting) this.#hear(message);
  }

  close() {
    this.#closed = true;
    this.socket.disconnect();
  }
}

/**
 * A steady flow from everybody in turn; `stop` ends it and waits, in bounded time, until all was acknowledged:
 * `{sent, seconds, unanswered}`.
 */
function startFlow(everybody, rate) {
  const begun = Date.now();
  const sending = new Set();
  let sent = 0;
  const timer = setInterval(() => {
    for (const due = ((Date.now() - begun) * rate) / 1000; sent < due; ) {
      // A client, an agent, a client, an agent: half of what is said comes from either side.
      const writer = everybody[pick(everybody, sent++)].say();
      sending.add(writer);
      void writer.finally(() => sending.delete(writer));
    }
  }, TICK_MS);
  const stop = async () => {
    clearInterval(timer);
    const seconds = (Date.now() - begun) / 1000;
    await within(LAST_ACKS_MS, Promise.all(sending), () => 'everything is acknowledged').catch(() => {});
    return { sent, seconds, unanswered: sending.size };
  };
  return { stop };
}

function pick(everybody, turn) {
  const agents = everybody.filter((p) => p.isAgent).length;
  const clients = everybody.length - agents;
  const half = turn >> 1;
  return turn % 2 ? clients + (half % agents) : half % clients;
}

if (isMain(import.meta)) {
  const sizes = {
    ...{ nodes: number('NODES', 3), clients: number('CLIENTS', 300), agents: number('AGENTS', 6) },
    ...{ rate: number('RATE', 500), drainSeconds: number('DRAIN_SECONDS', 10) },
  };
  await main('Rolling restart', (say) => rolling({ ...sizes, say }));
}
