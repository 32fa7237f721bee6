// A link: a TCP proxy that can be cut, reset, delayed and made silent while it is in use. It knows nothing of what flows
// through it.

import { once } from 'node:events';
import net from 'node:net';
import { freePort } from '../e2e/harness/processes.mjs';

/** What a lane holds back before it reads no further: the rest then waits with the sender, as on a real wire. */
const LANE_BYTES = 256 * 1024;

/** A port that leads to another one. */
export class Link {
  #lanes = new Set();
  #connections = new Set();
  #server;
  #held = new Set();
  #delayMs = 0;

  constructor(farPort, port) {
    this.farPort = farPort;
    this.port = port;
  }

  static async to(farPort) {
    const link = new Link(farPort, await freePort());
    await link.mend();
    return link;
  }

  /** Takes connections again. */
  async mend() {
    if (this.#server) return;
    this.#server = net.createServer({ allowHalfOpen: true, noDelay: true }, (near) => this.#join(near));
    this.#server.listen(this.port, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  /** Ends every connection and refuses new ones, until `mend`. */
  cut() {
    this.#server?.close();
    this.#server = undefined;
    this.#endAll((connection) => connection.destroy());
  }

  /** Ends every connection with an RST. New ones are taken. */
  reset() {
    this.#endAll((connection) => connection.resetAndDestroy());
  }

  /** From now on everything arrives so much later, in order. */
  delay(ms) {
    this.#delayMs = ms;
  }

  /**
   * Nothing arrives any more, though nobody sees a connection end: as behind a switch that lost its way. `out` is towards
   * the far end. What is sent meanwhile arrives after `release`, as TCP repeats it.
   */
  hold(...directions) {
    for (const direction of directions) this.#held.add(direction);
  }

  release() {
    this.#held.clear();
    for (const lane of this.#lanes) lane.flow();
  }

  /** Bytes that have come and not gone on. */
  get waiting() {
    let bytes = 0;
    for (const lane of this.#lanes) bytes += lane.waiting;
    return bytes;
  }

  /** As new: nothing cut, held or late. */
  async heal() {
    this.delay(0);
    this.release();
    await this.mend();
  }

  #join(near) {
    const far = net.connect({ port: this.farPort, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
    const lanes = [this.#lane(near, far, 'out'), this.#lane(far, near, 'in')];
    let ended = false;
    const end = (how) => {
      if (ended) return;
      ended = true;
      for (const lane of lanes) {
        lane.stop();
        this.#lanes.delete(lane);
      }
      for (const socket of [near, far]) this.#connections.delete(socket);
      // A reset at one end is a reset at the other.
      for (const socket of [near, far]) how === 'reset' ? socket.resetAndDestroy() : socket.destroy();
    };
    for (const socket of [near, far]) {
      this.#connections.add(socket);
      socket.on('error', () => end('reset'));
      socket.on('close', () => end());
    }
  }

  #lane(from, to, direction) {
    const lane = new Lane(from, to, {
      delayMs: () => this.#delayMs,
      isHeld: () => this.#held.has(direction),
    });
    this.#lanes.add(lane);
    return lane;
  }

  #endAll(how) {
    for (const connection of [...this.#connections]) how(connection);
  }
}

/** One direction of one connection: what has come and not gone on, in order. */
class Lane {
  /** Bytes that wait here. */
  waiting = 0;
  #queue = [];
  #timer;
  #stopped = false;

  constructor(from, to, link) {
    this.from = from;
    this.to = to;
    this.link = link;
    from.on('data', (bytes) => {
      this.waiting += bytes.length;
      if (this.waiting > LANE_BYTES) from.pause();
      this.#add(bytes);
    });
    from.on('end', () => this.#add(undefined));
    to.on('drain', () => this.flow());
  }

  /** Lets go on whatever may. */
  flow() {
    if (this.#stopped || this.#timer || this.link.isHeld() || this.to.writableNeedDrain) return;
    while (this.#queue.length > 0) {
      const { bytes, due } = this.#queue[0];
      const early = due - performance.now();
      if (early > 0) {
        this.#timer = setTimeout(() => {
          this.#timer = undefined;
          this.flow();
        }, early);
        return;
      }
      this.#queue.shift();
      if (bytes === undefined) return void this.to.end();
      this.waiting -= bytes.length;
      if (!this.to.write(bytes)) return;
    }
    this.from.resume();
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#queue = [];
  }

  #add(bytes) {
    this.#queue.push({ bytes, due: performance.now() + this.link.delayMs() });
    this.flow();
  }
}
