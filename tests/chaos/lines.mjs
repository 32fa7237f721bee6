// The two kinds of connection a client of the chat has: the stock `socket.io-client`, which comes back by itself, and a
// plain WebSocket, which its program has to open again. Both tell the same story to `hooks`:
//
//   up(recovered)       connected; whether the server says that nothing was missed
//   event(name, data)   something came
//   down(reason)        the connection has ended; the line is coming back
//   refused(why)        something that no fault explains to a client
//
// An event comes after the `up` of its connection. What is asked and heard is decided elsewhere.

import { io, WebSocket } from '../e2e/harness/libraries.mjs';
import { pause, within } from '../e2e/harness/processes.mjs';

/** Codes that say: try again. Any other refusal of an honest client is a fault of the gateway. */
export const PASSING = new Set(['SERVICE_UNAVAILABLE', 'RATE_LIMITED']);

/** A stock client. `options` are those of `io`. */
export class StockLine {
  /** Counts the lives: connections that recovered nothing from the one before. */
  life = 0;
  #isUp = false;

  constructor(url, token, hooks, options = {}) {
    this.hooks = hooks;
    this.socket = io(url, { forceNew: true, auth: { token }, ...options });
    // What came with the handshake is handed out before 'connect': whichever is first tells that the line is up.
    this.socket.onAny((event, data) => {
      this.#up();
      hooks.event(event, data);
    });
    this.socket.on('connect', () => this.#up());
    this.socket.on('disconnect', (reason) => this.#down(reason));
    this.socket.on('connect_error', (error) => this.#refused(error));
  }

  get isUp() {
    return this.socket.connected;
  }

  /** Asks, and returns the answer's envelope; rejects when none came, or the connection ended before. */
  ask(event, data, ms) {
    return this.socket.timeout(ms).emitWithAck(event, data);
  }

  /** Reads nothing from the network any more; the function it returns goes on. For a line on WebSocket alone. */
  stall() {
    const { ws } = this.socket.io.engine.transport;
    ws.pause();
    return () => ws.resume();
  }

  close() {
    this.#isUp = true;
    this.socket.disconnect();
  }

  #up() {
    if (this.#isUp) return;
    this.#isUp = true;
    if (!this.socket.recovered) this.life++;
    this.hooks.up(this.socket.recovered === true);
  }

  #down(reason) {
    this.#isUp = false;
    if (reason === 'io client disconnect') return;
    this.hooks.down(reason);
    if (reason !== 'io server disconnect') return;
    // It told the client to stay away, as after a logout.
    this.hooks.refused(reason);
    this.socket.connect();
  }

  async #refused(error) {
    // Nobody there: the client tries again by itself.
    if (this.socket.active) return;
    // The gateway said no. A front end has to ask again, once it may.
    if (!PASSING.has(error.data?.code)) this.hooks.refused(`connect_error ${error.data?.code ?? error.message}`);
    await pause(1000);
    this.socket.connect();
  }
}

/** A plain WebSocket at `/ws`. `options` are those of the connection. */
export class PlainLine {
  life = 0;
  #asked = new Map();
  #lastId = 0;
  #closed = false;

  constructor(url, token, hooks, options = {}) {
    this.url = `${url.replace('http', 'ws')}/ws`;
    this.options = { ...options, headers: { Authorization: `Bearer ${token}` }, handshakeTimeout: 10_000 };
    this.hooks = hooks;
    this.#open();
  }

  get isUp() {
    return this.ws.readyState === WebSocket.OPEN;
  }

  ask(event, data, ms) {
    if (!this.isUp) return Promise.reject(new Error('not connected'));
    const id = ++this.#lastId;
    const answered = new Promise((resolve, reject) => this.#asked.set(id, { resolve, reject }));
    this.ws.send(JSON.stringify({ event, data, id }));
    return within(ms, answered, () => `the answer to ${event}`).finally(() => this.#asked.delete(id));
  }

  stall() {
    const { ws } = this;
    ws.pause();
    return () => ws.resume();
  }

  close() {
    this.#closed = true;
    this.ws.terminate();
  }

  #open() {
    const ws = (this.ws = new WebSocket(this.url, this.options));
    ws.on('open', () => {
      this.life++;
      this.hooks.up(false);
    });
    ws.on('message', (bytes) => this.#frame(JSON.parse(bytes.toString())));
    ws.on('unexpected-response', (_request, { statusCode }) => {
      // As the balancer answers for a node that is gone, and a node that takes nobody.
      if (![502, 503, 504].includes(statusCode)) this.hooks.refused(`the handshake was answered ${statusCode}`);
      ws.terminate();
    });
    ws.on('error', () => {});
    ws.on('close', (code) => this.#down(code));
    // The server's heartbeat is all there is to tell a silent connection from an idle one.
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => ws.terminate(), SILENCE_MS);
    };
    ws.on('ping', heard);
    ws.on('open', heard);
    ws.on('close', () => clearTimeout(silence));
  }

  #frame(frame) {
    if (!('ack' in frame)) return this.hooks.event(frame.event, frame.data);
    this.#asked.get(frame.ack)?.resolve(frame.data);
  }

  async #down(code) {
    for (const { reject } of this.#asked.values()) reject(new Error('the connection has ended'));
    this.#asked.clear();
    if (this.#closed) return;
    this.hooks.down(code);
    if (!COMES_BACK.has(code)) this.hooks.refused(`closed with ${code}`);
    await pause(500 + Math.random() * 1500);
    if (!this.#closed) this.#open();
  }
}

/** Without a ping for so long a plain client takes its connection for dead: twice what the nodes here need. */
const SILENCE_MS = 20_000;

/** Closes after which a client comes back: none said, the network broke, the node goes, come later. */
const COMES_BACK = new Set([1000, 1001, 1005, 1006, 1012, 1013]);
