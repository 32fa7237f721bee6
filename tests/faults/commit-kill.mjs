// Nodes are killed between the commit of a message and its publishing, many times: everybody hears every message all the
// same, once and in order, from a node that lives.
//
// No hook in the gateway is needed. A victim reaches Redis through a proxy that swallows what it sends; a message is
// acknowledged after its commit and before its publishing; at the acknowledgement the victim is killed. That the message
// lies in the outbox and that nobody has heard it is looked up after every kill.

import { Gateway } from '../e2e/harness/gateway.mjs';
import { eventually, pause } from '../e2e/harness/processes.mjs';
import { Proxy } from '../e2e/harness/proxy.mjs';
import { words } from '../e2e/harness/secrets.mjs';
import { Client } from '../e2e/harness/sockets.mjs';
import { mintToken } from '../e2e/harness/tokens.mjs';
import { Fleet } from './fleet.mjs';
import { Ledger, quantile } from './ledger.mjs';
import { faultsOf, isMain, main, number } from './program.mjs';

/** How long the retry of a message that was not acknowledged may take to be. */
const PATIENCE_MS = 10_000;

/** What is swept after two seconds, by a look each second, is heard within these; the rest is a busy machine's. */
const MAX_DELAY_MS = 6_000;

/**
 * `kills`: nodes killed between commit and publish; `blind`: nodes killed a random time after a send, acknowledged or not,
 * with nothing swallowed; `victims`: how many live and die side by side. Returns `{figures, faults}`.
 */
export async function commitKill({ kills, blind, victims, say = () => {} }) {
  const fleet = await Fleet.start();
  const ledger = new Ledger();
  const tally = { kills: 0, unpublished: 0, tried: 0, again: 0, blind: 0, unanswered: 0 };
  const slots = [];
  const dead = [];
  try {
    const { agents, clients } = await fleet.populate({ agents: victims, clients: victims });
    const survivor = fleet.nodes[0];
    for (const [i, client] of clients.entries()) slots.push(await Slot.open(i, client, agents[i], { fleet, ledger, tally, survivor }));
    // The rounds are dealt to whoever is free. A round that did not catch the moment is not counted, and dealt again.
    const plan = [...Array(kills).fill('swallowed'), ...Array(blind).fill('blind')];
    const spread = plan.map((kind, i) => ({ kind, at: kind === 'blind' ? ((i - kills + 0.5) * plan.length) / blind : i }));
    const rounds = spread.sort((a, b) => a.at - b.at).map(({ kind }) => kind);
    const begun = Date.now();
    await Promise.all(
      slots.map(async (slot) => {
        for (let kind = rounds.shift(); kind; kind = rounds.shift()) {
          if (!(await slot.round(kind, dead))) rounds.push(kind);
          const done = tally.kills + tally.blind;
          if (done % 25 === 0) say(`${done} of ${kills + blind} kills, ${Math.round((Date.now() - begun) / 1000)} s`);
        }
      }),
    );
    const verdict = await ledger.judge(fleet.database);
    const names = ledger.names.length;
    const struck = async () => (await fleet.database.query('SELECT COUNT(*) AS n FROM Outbox'))[0].n === 0;
    const left = await eventually('the outbox is empty', struck, 10_000).then(() => false, () => true);

    const faults = faultsOf(verdict);
    if (verdict.stored !== names) faults.push(`${names} messages were sent, ${verdict.stored} are stored`);
    if (tally.kills !== kills || tally.unpublished !== kills) faults.push('not every kill was between commit and publish');
    if (left) faults.push('the outbox is not empty');
    const orphans = slots.flatMap((slot) => slot.orphanDelays).sort((a, b) => a - b);
    const worst = quantile(orphans, 1);
    if (worst > MAX_DELAY_MS) faults.push(`an orphan took ${worst} ms`);
    if (dead.some((log) => /panicked at/.test(log)) || /panicked at/.test(fleet.logs)) faults.push('a log tells of a panic');
    const figures = {
      'killed between commit and publish': tally.kills,
      'of these, seen in the outbox and unheard': tally.unpublished,
      'of these, publishing had begun': tally.tried,
      'rounds that missed the moment': tally.again,
      'killed blindly after a send': tally.blind,
      'sent again for want of an answer': tally.unanswered,
      'messages stored': verdict.stored,
      'deliveries': verdict.expected,
      'lost': verdict.lost,
      'doubled': verdict.doubled,
      'out of order': verdict.disordered,
      'orphans heard after, worst': `${worst} ms`,
      'orphans heard after, median': `${quantile(orphans, 0.5)} ms`,
      'seconds': Math.round((Date.now() - begun) / 1000),
    };
    return { figures, faults };
  } finally {
    for (const slot of slots) await slot.close();
    await fleet.stop();
  }
}

/** One conversation whose client writes through nodes that die, and three sockets on the survivor that hear it. */
class Slot {
  /** How long each reader waited for a message whose node was killed, from its acknowledgement. */
  orphanDelays = [];
  #orphans = new Map();
  #count = 0;

  static async open(number, client, agent, { fleet, ledger, tally, survivor }) {
    const slot = Object.assign(new Slot(), { number, fleet, ledger, tally, sockets: [], readers: [] });
    slot.conversationId = client.conversationId;
    slot.token = mintToken(client, 7200);
    slot.proxy = await Proxy.to(fleet.redis.port);
    const agentToken = mintToken(agent, 7200);
    slot.elsewhere = await slot.#listen(survivor, 'the client elsewhere', slot.token);
    const [one, two] = [await slot.#listen(survivor, 'the agent', agentToken), await slot.#listen(survivor, 'the agent again', agentToken)];
    slot.sockets = [slot.elsewhere, one, two];
    return slot;
  }

  async #listen(survivor, name, token) {
    const socket = await Client.connect(survivor.url, { auth: { token }, transports: ['websocket'] });
    const reader = this.ledger.reader(`slot ${this.number}, ${name}`, [this.conversationId]);
    const hear = (message) => {
      reader.hear(message);
      const acknowledgedAt = this.#orphans.get(message.seq);
      if (acknowledgedAt && message.conversationId === this.conversationId) this.orphanDelays.push(Date.now() - acknowledgedAt);
    };
    socket.socket.on('chatMessage', hear);
    socket.socket.on('messageReceived', hear);
    this.readers.push(reader);
    return socket;
  }

  /** A node comes, takes messages and dies. False where it did not die at the wanted moment. */
  async round(kind, dead) {
    const node = await Gateway.start({ ...this.fleet.env, REDIS_URL: `redis://127.0.0.1:${this.proxy.port}/` });
    let sender;
    try {
      sender = await Client.connect(node.url, { auth: { token: this.token }, transports: ['websocket'], reconnection: false });
      const names = Array.from({ length: 1 + (this.#count % 3) }, () => this.#name());
      return await (kind === 'swallowed' ? this.#killAtAck(node, sender, names) : this.#killBlindly(node, sender, names));
    } finally {
      await node.stop('SIGKILL');
      dead.push(node.logs);
      sender?.close();
      this.proxy.drop();
    }
  }

  async #killAtAck(node, sender, names) {
    this.proxy.swallow();
    const acknowledged = [];
    let killedAt;
    const sending = names.map((name) =>
      this.#send(sender, name).then((answer) => {
        if (answer.success) acknowledged.push(answer.data);
        // The second and third of a burst share the next transaction: they die at any of its moments.
        if (killedAt) return;
        killedAt = Date.now();
        node.program.child.kill('SIGKILL');
      }),
    );
    await Promise.race([Promise.all(sending), node.program.ended]).catch(() => {});
    await node.program.ended;
    const swallowed = this.proxy.swallowedBytes;
    if (acknowledged.length === 0) throw new Error(`a node was not acknowledged anything: ${node.program.tail()}`);
    const unpublished = await this.#areUnpublished(acknowledged, killedAt);
    const caught = Date.now() - killedAt < 1500;
    if (caught) {
      this.tally.kills++;
      if (unpublished) this.tally.unpublished++;
      if (swallowed > 0) this.tally.tried++;
      for (const { seq } of acknowledged) this.#orphans.set(seq, killedAt);
    } else {
      this.tally.again++;
    }
    // What comes after the orphan must not overtake it.
    const after = this.#count % 2 ? [this.#name()] : [];
    const done = new Set(acknowledged.map((message) => message.clientMessageId));
    await this.#sendAgain(names.filter((name) => !done.has(name)));
    await this.#untilAcknowledged(after);
    return caught;
  }

  async #killBlindly(node, sender, names) {
    const done = new Set();
    const sending = names.map((name) => this.#send(sender, name).then((answer) => answer.success && done.add(name)));
    sending.forEach((send) => send.catch(() => {}));
    await pause(Math.random() * 20);
    await node.stop('SIGKILL');
    this.tally.blind++;
    await this.#sendAgain(names.filter((name) => !done.has(name)));
    return true;
  }

  /** Whether these are in the outbox, and nobody has heard them. */
  async #areUnpublished(messages) {
    for (const { seq, eventSeq } of messages) {
      const [{ n }] = await this.fleet.database.query(
        'SELECT COUNT(*) AS n FROM Outbox WHERE conversationId = ? AND firstEventSeq <= ? AND lastEventSeq >= ?',
        [this.conversationId, eventSeq, eventSeq],
      );
      if (n !== 1 || this.readers.some((reader) => reader.heard(this.conversationId, seq))) return false;
    }
    return true;
  }

  #sendAgain(names) {
    this.tally.unanswered += names.length;
    return this.#untilAcknowledged(names);
  }

  /** Through the survivor, as often as it takes. */
  async #untilAcknowledged(names) {
    for (const name of names) {
      const answered = async () => (await this.#send(this.elsewhere, name).catch(() => undefined))?.success;
      await eventually('a message is acknowledged', answered, PATIENCE_MS);
    }
  }

  #name() {
    const name = `${this.number}-${++this.#count}`;
    this.ledger.sent(name);
    return name;
  }

  #send(client, name) {
    return client.request('chatMessage', { conversationId: this.conversationId, message: words(name), clientMessageId: name });
  }

  async close() {
    for (const socket of this.sockets) socket.close();
    await this.proxy?.close();
  }
}

if (isMain(import.meta)) {
  const sizes = { kills: number('KILLS', 200), blind: number('BLIND', 60), victims: number('VICTIMS', 6) };
  await main('Nodes killed between commit and publish', (say) => commitKill({ ...sizes, say }));
}
