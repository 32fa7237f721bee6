// Programs that a test starts: on ports of their own, with files in a folder of their own, their output kept, and ended
// with the test whatever happens. What a program is for belongs in the file that starts it.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';

const running = new Set();
const folders = new Set();

// A test process that is ended by the runner must not leave anything behind.
process.on('exit', () => {
  for (const child of running) signalTo(child, 'SIGKILL');
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));

/** A new empty folder, gone when this process ends. */
export function temporaryFolder() {
  const folder = mkdtempSync(path.join(temporaryRoot(), 'e2e-'));
  folders.add(folder);
  return folder;
}

/**
 * A port nobody listens on, for this test process alone: test files run at the same time, so a port is claimed by making
 * a folder of its name. Ports lie below the range the kernel takes for outgoing connections.
 */
export async function freePort() {
  const claims = path.join(temporaryRoot(), `gateway-e2e-ports-${process.ppid}`);
  mkdirSync(claims, { recursive: true });
  for (;;) {
    const port = 12000 + Math.floor(Math.random() * 8000);
    const claim = path.join(claims, String(port));
    try {
      mkdirSync(claim);
    } catch (error) {
      if (error.code === 'EEXIST') continue;
      throw error;
    }
    folders.add(claim);
    if (await isFree(port)) return port;
  }
}

/** A program that runs, and what it has written so far; with `group`, what it starts ends with it, as with a terminal. */
export class Program {
  constructor(command, args, { env = {}, cwd, group = false } = {}) {
    this.name = path.basename(command);
    this.output = '';
    this.child = spawn(command, args, {
      cwd,
      env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin`, HOME: process.env.HOME ?? '/', ...env },
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: group,
    });
    this.child.leadsGroup = group;
    running.add(this.child);
    this.ended = new Promise((resolve, reject) => {
      this.child.once('error', reject);
      this.child.once('close', (code, signal) => {
        running.delete(this.child);
        this.end = { code, signal };
        resolve(this.end);
      });
    });
    this.ended.catch(() => {});
    this.child.stdin.on('error', () => {});
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding('utf8');
      stream.on('data', (text) => (this.output += text));
    }
  }

  /** Sends a signal and waits for the end: `{code, signal}`. */
  async stop(signal = 'SIGTERM', withinMs = 20_000) {
    if (this.end) return this.end;
    signalTo(this.child, signal);
    return this.waitForEnd(withinMs);
  }

  /** The program's end by itself: `{code, signal}`. Fails, and kills it, when that takes too long. */
  async waitForEnd(withinMs = 20_000) {
    try {
      return await within(withinMs, this.ended, () => `${this.name} goes on running:\n${this.tail()}`);
    } catch (error) {
      signalTo(this.child, 'SIGKILL');
      throw error;
    }
  }

  /** Fails when the program has ended. */
  mustRun() {
    if (this.end) throw new Error(`${this.name} ended (${JSON.stringify(this.end)}):\n${this.tail()}`);
  }

  /** The end of its output, for messages. */
  tail() {
    return this.output.slice(-3000);
  }
}

/** Settles with `promise`; fails with `describe()` when that takes longer than `ms`. */
export async function within(ms, promise, describe) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${ms} ms: ${describe()}`)), ms);
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Asks again until `probe` answers something truthy. Only for what announces itself in no other way: a server that comes
 * up, a gauge that falls. `what` may be a function, for what is known at the end only.
 */
export async function eventually(what, probe, withinMs = 15_000) {
  const deadline = Date.now() + withinMs;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not within ${withinMs} ms: ${typeof what === 'function' ? what() : what}`);
    await pause(50);
  }
}

/** Lets time pass: only for a promise that is itself about time. */
export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Whether somebody accepts connections there. */
export async function accepts(port) {
  const socket = net.connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

function signalTo(child, signal) {
  if (!child.leadsGroup || !child.pid) return child.kill(signal);
  try {
    return process.kill(-child.pid, signal);
  } catch {
    // All of them have ended meanwhile.
    return false;
  }
}

async function isFree(port) {
  const server = net.createServer();
  try {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    return true;
  } catch {
    return false;
  } finally {
    server.close();
  }
}

function temporaryRoot() {
  return process.env.TEST_TMP ?? os.tmpdir();
}
