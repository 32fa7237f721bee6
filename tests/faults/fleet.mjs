// What runs in these programs: nodes over one MariaDB database and a Redis, behind HAProxy where that is wanted, and people
// by the thousand. The harness of the end-to-end tests does the starting.

import { Gateway } from '../e2e/harness/gateway.mjs';
import { Database, startHaproxy, startRedis } from '../e2e/harness/servers.mjs';

export class Fleet {
  nodes = [];
  haproxies = [];

  /**
   * Starts `nodes` nodes, and as many balancers in front of them all; with `standby` the second node gets nothing while the first
   * is there. A node that died is not started again.
   */
  static async start({ nodes = 1, balancers = 0, standby = false, env = {} } = {}) {
    const fleet = new Fleet();
    try {
      fleet.database = await Database.create();
      fleet.redis = await startRedis();
      fleet.env = { DATABASE_URL: fleet.database.url, REDIS_URL: fleet.redis.url, TRUSTED_PROXIES: '127.0.0.0/8', ...env };
      for (let i = 0; i < nodes; i++) fleet.nodes.push(await Gateway.start(fleet.env));
      const ports = fleet.nodes.map((node) => node.port);
      for (let i = 0; i < balancers; i++) fleet.haproxies.push(await startHaproxy(ports, {}, { standby }));
    } catch (error) {
      await fleet.stop();
      throw error;
    }
    return fleet;
  }

  /** The logs of all nodes that are in `nodes`. */
  get logs() {
    return this.nodes.map((node) => node.logs).join('\n');
  }

  async stop() {
    await Promise.all(this.haproxies.map((haproxy) => haproxy.stop()));
    await Promise.all(this.nodes.map((node) => node.stop()));
    await this.redis?.stop();
    await this.database?.close();
  }

  /**
   * Makes people by SQL, as hashing ten thousand passwords would take minutes: `agents`, and `clients` with a conversation
   * each, spread over the agents in turn. Nobody can log in; tokens are written by hand. For a fresh database.
   *
   * Returns `{agents, clients}` of `{id, email, role}`; a client also has its `conversationId` and `agentId`.
   */
  async populate({ agents, clients }) {
    const staff = Array.from({ length: agents }, (_, i) => ({ id: i + 1, email: `agent${i}@example.com`, role: 'admin' }));
    const crowd = Array.from({ length: clients }, (_, i) => ({
      ...{ id: agents + i + 1, email: `client${i}@example.com`, role: 'user' },
      ...{ conversationId: i + 1, agentId: staff[i % agents].id },
    }));
    const people = [...staff, ...crowd];
    await this.#insert('Users (id, email, password, role, firstName)', people.map((p) => [p.id, p.email, '!', p.role, 'P']));
    const rows = crowd.map((c) => [c.conversationId, 'P', c.email, 'Unknown', c.id]);
    await this.#insert('Clients (id, name, email, country, userId)', rows);
    const talks = crowd.map((c) => [c.conversationId, c.conversationId, c.agentId]);
    await this.#insert('Conversations (id, clientId, agencyId)', talks);
    return { agents: staff, clients: crowd };
  }

  async #insert(into, rows) {
    for (let at = 0; at < rows.length; at += 1000) {
      await this.database.query(`INSERT INTO ${into} VALUES ?`, [rows.slice(at, at + 1000)]);
    }
  }
}
