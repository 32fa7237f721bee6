// The two ways the gateway runs in these tests: `single`, one node on its embedded database with nothing installed, and
// `cluster`, two nodes over MariaDB and Redis behind HAProxy. A suite that is true of both is written once, with
// `onBothSetups`.

import { after, before, describe, test } from 'node:test';
import { createAdmin, Gateway } from './gateway.mjs';
import { logIn, registerClient } from './people.mjs';
import { temporaryFolder } from './processes.mjs';
import { assertDiscreet, secret, unique } from './secrets.mjs';
import { agentFrom, Database, findSources, startHaproxy, startRedis } from './servers.mjs';

/** How long a test may take that does not say otherwise. */
export const TEST_LIMIT = { timeout: 60_000 };

class Setup {
  /** Every node that runs, or ran. */
  nodes = [];
  #connections = new Set();

  constructor(env = {}) {
    this.env = env;
  }

  /** Where the sockets of the `node`th node are; tests count on, whatever number of nodes there is. */
  socketUrl(node) {
    return this.nodes[node % this.nodes.length].url;
  }

  /** An agency account, logged in. */
  async admin(firstName = 'Ada', lastName = 'Agent') {
    const email = `agent-${unique()}@example.com`;
    const password = secret(`agent-pass-${unique()}`);
    await createAdmin(this.storeEnv, email, password, '--first-name', firstName, '--last-name', lastName);
    return logIn(this, email, password);
  }

  /** A client's account, logged in. */
  client(fields) {
    return registerClient(this, fields);
  }

  /** Closes a connection with the set-up, if the test has not. */
  async keep(connecting) {
    const connection = await connecting;
    this.#connections.add(connection);
    return connection;
  }

  /** Closes every connection opened so far. */
  closeConnections() {
    for (const connection of this.#connections) connection.close();
    this.#connections.clear();
  }

  get logs() {
    return this.nodes.map((node) => node.logs).join('\n');
  }
}

/** One node, embedded database, no Redis. */
export class Single extends Setup {
  name = 'single';

  async start() {
    this.storeEnv = { DATABASE_URL: `sqlite://${temporaryFolder()}/chat.db`, ...this.env };
    this.nodes = [await Gateway.start(this.storeEnv)];
    this.url = this.nodes[0].url;
  }

  async stop() {
    this.closeConnections();
    for (const node of this.nodes) await node.stop();
  }
}

/** Two nodes, MariaDB, Redis, HAProxy in front as it is shipped. */
export class Cluster extends Setup {
  name = 'cluster';
  #sources;

  /** Makes connections that the balancer leads to the `node`th node, cookie or not. */
  agentTo(node) {
    return agentFrom(this.#sources[node]);
  }

  async start() {
    this.database = await Database.create();
    this.redis = await startRedis();
    this.storeEnv = {
      DATABASE_URL: this.database.url,
      REDIS_URL: this.redis.url,
      TRUSTED_PROXIES: '127.0.0.1/32',
      ...this.env,
    };
    // Both at once: migrating together has to work.
    const starting = await Promise.allSettled((await this.nodeEnvs()).map((env) => Gateway.start(env)));
    this.nodes = starting.filter((s) => s.status === 'fulfilled').map((s) => s.value);
    for (const { status, reason } of starting) if (status === 'rejected') throw reason;
    this.haproxy = await startHaproxy(this.nodes.map((node) => node.port));
    this.url = this.haproxy.url;
    this.#sources = await findSources(this.haproxy);
    // People's REST calls go through the balancer, each request to the next node.
    this.httpAgent = agentFrom(...this.#sources);
  }

  /** What each node is started with. */
  async nodeEnvs() {
    return [this.storeEnv, this.storeEnv];
  }

  async stop() {
    this.closeConnections();
    await this.haproxy?.stop();
    await Promise.all(this.nodes.map((node) => node.stop()));
    await this.redis?.stop();
    await this.database?.close();
  }
}

/**
 * Defines the same tests for both set-ups. `define(setup, test)` gets a set-up that is running when its tests are, and a
 * `test` with a time limit.
 */
export function onBothSetups(define, env) {
  describeOn(Single, define, env);
  describeOn(Cluster, define, env);
}

/** Defines tests for one set-up. At their end no log may show what was said in confidence. */
export function describeOn(Kind, define, env) {
  const setup = new Kind(env);
  describe(setup.name, () => {
    before(() => setup.start(), { timeout: 90_000 });
    after(() => setup.stop(), { timeout: 60_000 });
    define(setup, limitedTest);
    limitedTest('the logs show nothing secret and no panic', () => assertDiscreet(setup.logs));
  });
}

/** `test` with the usual time limit. */
export function limitedTest(name, ...rest) {
  const options = rest.length > 1 ? rest[0] : {};
  return test(name, { ...TEST_LIMIT, ...options }, rest.at(-1));
}
