// Realtime clients: the stock `socket.io-client`, and the plain WebSocket of `/ws`. Both keep everything they hear, so that
// a test may ask for an event that has come already. Everything is waited for with a time limit.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { io } from 'socket.io-client';
import WebSocket from 'ws';
import { within } from './processes.mjs';

/** For programs that keep thousands of sockets, and what they hear of them, in a way of their own. */
export { io, WebSocket };

const PATIENCE_MS = 10_000;

/** What a connection has heard, in order. Shared by both kinds of client. */
class Ear {
  /** Every event: `{event, data, at}`, `at` in milliseconds since 1970. */
  heard = [];
  #taken = new Set();
  #waiting = new Set();

  hear(event, data) {
    const entry = { event, data, at: Date.now() };
    this.heard.push(entry);
    for (const waiter of [...this.#waiting]) waiter();
    return entry;
  }

  /** The payload of the first event of that name that matches and was not returned yet; waits for it. */
  async next(event, matches = () => true, ms = PATIENCE_MS) {
    return (await this.nextEntry(event, matches, ms)).data;
  }

  /** The same, with the time it came. */
  async nextEntry(event, matches = () => true, ms = PATIENCE_MS) {
    let stop;
    const found = new Promise((resolve) => {
      const look = () => {
        const entry = this.heard.find((e) => e.event === event && !this.#taken.has(e) && matches(e.data));
        if (!entry) return;
        this.#taken.add(entry);
        this.#waiting.delete(look);
        resolve(entry);
      };
      stop = () => this.#waiting.delete(look);
      this.#waiting.add(look);
      look();
    });
    try {
      return await within(ms, found, () => `${event}; heard: ${this.heard.map((e) => e.event).join(', ') || 'nothing'}`);
    } finally {
      stop();
    }
  }

  /** The payloads of all events of that name so far. */
  all(event, matches = () => true) {
    return this.heard.filter((e) => e.event === event && matches(e.data)).map((e) => e.data);
  }

  /** Fails where an event of that name has come. Meaningful after something later has been heard. */
  hasNotHeard(event, matches = () => true) {
    assert.deepEqual(this.all(event, matches), [], `should not have heard ${event}`);
  }

  /** Sends an event and returns the acknowledgement's data; fails where it is an error. */
  async ask(event, data) {
    const answer = await this.request(event, data);
    assert.equal(answer?.success, true, `${event} was answered ${JSON.stringify(answer)}`);
    return answer.data;
  }

  /** Sends an event and returns the code of the error it is acknowledged with. */
  async refused(event, data) {
    const answer = await this.request(event, data);
    assert.equal(answer?.success, false, `${event} was answered ${JSON.stringify(answer)}`);
    assert.equal(typeof answer.error.message, 'string');
    return answer.error.code;
  }
}

/** A stock Socket.IO client with default options, unless a test is about an option. */
export class Client extends Ear {
  constructor(url, options) {
    super();
    // Each connection of its own, as two browsers have; everything else as `io(URL, {auth: {token}})` does it.
    this.socket = io(url, { forceNew: true, ...options });
    this.socket.onAny((event, data) => this.hear(event, data));
    this.disconnects = [];
    this.socket.on('disconnect', (reason) => this.disconnects.push({ reason, at: Date.now() }));
  }

  /** Connects, and fails where it is refused. */
  static async connect(url, options) {
    const client = new Client(url, options);
    try {
      await within(PATIENCE_MS, client.#connected(), () => `connecting to ${url}`);
    } catch (error) {
      client.close();
      throw error;
    }
    return client;
  }

  /** Connects where it should be refused: the `connect_error`. */
  static async refusal(url, options) {
    const client = new Client(url, { reconnection: false, ...options });
    try {
      return await within(
        PATIENCE_MS,
        new Promise((resolve, reject) => {
          client.socket.once('connect_error', resolve);
          client.socket.once('connect', () => reject(new Error('was let in')));
        }),
        () => 'connect_error',
      );
    } finally {
      client.close();
    }
  }

  #connected() {
    return new Promise((resolve, reject) => {
      this.socket.once('connect', resolve);
      this.socket.once('connect_error', (error) => {
        reject(new Error(`connect_error: ${error.message} ${JSON.stringify(error.data)}`, { cause: error }));
      });
    });
  }

  /** Waits until the connection has moved from long-polling to WebSocket. */
  async upgraded() {
    const { engine } = this.socket.io;
    if (engine.transport.name === 'websocket') return;
    await within(PATIENCE_MS, new Promise((resolve) => engine.once('upgrade', resolve)), () => 'upgrade to WebSocket');
  }

  /** Sends an event without asking for an acknowledgement. */
  send(event, data) {
    this.socket.emit(event, data);
  }

  /** Sends an event and returns the acknowledgement as it is. */
  request(event, data) {
    return this.socket.timeout(PATIENCE_MS).emitWithAck(event, data);
  }

  /** Waits for the end of the connection: `{reason, at}`. */
  async disconnected(ms = PATIENCE_MS) {
    if (this.disconnects.length === 0) {
      await within(ms, new Promise((resolve) => this.socket.once('disconnect', resolve)), () => 'disconnect');
    }
    return this.disconnects.at(-1);
  }

  /** Waits until the client has connected again by itself. */
  async reconnected(ms = PATIENCE_MS) {
    if (this.socket.connected) return;
    await within(ms, new Promise((resolve) => this.socket.once('connect', resolve)), () => 'connecting again');
  }

  close() {
    this.socket.disconnect();
  }
}

/** A plain WebSocket client at `/ws`. */
export class PlainClient extends Ear {
  #acks = new Map();
  #lastId = 0;

  constructor(url, { token, headers = {}, query = '' } = {}) {
    super();
    if (token) headers = { ...headers, Authorization: `Bearer ${token}` };
    this.ws = new WebSocket(`${url.replace('http', 'ws')}/ws${query}`, { headers });
    this.closed = once(this.ws, 'close').then(([code]) => ({ code, at: Date.now() }));
    this.closed.catch(() => {});
    this.ws.on('error', () => {});
    this.ws.on('message', (bytes, isBinary) => this.#frame(bytes, isBinary));
  }

  /** Opens, and fails where the handshake is refused. */
  static async connect(url, options) {
    const client = new PlainClient(url, options);
    await within(PATIENCE_MS, once(client.ws, 'open'), () => `opening ${url}/ws`);
    return client;
  }

  /** Opens where the handshake should be refused: the HTTP answer, `{status, headers, body}`. */
  static async refusal(url, options) {
    const client = new PlainClient(url, options);
    const answered = new Promise((resolve, reject) => {
      client.ws.once('unexpected-response', (_request, response) => resolve(response));
      client.ws.once('open', () => reject(new Error('was let in')));
    });
    try {
      const response = await within(PATIENCE_MS, answered, () => 'an HTTP answer');
      let body = '';
      for await (const chunk of response) body += chunk;
      return { status: response.statusCode, headers: response.headers, body };
    } finally {
      client.close();
    }
  }

  #frame(bytes, isBinary) {
    assert.equal(isBinary, false, 'plain frames are text');
    const frame = JSON.parse(bytes.toString());
    if ('ack' in frame) {
      this.#acks.get(frame.ack)?.(frame.data);
      this.#acks.delete(frame.ack);
    } else {
      this.hear(frame.event, frame.data);
    }
  }

  /** Sends an event without asking for an acknowledgement. */
  send(event, data) {
    this.ws.send(JSON.stringify({ event, data }));
  }

  /** Sends an event and returns the acknowledgement as it is. */
  request(event, data) {
    const id = ++this.#lastId;
    const answered = new Promise((resolve) => this.#acks.set(id, resolve));
    this.ws.send(JSON.stringify({ event, data, id }));
    return within(PATIENCE_MS, answered, () => `the acknowledgement of ${event}`);
  }

  /** Waits for the close: `{code, at}`. */
  whenClosed(ms = PATIENCE_MS) {
    return within(ms, this.closed, () => 'close');
  }

  close() {
    this.ws.terminate();
  }
}
