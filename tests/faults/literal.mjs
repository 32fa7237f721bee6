// A document followed to the letter: its code blocks, the few words in them that are another machine's, and a shell to run
// them in. What the steps mean belongs in the program that follows them.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Program, within } from '../e2e/harness/processes.mjs';

/** The repository's top. */
export const TOP = fileURLToPath(new URL('../..', import.meta.url));

/** Addresses and commands of the documents that must not be left when a block is run: they are another machine's. */
const FOREIGN = /\b10\.0\.0\.\d+|\b(?:mysql|redis|localhost):\d+|\bsudo\b|\bscp\b|'\.\.\.'|\b(?:NEW|OLD)\b/;

/** The text of a document between two headings. */
export function chapter(document, heading, text = readFileSync(TOP + document, 'utf8')) {
  const level = /^#+/.exec(heading)[0];
  const begin = text.split('\n').indexOf(heading);
  if (begin < 0) throw new Error(`${document} has no "${heading}"`);
  const rest = text.split('\n').slice(begin + 1);
  const end = rest.findIndex((line) => /^#+ /.test(line) && line.split(' ')[0].length <= level.length);
  return rest.slice(0, end < 0 ? undefined : end).join('\n');
}

/** The numbered steps of a chapter, by the bold words that each begins with: `[{title, text, blocks}]`. */
export function stepsOf(text) {
  const steps = [];
  let step;
  for (const line of text.split('\n')) {
    const begin = /^(\d+)\. \*\*(.+?)\*\*/.exec(line);
    if (begin) {
      if (Number(begin[1]) !== steps.length + 1) throw new Error(`step ${begin[1]} stands after ${steps.length} others`);
      steps.push((step = { title: begin[2], lines: [] }));
    } else if (/^\S/.test(line)) {
      step = undefined;
    }
    step?.lines.push(line.replace(/^ {3}/, ''));
  }
  return steps.map(({ title, lines }) => ({ title, text: lines.join('\n'), blocks: blocksOf(lines.join('\n')) }));
}

/** The code blocks of a text. */
export function blocksOf(text) {
  return [...text.matchAll(/^```(?:sh|sql)\n([^]*?)^```$/gm)].map(([, block]) => block);
}

/**
 * A block with other words in the place of some: `words` is `[[there, here], ...]`. Fails where one of `there` does not stand in it
 * exactly once, and where anything is left that is another machine's.
 */
export function substitute(block, words) {
  let text = block;
  for (const [there, here] of words) {
    const places = text.split(there);
    if (places.length !== 2) throw new Error(`"${there}" stands ${places.length - 1} times in:\n${block}`);
    text = places.join(here);
  }
  const left = FOREIGN.exec(text.replaceAll(/ #.*$/gm, ''));
  if (left) throw new Error(`no substitution is known for "${left[0]}" in:\n${block}`);
  return text;
}

/** A shell that stays open, as an operator's does: what is exported and started in one block is there in the next. */
export class Shell {
  #blocks = 0;

  constructor(name, folder, env = {}) {
    this.name = name;
    this.program = new Program('bash', ['--noprofile', '--norc'], { cwd: folder, env, group: true });
    // `failed` is what the last command that failed answered, also where another came after it.
    this.program.child.stdin.write("exec 2>&1; trap 'failed=$?' ERR\n");
  }

  /** Types a block, and waits until it is done: `{code, output}`; 0 where every command of it succeeded. */
  async type(block, withinMs = 60_000) {
    const mark = `-- block ${++this.#blocks} of ${this.name}:`;
    const begin = this.program.output.length;
    this.program.child.stdin.write(`failed=0\n${block.trimEnd()}\necho; echo "${mark} $failed"\n`);
    const end = new RegExp(`^${mark} (\\d+)$`, 'm');
    const done = new Promise((resolve, reject) => {
      const look = () => {
        const found = end.exec(this.program.output.slice(begin));
        if (!found) return;
        this.program.child.stdout.off('data', look);
        resolve({ code: Number(found[1]), output: this.program.output.slice(begin, begin + found.index).trim() });
      };
      this.program.child.stdout.on('data', look);
      this.program.ended.then(() => reject(new Error(`the shell of ${this.name} has ended`)), reject);
    });
    return within(withinMs, done, () => `a block of ${this.name}; it says: ${this.program.output.slice(begin)}`);
  }

  /** Types a block that must succeed, and returns what it said. */
  async run(block, withinMs) {
    const { code, output } = await this.type(block, withinMs);
    if (code !== 0) throw new Error(`a command on ${this.name} ended with ${code}: ${output}`);
    return output;
  }

  /** Ends it with whatever still runs in it. */
  close() {
    return this.program.stop('SIGKILL');
  }
}
