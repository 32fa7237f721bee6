// A link to a local port that can swallow what is sent to the server, as a network does that loses it: the near end notices nothing but
// that answers stay out. For a link that is cut as a whole there is `Cable` in servers.mjs.

import { once } from 'node:events';
import net from 'node:net';
import { freePort } from './processes.mjs';

export class Proxy {
  #links = new Set();
  #swallows = false;
  /** How many bytes were swallowed since `swallow`. */
  swallowedBytes = 0;

  constructor(farPort, port) {
    this.farPort = farPort;
    this.port = port;
  }

  static async to(farPort) {
    const proxy = new Proxy(farPort, await freePort());
    proxy.server = net.createServer((near) => proxy.#link(near));
    proxy.server.listen(proxy.port, '127.0.0.1');
    await once(proxy.server, 'listening');
    return proxy;
  }

  #link(near) {
    const link = { near, far: net.connect(this.farPort, '127.0.0.1') };
    this.#links.add(link);
    near.setNoDelay();
    link.far.setNoDelay();
    near.on('data', (bytes) => {
      if (this.#swallows) this.swallowedBytes += bytes.length;
      else link.far.write(bytes);
    });
    link.far.pipe(near);
    for (const [one, other] of [[near, link.far], [link.far, near]]) {
      one.on('error', () => other.destroy());
      one.on('close', () => {
        this.#links.delete(link);
        other.destroy();
      });
    }
  }

  /** From now on nothing that is sent through it arrives. Answers and pushes to the near end still do. */
  swallow() {
    this.#swallows = true;
    this.swallowedBytes = 0;
  }

  /** Ends all connections, and lets new ones through. */
  drop() {
    for (const { near, far } of this.#links) {
      near.destroy();
      far.destroy();
    }
    this.#links.clear();
    this.#swallows = false;
  }

  async close() {
    const closed = once(this.server, 'close');
    this.server.close();
    this.drop();
    await closed;
  }
}
