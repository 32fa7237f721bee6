// The servers beside the gateway: a MariaDB database of one's own, a Redis, HAProxy, and a cable that can be cut.

import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import axios from 'axios';
import mysql from 'mysql2/promise';
import { accepts, eventually, freePort, Program, temporaryFolder } from './processes.mjs';

const HAPROXY_CONFIG = fileURLToPath(new URL('../../../loadbalancer/haproxy.cfg', import.meta.url));

/** A new database on a server, by default that of TEST_MYSQL_URL, dropped by `close`. */
export class Database {
  static async create(server = process.env.TEST_MYSQL_URL) {
    if (!server) throw new Error('TEST_MYSQL_URL is not set: run `make test`, or this file by `scripts/with-servers`');
    const name = `e2e_${process.pid}_${Math.random().toString(36).slice(2, 10)}`;
    const admin = await mysql.createConnection(server);
    await admin.query(`CREATE DATABASE ${name} CHARACTER SET utf8mb4`);
    await admin.end();
    const url = new URL(server);
    url.pathname = `/${name}`;
    const database = new Database();
    database.name = name;
    database.url = url.href;
    database.connect();
    return database;
  }

  connect() {
    this.pool = mysql.createPool({ uri: this.url, timezone: 'Z', connectionLimit: 2, multipleStatements: true });
  }

  /** Leaves nobody of the test's own connected; the next query connects anew. */
  async disconnect() {
    await this.pool.end();
    this.connect();
  }

  /** The rows of a query, or what a statement did. */
  async query(sql, values) {
    const [rows] = await this.pool.query(sql, values);
    return rows;
  }

  /** The URL of the same database through another port. */
  urlThrough(port) {
    const url = new URL(this.url);
    url.port = String(port);
    return url.href;
  }

  get port() {
    return Number(new URL(this.url).port);
  }

  async close() {
    await this.pool.query(`DROP DATABASE IF EXISTS ${this.name}`);
    await this.pool.end();
  }
}

/** A Redis of one's own, which a test may stop and start. */
export async function startRedis(port) {
  port ??= await freePort();
  const redis = new Program('redis-server', [
    ...['--bind', '127.0.0.1', '--port', String(port)],
    ...['--dir', temporaryFolder(), '--save', '', '--appendonly', 'no'],
  ]);
  await whenListening(redis, port);
  redis.port = port;
  redis.url = `redis://127.0.0.1:${port}/`;
  return redis;
}

/**
 * Debian's HAProxy with the project's configuration in front of two nodes; `env` is what else it finds in its environment.
 * For further nodes it gets a copy in which they follow the second wherever that stands, as an operator adds a node; with
 * `standby` one in which the second gets nothing while the first is there.
 */
export async function startHaproxy(ports, env = {}, { standby = false } = {}) {
  const [port, metricsPort] = [await freePort(), await freePort()];
  const names = ports.map((_, i) => String.fromCharCode(97 + i));
  const nodes = names.map((name, i) => [`NODE_${name.toUpperCase()}`, `127.0.0.1:${ports[i]}`]);
  const haproxy = new Program('haproxy', ['-db', '-f', configFor(names.slice(2), standby)], {
    env: { ...env, BIND: `127.0.0.1:${port}`, METRICS_BIND: `127.0.0.1:${metricsPort}`, ...Object.fromEntries(nodes) },
  });
  await whenListening(haproxy, port);
  haproxy.port = port;
  haproxy.metricsPort = metricsPort;
  haproxy.url = `http://127.0.0.1:${port}`;
  return haproxy;
}

/**
 * Loopback addresses that this HAProxy leads to its first and to its second node: it goes by the client's address. Its
 * cookie tells which node it was.
 */
export async function findSources(haproxy) {
  const sources = [];
  for (let last = 1; !(sources[0] && sources[1]); last++) {
    if (last > 50) throw new Error('fifty addresses lead to one node');
    const address = `127.0.0.${last}`;
    const answer = await axios.get(`${haproxy.url}/healthz`, { httpAgent: agentFrom(address), proxy: false });
    const [cookie] = answer.headers['set-cookie'];
    sources['ab'.indexOf(/^GATEWAY=([ab]);/.exec(cookie)[1])] ??= address;
  }
  return sources;
}

/** Makes connections from these local addresses in turn; a connection is for one request. */
export function agentFrom(...addresses) {
  let turn = 0;
  const agent = new http.Agent();
  agent.createConnection = (options, done) =>
    net.createConnection({ ...options, localAddress: addresses[turn++ % addresses.length] }, done);
  return agent;
}

/** A cable to a local port, at first plugged in or not: nobody listens at its near end while it is out. */
export class Cable {
  constructor(farPort, port) {
    this.farPort = farPort;
    this.port = port;
    this.connections = new Set();
  }

  static async to(farPort) {
    return new Cable(farPort, await freePort());
  }

  async plugIn() {
    this.server = net.createServer((near) => {
      const far = net.connect(this.farPort, '127.0.0.1');
      for (const [one, other] of [[near, far], [far, near]]) {
        this.connections.add(one);
        one.on('error', () => other.destroy());
        one.on('close', () => {
          this.connections.delete(one);
          other.destroy();
        });
        one.pipe(other);
      }
    });
    this.server.listen(this.port, '127.0.0.1');
    await once(this.server, 'listening');
  }

  async pullOut() {
    if (!this.server) return;
    const closed = once(this.server, 'close');
    this.server.close();
    for (const connection of this.connections) connection.destroy();
    await closed;
    this.server = undefined;
  }
}

function configFor(furtherNodes, standby) {
  if (furtherNodes.length === 0 && !standby) return HAPROXY_CONFIG;
  const likeSecond = (line, name) => line.replaceAll(/\bb\b/g, name).replaceAll('NODE_B', `NODE_${name.toUpperCase()}`);
  const config = readFileSync(HAPROXY_CONFIG, 'utf8');
  const copy = path.join(temporaryFolder(), 'haproxy.cfg');
  const extended = config.replaceAll(/^ *server b .*$/gm, (line) =>
    [line, ...furtherNodes.map((name) => likeSecond(line, name))].join('\n') + (standby ? ' backup' : ''),
  );
  if (extended === config) throw new Error('haproxy.cfg has no server b to follow');
  writeFileSync(copy, extended);
  return copy;
}

/** Waits until somebody listens there; fails when the program has ended. */
export async function whenListening(program, port) {
  await eventually(`${program.name} listens`, async () => {
    program.mustRun();
    return accepts(port);
  });
}
