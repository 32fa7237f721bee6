// The Dockerfile as the builder reads it: its stages with their instructions, arguments filled in; and what a build context holds
// after .dockerignore. Only the forms that this repository's file uses; another is a fault of the test.

import { cpSync, existsSync, mkdirSync, statSync } from 'node:fs';
import path from 'node:path';

/**
 * The stages, in order: `{name, from, steps}`; `name` undefined where it has none, `from` an image or another stage's name, each step
 * `{word, flags, text}` with the flags (`--from=build`) taken off.
 */
export function stagesOf(dockerfile) {
  const lines = dockerfile
    .split('\n')
    .filter((line) => !/^\s*#/.test(line))
    .join('\n')
    .replace(/\\\n/g, ' ')
    .split('\n')
    .map((line) => line.trim())
    .filter(Boolean);
  const args = {};
  const stages = [];
  for (const line of lines) {
    const [, word, rest] = /^([A-Z]+)\s+(.*)$/.exec(line) ?? [];
    if (!word) throw new Error(`not understood: ${line}`);
    if (word === 'FROM') {
      const [, image, , name] = /^(\S+)(\s+AS\s+(\S+))?$/i.exec(rest) ?? [];
      if (!image) throw new Error(`not understood: ${line}`);
      stages.push({ name, from: fill(image, args), steps: [] });
    } else if (stages.length === 0) {
      const [, name, value] = /^(\w+)=(\S+)$/.exec(rest) ?? [];
      if (word !== 'ARG' || !name) throw new Error(`before the first stage: ${line}`);
      args[name] = value;
    } else {
      const flags = Object.fromEntries([...rest.matchAll(/(?<=^|\s)--(\w+)=(\S+)(?=\s)/g)].map(([, flag, value]) => [flag, value]));
      const text = word === 'COPY' ? rest.replace(/(^|\s)--\w+=\S+/g, '').trim() : rest;
      stages.at(-1).steps.push({ word, flags: word === 'COPY' ? flags : {}, text });
    }
  }
  return stages;
}

function fill(image, args) {
  return image.replace(/\$\{(\w+)\}/g, (_, name) => {
    if (!(name in args)) throw new Error(`no such ARG before the first stage: ${name}`);
    return args[name];
  });
}

/** A COPY's sources and where they go. */
export function copied({ text }) {
  const words = text.split(/\s+/);
  return { sources: words.slice(0, -1), to: words.at(-1) };
}

/** Whether a file of the context is let through by a .dockerignore that shuts everything out and then names what may pass. */
export function passes(dockerignore, file) {
  const [none, ...rules] = dockerignore.split('\n').filter((line) => line && !line.startsWith('#'));
  if (none !== '*' || rules.some((rule) => !rule.startsWith('!'))) throw new Error('.dockerignore is not what this reads');
  return rules.some((rule) => file === rule.slice(1) || file.startsWith(`${rule.slice(1)}/`));
}

/** Does the COPY steps that take from the context, as the builder would: from one folder into another. */
export function copyInto(folder, context, steps) {
  for (const step of steps.filter(({ word, flags }) => word === 'COPY' && !flags.from)) {
    const { sources, to } = copied(step);
    const isFolder = to.endsWith('/') || sources.length > 1;
    for (const source of sources) {
      const from = path.join(context, source);
      if (!existsSync(from)) throw new Error(`COPY ${source}: it is not there`);
      // A folder's contents are copied, a file under its name.
      const target = path.join(folder, to, isFolder && statSync(from).isFile() ? path.basename(source) : '');
      mkdirSync(path.dirname(target), { recursive: true });
      cpSync(from, target, { recursive: true });
    }
  }
}
