// One connection of a person with all that a front end does on it: after a beginning that recovered nothing it enters its
// rooms and fetches what it missed; after a recovery it does nothing at all. It writes down what it hears.

import { pause } from '../e2e/harness/processes.mjs';
import { PASSING } from './lines.mjs';

/** How long an answer is waited for before the question is asked again. */
export const ANSWER_MS = 4000;

/** Between two attempts. A front end would wait longer each time; here more is to happen. */
export const AGAIN_MS = 400;

/** Changes of a conversation in a page of `sync`: few, so that there are pages. */
const PAGE = 50;

export class Participant {
  /** How it fared, for the report. */
  counts = { connects: 0, recoveries: 0, syncs: 0, ends: new Map() };
  #unentered = new Set();
  #turn = 0;
  #closed = false;

  /**
   * `rooms` are conversations that it enters with `joinConversation`. `syncCall` is how it asks to be caught up with when
   * not over its socket.
   */
  constructor({ name, person, notebook, verdict, rooms = [], syncCall }) {
    Object.assign(this, { name, person, notebook, verdict, rooms, syncCall });
  }

  /** Connects; `Line` is one of lines.mjs. */
  open(Line, url, token, options) {
    this.line = new Line(url, token, {
      up: (recovered) => this.#up(recovered),
      event: (event, data) => this.notebook.hear(event, data),
      down: (reason) => this.counts.ends.set(reason, (this.counts.ends.get(reason) ?? 0) + 1),
      refused: (why) => this.verdict.add('refused', `${this.name}: ${why}`),
    }, options);
  }

  /** Connected, and behind with nothing. */
  get isPresent() {
    return this.line.isUp && this.notebook.isCaughtUp && this.#unentered.size === 0;
  }

  get reconnects() {
    return Math.max(0, this.counts.connects - 1);
  }

  /** Tells that it has read all it has of a conversation. Not vital: what fails is not repeated. */
  async markAsRead(conversationId) {
    const upToSeq = this.notebook.lastSeq(conversationId);
    if (upToSeq > 0) await this.line.ask('markAsRead', { conversationId, upToSeq }, ANSWER_MS).catch(() => {});
  }

  close() {
    this.#closed = true;
    this.#turn++;
    this.line?.close();
  }

  #up(recovered) {
    this.counts.connects++;
    if (recovered) {
      this.counts.recoveries++;
      this.notebook.wasDistracted();
    } else {
      this.notebook.beginLife();
      this.#unentered = new Set(this.rooms);
    }
    const turn = ++this.#turn;
    // Also after a recovery where the catching up before it had not come to its end; else there is nothing to do.
    this.#catchUp(turn).catch((error) => this.verdict.add('refused', `${this.name}: ${error.message}`));
  }

  async #catchUp(turn) {
    const isOver = () => turn !== this.#turn || this.#closed;
    while (!isOver()) {
      if (await this.#catchUpOnce(isOver)) return;
      await pause(AGAIN_MS);
    }
  }

  /** Whether it has come to its end. What failed for a reason that passes is only to be tried again. */
  async #catchUpOnce(isOver) {
    for (const conversationId of this.#unentered) {
      if (!(await this.#ask('joinConversation', { conversationId })) || isOver()) return false;
      this.#unentered.delete(conversationId);
    }
    for (;;) {
      const asked = this.notebook.positions();
      if (asked.length === 0) return true;
      const answer = await this.#ask('sync', { conversations: asked, limit: PAGE });
      // An answer for an earlier connection says nothing of what this one hears.
      if (!answer || isOver()) return false;
      this.counts.syncs++;
      this.notebook.synced(asked, answer.conversations);
    }
  }

  /** The data of an answer, or undefined where it has to be asked again. */
  async #ask(event, data) {
    let answer;
    try {
      answer = await (event === 'sync' && this.syncCall ? this.syncCall(data) : this.line.ask(event, data, ANSWER_MS));
    } catch {
      return undefined;
    }
    if (answer.success) return answer.data;
    if (PASSING.has(answer.error.code)) return undefined;
    throw new Error(`${event} was answered ${answer.error.code}`);
  }
}
