// MariaDB and Redis as a chaos test needs them: killed, frozen and started again on the same port. MariaDB keeps its data
// over that, as a production database does; Redis comes back with nothing.

import os from 'node:os';
import path from 'node:path';
import { freePort, Program, temporaryFolder } from '../e2e/harness/processes.mjs';
import { startRedis, whenListening } from '../e2e/harness/servers.mjs';

/** A server of one port that can be mistreated. Subclasses say how it starts. */
class Victim {
  /** What every run of it has written. */
  logs = '';

  /** Starts it, and waits until it takes connections. */
  async start() {
    this.program = await this.launch();
    // Died by itself: nothing of what the test would find then is about the gateway.
    const { program } = this;
    program.ended.then(() => {
      this.logs += program.output;
      if (program !== this.killed) this.diedByItself = `${program.name} ended by itself:\n${program.tail()}`;
    });
  }

  /** Ends it without goodbye. */
  async kill() {
    this.killed = this.program;
    await this.program.stop('SIGKILL');
  }

  /** Stops it from doing anything, its connections open; the kernel goes on taking bytes for it. */
  freeze() {
    this.program.child.kill('SIGSTOP');
  }

  thaw() {
    this.program.child.kill('SIGCONT');
  }

  /** Runs, and answers. */
  async heal() {
    if (this.program.end) await this.start();
    else this.thaw();
  }

  async stop() {
    if (!this.program || this.program.end) return;
    this.killed = this.program;
    this.thaw();
    await this.program.stop();
  }
}

/** A Redis without a file: whoever starts it again finds it empty. */
export class Redis extends Victim {
  async launch() {
    this.port ??= await freePort();
    return startRedis(this.port);
  }

  /** Empties it while it runs. */
  async flush() {
    const { code } = await new Program('redis-cli', ['-p', String(this.port), 'FLUSHALL']).waitForEnd();
    if (code !== 0) throw new Error(`redis-cli ended with ${code}`);
  }
}

/** A MariaDB whose commits outlive it. */
export class Mariadb extends Victim {
  #folder = temporaryFolder();

  async launch() {
    const data = path.join(this.#folder, 'data');
    // A MariaDB that starts clears the folder for temporary files of what the one before has left there. In one that is
    // shared it would take from others what they use.
    const env = { TMPDIR: this.#folder };
    if (!this.port) {
      this.port = await freePort();
      await this.#install(data, env);
    }
    const server = new Program('mariadbd', [
      // The machine's own configuration must not leak in; utf8mb4 is what it would have said.
      ...['--no-defaults', `--datadir=${data}`, `--user=${os.userInfo().username}`, '--character-set-server=utf8mb4'],
      ...['--bind-address=127.0.0.1', `--port=${this.port}`, `--socket=${this.#folder}/socket`, '--max-connections=1000'],
      // What is committed is on disk: the default, but everything here rests on it.
      '--innodb-flush-log-at-trx-commit=1',
    ], { env });
    await whenListening(server, this.port);
    return server;
  }

  get url() {
    return `mysql://root@127.0.0.1:${this.port}/`;
  }

  async #install(data, env) {
    const installing = new Program('mariadb-install-db', [
      ...['--no-defaults', `--datadir=${data}`, `--user=${os.userInfo().username}`, '--skip-test-db'],
      '--auth-root-authentication-method=normal',
    ], { env });
    const { code } = await installing.waitForEnd(60_000);
    if (code !== 0) throw new Error(`mariadb-install-db ended with ${code}:\n${installing.tail()}`);
  }
}
