// The program under test: one running node, and its other commands.

import { fileURLToPath } from 'node:url';
import axios from 'axios';
import { eventually, freePort, Program, temporaryFolder } from './processes.mjs';

export const BINARY =
  process.env.GATEWAY_BIN ?? fileURLToPath(new URL('../../../target/debug/gateway', import.meta.url));

/** The secret of every node here: known, so that a test can write tokens of its own. */
export const JWT_SECRET = 'a-secret-that-only-these-tests-know-0123456789';

/** What every node of a test gets unless the test is about one of these. */
export const BASE_ENV = {
  APP_ENV: 'production',
  HOST: '127.0.0.1',
  JWT_SECRET,
  // `info` is the default; logs are searched for what must not be in them.
  RUST_LOG: 'info',
  // Tests come faster than people; the limits have a suite of their own.
  RATE_LIMIT_LOGINS_PER_MINUTE: '0',
  RATE_LIMIT_REQUESTS_PER_SECOND: '0',
  RATE_LIMIT_EVENTS_PER_SECOND: '0',
  // A node that is stopped at a test's end has nobody to be gentle with.
  DRAIN_SECONDS: '1',
};

/** A node that serves. */
export class Gateway {
  /** Starts a node and waits until it is ready; with `ready: false` only until it lives. */
  static async start(env, { ready = true, ...options } = {}) {
    const node = await Gateway.launch(env, options);
    try {
      await (ready ? node.whenReady() : node.whenAlive());
    } catch (error) {
      await node.stop('SIGKILL');
      throw error;
    }
    return node;
  }

  /** Starts a node and waits for nothing. */
  static async launch(env, { args = ['serve'], bare = false, cwd = temporaryFolder() } = {}) {
    const node = new Gateway();
    node.port = Number(env.PORT ?? (await freePort()));
    node.metricsPort = await freePort();
    node.cwd = cwd;
    node.env = {
      ...(bare ? { HOST: '127.0.0.1' } : BASE_ENV),
      PORT: String(node.port),
      METRICS_ADDR: `127.0.0.1:${node.metricsPort}`,
      ...env,
    };
    node.url = `http://127.0.0.1:${node.port}`;
    node.program = new Program(BINARY, args, { env: node.env, cwd: node.cwd });
    return node;
  }

  get logs() {
    return this.program.output;
  }

  /** The status of a path of the node itself, or undefined where nobody answers. */
  async probe(path) {
    try {
      const answer = await axios.get(this.url + path, { validateStatus: () => true, timeout: 5000, proxy: false });
      return answer.status;
    } catch {
      return undefined;
    }
  }

  async whenReady(withinMs = 30_000) {
    await this.#whenAnswering('/readyz', withinMs);
  }

  async whenAlive(withinMs = 30_000) {
    await this.#whenAnswering('/healthz', withinMs);
  }

  async #whenAnswering(path, withinMs) {
    await eventually(
      () => `${path} of the node is 200; its log ends:\n${this.program.tail()}`,
      async () => {
        this.program.mustRun();
        return (await this.probe(path)) === 200;
      },
      withinMs,
    );
  }

  /** The node's metrics as lines. */
  async metrics() {
    const { data } = await axios.get(`http://127.0.0.1:${this.metricsPort}/metrics`, { proxy: false });
    return data.split('\n');
  }

  /** The sum of a metric's series whose labels include all of `labels`; 0 where there are none. */
  async metric(name, labels = {}) {
    let sum = 0;
    for (const line of await this.metrics()) {
      const found = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line);
      if (found?.[1] !== name) continue;
      const wanted = Object.entries(labels).every(([key, value]) => found[2]?.includes(`${key}="${value}"`));
      if (wanted) sum += Number(found[3]);
    }
    return sum;
  }

  stop(signal = 'SIGTERM', withinMs = 20_000) {
    return this.program.stop(signal, withinMs);
  }
}

/** Runs `gateway ARGS` to its end: `{code, output}`. */
export async function runGateway(args, env, { input = '', bare = false, withinMs = 20_000, cwd } = {}) {
  const program = new Program(BINARY, args, {
    env: { ...(bare ? {} : BASE_ENV), ...env },
    cwd: cwd ?? temporaryFolder(),
  });
  program.child.stdin.end(input);
  const { code } = await program.waitForEnd(withinMs);
  return { code, output: program.output };
}

/** Makes an agency account as an operator does. */
export async function createAdmin(env, email, password, ...names) {
  const args = ['create-admin', '--email', email, '--password-stdin', ...names];
  const { code, output } = await runGateway(args, env, { input: `${password}\n` });
  if (code !== 0) throw new Error(`gateway create-admin ended with ${code}:\n${output}`);
}
