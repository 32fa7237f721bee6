// Who heard which message when, and whether that is what was promised: each once, in the order of `seq`, none missing.

import { eventually } from '../e2e/harness/processes.mjs';

export class Ledger {
  #sentAt = new Map();
  #readers = [];

  /** Notes that a message is sent, for the first time; its `clientMessageId` is its name. */
  sent(name) {
    this.#sentAt.set(name, Date.now());
  }

  /** Everything that was sent so far. */
  get names() {
    return [...this.#sentAt.keys()];
  }

  /** Somebody who has to hear every message of these conversations. */
  reader(name, conversations) {
    const reader = new Reader(name, conversations, this.#sentAt);
    this.#readers.push(reader);
    return reader;
  }

  /**
   * Waits until every reader has heard the last message of each of its conversations, or the time is over, and compares
   * with what is stored: `{stored, expected, lost, doubled, disordered, delays, examples}`. The first are counts: `stored`
   * of messages, `expected` of messages for each of their readers, the next three of those that went wrong.
   */
  async judge(database, withinMs = 15_000) {
    const rows = await database.query(
      'SELECT conversationId AS id, COUNT(*) AS n, MAX(seq) AS last, COUNT(DISTINCT clientMessageId) AS names FROM Messages GROUP BY 1',
    );
    const stored = new Map(rows.map((row) => [row.id, row.n]));
    const holes = rows.filter((row) => row.n !== row.last || row.n !== row.names);
    if (holes.length) throw new Error(`the table has holes or doubles: ${JSON.stringify(holes.slice(0, 5))}`);
    const complete = () => this.#readers.every((reader) => reader.hasHeard(stored));
    await eventually('everybody has heard everything', complete, withinMs).catch(() => {});
    const verdict = { stored: rows.reduce((sum, row) => sum + row.n, 0), expected: 0, lost: 0, doubled: 0, disordered: 0 };
    verdict.delays = [];
    verdict.examples = [];
    for (const reader of this.#readers) reader.judge(stored, verdict);
    verdict.delays.sort((a, b) => a - b);
    return verdict;
  }
}

class Reader {
  /** The longest time without any message, once there was one. */
  longestSilence = 0;
  #lastAt;
  #heard = new Map();
  #sentAt;

  constructor(name, conversations, sentAt) {
    this.name = name;
    this.#sentAt = sentAt;
    for (const id of conversations) this.#heard.set(id, []);
  }

  /** Takes down a message that came. */
  hear(message) {
    const at = Date.now();
    this.#heard.get(message.conversationId)?.push({ seq: message.seq, delay: at - this.#sentAt.get(message.clientMessageId) });
    if (this.#lastAt) this.longestSilence = Math.max(this.longestSilence, at - this.#lastAt);
    this.#lastAt = at;
  }

  /** Whether that message came already. */
  heard(conversation, seq) {
    return this.#heard.get(conversation).some((entry) => entry.seq === seq);
  }

  hasHeard(stored) {
    for (const [id, entries] of this.#heard) if (entries.length < (stored.get(id) ?? 0)) return false;
    return true;
  }

  judge(stored, verdict) {
    for (const [id, entries] of this.#heard) {
      const wanted = stored.get(id) ?? 0;
      const seen = new Set();
      let last = 0;
      const went = (wrong, seq) => {
        verdict[wrong]++;
        if (verdict.examples.length < 10) verdict.examples.push(`${this.name}, conversation ${id}, seq ${seq}: ${wrong}`);
      };
      for (const { seq, delay } of entries) {
        if (seen.has(seq)) went('doubled', seq);
        else if (seq < last) went('disordered', seq);
        seen.add(seq);
        last = Math.max(last, seq);
        verdict.delays.push(delay);
      }
      verdict.expected += wanted;
      for (let seq = 1; seq <= wanted; seq++) if (!seen.has(seq)) went('lost', seq);
    }
  }
}

/** The value below which that share of the sorted numbers lies. */
export function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}
