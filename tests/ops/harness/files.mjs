// The repository's own files, as these tests read them.

import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import YAML from 'yaml';

/** The repository's top. */
export const TOP = fileURLToPath(new URL('../../..', import.meta.url)).replace(/\/$/, '');

/** The path of a file, from the top. */
export function at(...parts) {
  return path.join(TOP, ...parts);
}

export function text(...parts) {
  return readFileSync(at(...parts), 'utf8');
}

/** A YAML file as a value. */
export function yaml(...parts) {
  return YAML.parse(text(...parts), { merge: true });
}

export function json(...parts) {
  return JSON.parse(text(...parts));
}

/** The paths of a folder's files with that ending, from the top, in order. */
export function list(folder, ending) {
  return readdirSync(at(folder))
    .filter((name) => name.endsWith(ending))
    .sort()
    .map((name) => path.join(folder, name));
}
