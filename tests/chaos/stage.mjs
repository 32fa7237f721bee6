// Where it plays: MariaDB, Redis, three nodes, HAProxy, and a link between each two that talk. It can do each of them harm,
// and knows when a node ended that nobody ended.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Gateway } from '../e2e/harness/gateway.mjs';
import { eventually, freePort } from '../e2e/harness/processes.mjs';
import { Database, startHaproxy } from '../e2e/harness/servers.mjs';
import { Link } from './proxy.mjs';
import { DRAIN_SECONDS, nodeName } from './schedule.mjs';
import { Mariadb, Redis } from './servers.mjs';

const NODES = 3;

/** What the nodes are told beyond what every test tells them. */
const ENV = {
  TRUSTED_PROXIES: '127.0.0.0/8',
  DRAIN_SECONDS: String(DRAIN_SECONDS),
  // A link that is silent is found by the heartbeat. The default of 45 s would be most of a short run.
  PING_INTERVAL_MS: '5000',
  PING_TIMEOUT_MS: '5000',
  // So that a reader that stops for seconds overflows its outbox.
  OUTBOX_BYTES: '524288',
};

/** What shows that faults did hit: each a metric and its labels. */
const COUNTED = {
  'slow sockets closed': ['chat_slow_socket_closings_total'],
  'links to Redis that broke and came back': ['chat_bus_interruptions_total'],
  'gaps filled from the history of Redis': ['chat_bus_gaps_total', { filled_by: 'history' }],
  'gaps filled from the database': ['chat_bus_gaps_total', { filled_by: 'database' }],
};

/** EADDRNOTAVAIL: all ports for outgoing connections are taken, as by another program with tens of thousands. */
const NO_PORT = 'os error 99';

/** A node, over all its lives, and its links. */
class Node {
  /** Every life of it. */
  lives = [];

  constructor(index, stage) {
    this.index = index;
    this.name = `node ${nodeName(index)}`;
    this.stage = stage;
  }

  get gateway() {
    return this.lives.at(-1);
  }

  async connect({ redis, mariadb }) {
    this.port = await freePort();
    this.links = {
      redis: await Link.to(redis.port),
      db: await Link.to(mariadb.port),
      haproxy: await Link.to(this.port),
    };
  }

  /** Starts it, and waits only until its process answers: what it needs may be away. */
  async start() {
    const { links, stage } = this;
    const gateway = await Gateway.launch({
      ...stage.env,
      PORT: String(this.port),
      DATABASE_URL: stage.database.urlThrough(links.db.port),
      REDIS_URL: `redis://127.0.0.1:${links.redis.port}/`,
    });
    this.lives.push(gateway);
    gateway.program.ended.then(({ code, signal }) => {
      if (gateway.dismissed) return;
      stage.verdict.add('broken', `${this.name} ended by itself (${code ?? signal})`);
      links.haproxy.cut();
    });
    await gateway.whenAlive();
    // A link takes connections before it knows whether the far end does; HAProxy has to be refused as by a dead process.
    await links.haproxy.mend();
  }

  /** Ends it without goodbye. */
  async kill() {
    this.gateway.dismissed = true;
    await this.stage.tally(this.gateway);
    this.links.haproxy.cut();
    await this.gateway.stop('SIGKILL');
  }

  /** Ends it as an operator does; it has to end well, and in time. */
  async terminate() {
    const { gateway } = this;
    gateway.dismissed = true;
    await this.stage.tally(gateway);
    // What is in flight may wait for a frozen server before it gives up.
    const patience = (DRAIN_SECONDS + 25) * 1000;
    try {
      const { code, signal } = await gateway.stop('SIGTERM', patience);
      if (code !== 0) this.stage.verdict.add('broken', `${this.name} ended with ${code ?? signal} after SIGTERM`);
    } catch {
      this.stage.verdict.add('broken', `${this.name} had not ended ${patience / 1000} s after SIGTERM`);
    }
    this.links.haproxy.cut();
  }

  get logs() {
    return this.lives.map((gateway) => gateway.logs).join('\n');
  }
}

/** Everything that runs. */
export class Stage {
  redis = new Redis();
  mariadb = new Mariadb();
  nodes = [];
  env = ENV;
  /** What the nodes counted of what they went through, for the report. */
  counted = Object.fromEntries(Object.keys(COUNTED).map((what) => [what, 0]));

  /** How often a node found no free port to connect from: the machine's fault, not a planned one. */
  withoutPort = 0;

  constructor(verdict) {
    this.verdict = verdict;
  }

  async start() {
    await portsAreFree();
    await Promise.all([this.redis.start(), this.mariadb.start()]);
    this.database = await Database.create(this.mariadb.url);
    for (let i = 0; i < NODES; i++) {
      const node = new Node(i, this);
      await node.connect(this);
      this.nodes.push(node);
    }
    await Promise.all(this.nodes.map((node) => node.start()));
    this.haproxy = await startHaproxy(this.nodes.map((node) => node.links.haproxy.port));
    this.url = this.haproxy.url;
    await this.whenReady();
  }

  /** What a command of the program needs to reach the database. */
  get storeEnv() {
    return { ...this.env, DATABASE_URL: this.database.url };
  }

  /** Everything runs, and nothing stands between. */
  async heal() {
    await Promise.all([this.redis.heal(), this.mariadb.heal()]);
    for (const node of this.nodes) {
      for (const link of Object.values(node.links)) await link.heal();
      if (node.gateway.program.end) await node.start();
    }
    await this.whenReady();
  }

  async whenReady() {
    for (const node of this.nodes) {
      await eventually(`${node.name} is ready`, async () => (await node.gateway.probe('/readyz')) === 200, 30_000).catch((error) =>
        this.verdict.add('broken', `${error.message}; its log ends:\n${node.gateway.program.tail()}`),
      );
    }
  }

  /** Rows of the database itself, by no link. */
  async query(sql) {
    return this.database.query(sql);
  }

  /** Adds up what a node counted, before that is gone with it. */
  async tally(gateway) {
    for (const [what, [metric, labels]] of Object.entries(COUNTED)) {
      // A node that no longer answers has no more to say.
      this.counted[what] += await gateway.metric(metric, labels).catch(() => 0);
    }
  }

  /** Panics, message texts and servers that died by themselves. */
  checkLogs(marker) {
    for (const node of this.nodes) {
      for (const line of node.logs.split('\n')) {
        if (line.includes('panicked')) this.verdict.add('broken', `${node.name}: ${line}`);
        if (line.includes(NO_PORT)) this.withoutPort++;
        if (line.includes(marker)) this.verdict.add('indiscreet', `${node.name}: ${line.slice(0, 200)}`);
      }
    }
    for (const { diedByItself } of [this.redis, this.mariadb]) if (diedByItself) throw new Error(diedByItself);
  }

  /** Writes every log there is into a folder. */
  keepLogs(folder) {
    mkdirSync(folder, { recursive: true });
    for (const node of this.nodes) {
      node.lives.forEach((gateway, life) => writeFileSync(path.join(folder, `${node.name.replace(' ', '-')}.${life}.log`), gateway.logs));
    }
    for (const [name, server] of Object.entries({ redis: this.redis, mariadb: this.mariadb })) {
      writeFileSync(path.join(folder, `${name}.log`), server.logs + (server.program?.output ?? ''));
    }
    writeFileSync(path.join(folder, 'haproxy.log'), this.haproxy?.output ?? '');
  }

  async stop() {
    await this.haproxy?.stop('SIGKILL');
    for (const node of this.nodes) {
      if (node.gateway) node.gateway.dismissed = true;
      await node.gateway?.stop('SIGKILL');
      for (const link of Object.values(node.links)) link.cut();
    }
    await this.database?.pool.end().catch(() => {});
    await Promise.all([this.redis.stop(), this.mariadb.stop()]);
  }
}

/**
 * A test before this one may have left tens of thousands of closed connections, whose ports Linux keeps for a minute. Without
 * ports nobody reaches anybody, and no fault of the plan would be the cause.
 */
async function portsAreFree() {
  const kept = () => Number(/^TCP: .*\btw (\d+)/m.exec(readFileSync('/proc/net/sockstat', 'utf8'))[1]);
  await eventually(`fewer than ${KEPT_PORTS} ports are kept for closed connections`, () => kept() < KEPT_PORTS, 120_000);
}

/** Of some 28,000 that there are for outgoing connections. */
const KEPT_PORTS = 14_000;
