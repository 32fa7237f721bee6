// Somebody who writes: each message with a `clientMessageId`, and again with the same one until it is acknowledged.

import { pause } from '../e2e/harness/processes.mjs';
import { PASSING } from './lines.mjs';
import { AGAIN_MS } from './participant.mjs';

/** So many messages may wait for their answers at once: a person who writes on while the network is slow. */
const WINDOW = 4;

/** So many in a burst: without a bound, all of them would be sent again whenever the connection breaks. */
const BURST_WINDOW = 24;

/** The longest message there is, nearly: 15 kB on the wire. */
const LONG = 4900;

export class Sender {
  /** Answers that were errors, by code, and attempts that got no answer, for the report. */
  failures = new Map();
  /** Everything it has begun to send, in that order. */
  entries = [];
  #underWay = new Set();
  #stopped = false;

  /**
   * `send(body)` sends a message and returns the envelope of the answer, or rejects where none came. `life()` names the
   * life of the connection it would go out on, or undefined where it may wait.
   */
  constructor({ name, senderId, conversations, everyMs, marker, random, ledger, verdict, send, life = () => undefined }) {
    Object.assign(this, { name, senderId, conversations, everyMs, marker, random, ledger, verdict, send, life });
  }

  /** Writes now and then until it is stopped; resolves when everything is acknowledged or given up. */
  async run() {
    while (!this.#stopped) {
      await pause(this.random.between(0, 2 * this.everyMs));
      if (this.#underWay.size < WINDOW && !this.#stopped) {
        this.#begin(this.random.pick(this.conversations), this.random.chance(0.02) ? LONG : 0);
      }
    }
    await Promise.all(this.#underWay);
  }

  /** Says up to so many long things in one conversation at once. */
  burst(conversationId, messages) {
    for (let i = 0; i < messages && !this.#stopped && this.#underWay.size < BURST_WINDOW; i++) {
      this.#begin(conversationId, LONG);
    }
  }

  /** Begins nothing more. */
  stop() {
    this.#stopped = true;
  }

  /** Gives up what is not acknowledged: nothing helps any more. */
  giveUp() {
    this.#stopped = true;
    this.gaveUp = true;
  }

  #begin(conversationId, length) {
    const content = `${this.marker} ${this.entries.length} by ${this.name} `.padEnd(length, '…');
    const entry = this.ledger.write(this.senderId, conversationId, content);
    this.entries.push(entry);
    const delivering = this.#deliver(entry).finally(() => this.#underWay.delete(delivering));
    this.#underWay.add(delivering);
  }

  async #deliver(entry) {
    const { conversationId, content, clientMessageId } = entry;
    while (!this.gaveUp) {
      entry.attempts++;
      const life = this.life();
      const answer = await this.send({ conversationId, message: content, clientMessageId }).catch(() => undefined);
      if (answer?.success) {
        if (life !== undefined && life === this.life()) entry.life = `${this.name} ${life}`;
        return this.ledger.acknowledge(entry, answer.data);
      }
      const code = answer?.error?.code ?? 'no answer';
      this.failures.set(code, (this.failures.get(code) ?? 0) + 1);
      if (answer && !PASSING.has(code)) {
        return this.verdict.add('refused', `${this.name}: ${clientMessageId} was answered ${JSON.stringify(answer)}`);
      }
      await pause(AGAIN_MS);
    }
  }
}
