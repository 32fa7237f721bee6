// The programs that scripts/ops-tools fetches.

import { execFile, execFileSync } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';
import { at, TOP } from './files.mjs';

/** Runs one of them to its end: `{code, stdout, stderr}`. Fails, and kills it, where it takes longer than `options.timeout`. */
export async function runTool(name, args, options = {}) {
  const env = { ...process.env, PATH: `${toolFolder()}:${process.env.PATH}`, ...options.env };
  try {
    return { code: 0, ...(await promisify(execFile)(name, args, { cwd: TOP, maxBuffer: 1 << 26, killSignal: 'SIGKILL', ...options, env })) };
  } catch (error) {
    if (typeof error.code !== 'number') throw error;
    return { code: error.code, stdout: error.stdout, stderr: error.stderr };
  }
}

/** The folder of these programs. */
export function toolFolder() {
  folder ??= path.join(execFileSync(at('scripts/ops-tools'), { encoding: 'utf8' }).trim(), 'bin');
  return folder;
}

let folder;
