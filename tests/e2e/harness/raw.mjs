// A connection of bare bytes, for what no well-behaved client sends: half requests, frames that break RFC 6455, packets
// that lie about themselves.

import { once } from 'node:events';
import net from 'node:net';
import { within } from './processes.mjs';

const PATIENCE_MS = 10_000;

export class RawConnection {
  constructor(url) {
    const { hostname, port } = new URL(url);
    this.host = `${hostname}:${port}`;
    this.received = Buffer.alloc(0);
    this.socket = net.connect(Number(port), hostname);
    this.socket.on('error', () => {});
    this.socket.on('data', (bytes) => (this.received = Buffer.concat([this.received, bytes])));
    this.closed = once(this.socket, 'close').then(() => Date.now());
  }

  static async open(url) {
    const connection = new RawConnection(url);
    await once(connection.socket, 'connect');
    return connection;
  }

  /** A connection whose WebSocket handshake on `path` has been answered. */
  static async webSocket(url, path, headers = {}) {
    const connection = await RawConnection.open(url);
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    connection.write(
      `GET ${path} HTTP/1.1\r\nHost: ${connection.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
        `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${lines.join('')}\r\n`,
    );
    await connection.until((received) => received.includes('\r\n\r\n'));
    const head = connection.received.toString('latin1');
    if (!head.startsWith('HTTP/1.1 101')) throw new Error(`no WebSocket: ${head}`);
    connection.received = connection.received.subarray(connection.received.indexOf('\r\n\r\n') + 4);
    return connection;
  }

  write(bytes) {
    this.socket.write(bytes);
  }

  /** Sends a text frame as a client does. */
  sendText(text) {
    this.write(frame(0x81, Buffer.from(text)));
  }

  /** Waits until what was received satisfies `enough`. */
  async until(enough, ms = PATIENCE_MS) {
    let look;
    const satisfied = new Promise((resolve) => {
      look = () => enough(this.received) && resolve();
      this.socket.on('data', look);
      this.socket.on('close', () => resolve());
      look();
    });
    try {
      await within(ms, satisfied, () => `an answer; received ${this.received.toString('latin1').slice(0, 500)}`);
    } finally {
      this.socket.off('data', look);
    }
    if (!enough(this.received)) throw new Error(`closed after ${this.received.toString('latin1').slice(0, 500)}`);
  }

  /** Waits until the other end has closed; the time it did. */
  whenClosed(ms = PATIENCE_MS) {
    return within(ms, this.closed, () => `close; received ${this.received.toString('latin1').slice(0, 300)}`);
  }

  /** The code of the close frame among what was received: 1005 where it bears none, undefined where there is none. */
  get closeCode() {
    let rest = this.received;
    while (rest.length >= 2) {
      let [length, head] = [rest[1] & 0x7f, 2];
      if (length === 126) [length, head] = [rest.readUInt16BE(2), 4];
      if (length === 127) [length, head] = [Number(rest.readBigUInt64BE(2)), 10];
      if (rest[0] === 0x88) return length >= 2 ? rest.readUInt16BE(head) : 1005;
      rest = rest.subarray(head + length);
    }
    return undefined;
  }

  /** Waits until the other end has closed the WebSocket or the connection, whichever it does first; the time it did. */
  async whenClosing(ms = PATIENCE_MS) {
    const closeFrame = this.until(() => this.closeCode !== undefined, ms).catch(() => this.whenClosed(ms));
    await Promise.race([this.whenClosed(ms), closeFrame]);
    return Date.now();
  }

  close() {
    this.socket.destroy();
  }
}

/** A masked WebSocket frame with that first byte; `announced` is the length it claims. */
export function frame(firstByte, payload, announced = payload.length) {
  const mask = Buffer.from([1, 2, 3, 4]);
  const masked = Buffer.from(payload.map((byte, i) => byte ^ mask[i % 4]));
  let head;
  if (announced < 126) {
    head = Buffer.from([firstByte, 0x80 | announced]);
  } else if (announced < 65_536) {
    head = Buffer.from([firstByte, 0x80 | 126, announced >> 8, announced & 0xff]);
  } else {
    head = Buffer.alloc(10);
    head[0] = firstByte;
    head[1] = 0x80 | 127;
    head.writeBigUInt64BE(BigInt(announced), 2);
  }
  return Buffer.concat([head, mask, masked]);
}
