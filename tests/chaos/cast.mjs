// Who plays: clients and agents in many conversations, with connections of every kind, and those of them who write.

import { createAdmin } from '../e2e/harness/gateway.mjs';
import { logIn, registerClient, restClient } from '../e2e/harness/people.mjs';
import { eventually, pause } from '../e2e/harness/processes.mjs';
import { agentFrom } from '../e2e/harness/servers.mjs';
import { mintToken } from '../e2e/harness/tokens.mjs';
import { Notebook } from './checker.mjs';
import { PlainLine, StockLine } from './lines.mjs';
import { ANSWER_MS, Participant } from './participant.mjs';
import { Sender } from './sender.mjs';

const CLIENTS = 6;
const AGENTS = 3;

/**
 * While a reader reads nothing, somebody says so many things to it: in seconds more than the kernels keep for it and its
 * outbox may hold, and slowly enough for everybody who reads.
 */
const BURST = { messages: 8, everyMs: 100 };

const DEFAULTS = {};
const WEBSOCKET = { transports: ['websocket'] };
const POLLING = { transports: ['polling'] };

export class Cast {
  participants = [];
  senders = [];
  /** Readers that may be made to stop reading, each with the sender that then talks at it and the conversation. */
  stallable = [];
  #addresses = 0;

  constructor({ stage, ledger, verdict, random, seconds, rate }) {
    Object.assign(this, { stage, ledger, verdict, random, seconds, rate });
    // No log may show it.
    this.marker = `chaos-words-${random.seed.toString(36)}`;
  }

  /** Makes the accounts and conversations, and connects everybody. */
  async gather() {
    const { stage } = this;
    const agents = [];
    for (let i = 0; i <= AGENTS; i++) agents.push(await this.#admin(i));
    const observer = agents.pop();
    const clients = [];
    for (let i = 0; i < CLIENTS; i++) clients.push(await registerClient({ url: stage.url }, { firstName: `Client ${i}` }));
    // Everybody has several conversations, and no two clients the same agents.
    const talks = new Map([...clients, ...agents].map((person) => [person, []]));
    for (const [i, client] of clients.entries()) {
      for (const agent of [agents[i % AGENTS], agents[(i + 1) % AGENTS]]) {
        const { id } = await client.converse(agent);
        talks.get(client).push(id);
        talks.get(agent).push(id);
      }
    }
    const all = clients.flatMap((client) => talks.get(client));

    for (const [i, client] of clients.entries()) {
      const mine = talks.get(client);
      const name = `client ${i}`;
      // Who has it open is in two rooms of each event, and hears it once.
      const writing = this.#stock(`${name} writing`, client, mine, DEFAULTS, { rooms: i % 2 ? mine : [] });
      this.#writer(writing, client, mine);
      this.#stock(`${name} reading`, client, mine, i % 3 === 2 ? POLLING : WEBSOCKET, { rooms: i % 2 ? [] : mine });
    }
    for (const [i, agent] of agents.entries()) {
      const mine = talks.get(agent);
      const name = `agent ${i}`;
      const writing = this.#stock(`${name} writing`, agent, mine, WEBSOCKET);
      const writer = this.#writer(writing, agent, mine);
      this.#stock(`${name} reading`, agent, mine, DEFAULTS, { rooms: mine });
      // Straight to a node: every hop between would swallow megabytes before the node noticed anything.
      const client = clients[i];
      const stalling = { name: `client ${i} stalling`, url: stage.nodes[i % stage.nodes.length].gateway.url };
      const reader = i === 2 ? this.#plain(stalling.name, client, talks.get(client), stalling) : this.#stock(stalling.name, client, talks.get(client), WEBSOCKET, stalling);
      this.stallable.push({ reader, writer, conversationId: talks.get(client)[0] });
    }
    // Plain sockets, one of which is caught up with over REST, and writes.
    const [plainClient, plainAgent] = [clients[3], agents[0]];
    const rest = this.#rest(plainClient);
    const syncCall = async (body) => (await rest.post('/chat/sync', body, { timeout: ANSWER_MS })).data;
    const plain = this.#plain('client 3 plain', plainClient, talks.get(plainClient), { syncCall });
    this.#writer(plain, plainClient, talks.get(plainClient));
    this.#plain('agent 0 plain', plainAgent, talks.get(plainAgent), {});
    // Staff that looks on in conversations that are a colleague's, by their rooms alone.
    this.#stock('observer', observer, all, WEBSOCKET, { rooms: all });
    // Another program, which posts.
    const poster = this.#rest(clients[4]);
    this.#sender('client 4 posting', clients[4], talks.get(clients[4]), {
      send: async ({ conversationId, ...body }) =>
        (await poster.post(`/chat/conversations/${conversationId}/messages`, body, { timeout: ANSWER_MS })).data,
    });

    await eventually('everybody is there', () => this.participants.every((one) => one.isPresent), 60_000);
  }

  /** Everybody begins to write; resolves when all have stopped and been answered. */
  async write() {
    const everyMs = (1000 * this.senders.length) / this.rate;
    for (const sender of this.senders) sender.everyMs = everyMs;
    const reading = this.#markNowAndThen();
    await Promise.all(this.senders.map((sender) => sender.run()));
    this.reading = false;
    await reading;
  }

  /** A reader reads nothing for so long, while much is said to it. */
  async stall(index, ms) {
    const { reader, writer, conversationId } = this.stallable[index % this.stallable.length];
    await eventually(`${reader.name} is connected`, () => reader.line.isUp, 30_000);
    const goOn = reader.line.stall();
    const end = Date.now() + ms;
    while (Date.now() < end) {
      writer.burst(conversationId, BURST.messages);
      await pause(BURST.everyMs);
    }
    reader.notebook.wasDistracted();
    goOn();
  }

  stopWriting() {
    for (const sender of this.senders) sender.stop();
  }

  giveUp() {
    for (const sender of this.senders) sender.giveUp();
  }

  close() {
    this.reading = false;
    this.giveUp();
    for (const participant of this.participants) participant.close();
  }

  /** Reads are changes too: they take numbers of `eventSeq` that not everybody hears of. */
  async #markNowAndThen() {
    const random = this.random.fork('reads');
    this.reading = true;
    while (this.reading) {
      await pause(random.between(100, 900));
      const reader = random.pick(this.participants);
      if (reader.line.isUp) await reader.markAsRead(random.pick(reader.notebook.conversations));
    }
  }

  async #admin(i) {
    const [email, password] = [`agent-${i}@example.com`, 'a long enough password'];
    await createAdmin(this.stage.storeEnv, email, password, '--first-name', `Agent ${i}`, '--last-name', 'A');
    return logIn({ url: this.stage.url }, email, password);
  }

  #stock(name, person, conversations, lineOptions, { url = this.stage.url, rooms } = {}) {
    const participant = this.#participant({ name, person, conversations, rooms });
    participant.open(StockLine, url, this.#token(person), { ...lineOptions, agent: this.#address() });
    return participant;
  }

  #plain(name, person, conversations, { url = this.stage.url, syncCall }) {
    const participant = this.#participant({ name, person, conversations, syncCall });
    participant.open(PlainLine, url, this.#token(person), { agent: this.#address() });
    return participant;
  }

  #participant({ name, person, conversations, ...others }) {
    const { ledger, verdict } = this;
    const notebook = new Notebook(name, conversations, { ledger, verdict });
    const participant = new Participant({ name, person, notebook, verdict, ...others });
    this.participants.push(participant);
    return participant;
  }

  #writer(participant, person, conversations) {
    const { line, name } = participant;
    return this.#sender(name, person, conversations, {
      send: (body) => line.ask('chatMessage', body, ANSWER_MS),
      life: () => (line.isUp ? line.life : undefined),
    });
  }

  #sender(name, person, conversations, how) {
    const { ledger, verdict, marker } = this;
    const random = this.random.fork(name);
    const sender = new Sender({ name, senderId: person.id, conversations, marker, random, ledger, verdict, ...how });
    this.senders.push(sender);
    return sender;
  }

  #rest(person) {
    return restClient(this.stage.url, this.#token(person), this.#address());
  }

  /** The balancer chooses a node by the client's address: everybody has one of their own. */
  #address() {
    return agentFrom(`127.0.1.${++this.#addresses}`);
  }

  /** A token that outlasts the run: what its end does has a test of its own. */
  #token(person) {
    return mintToken(person.user, this.seconds + 3600);
  }
}
