// `make chaos`: settings from the environment, the run, the report, and an exit code that says whether all was well.

import { randomInt } from 'node:crypto';
import { existsSync } from 'node:fs';
import { BINARY } from '../e2e/harness/gateway.mjs';
import { runChaos } from './run.mjs';
import { KINDS } from './schedule.mjs';

const seconds = whole('SECONDS', 600);
const kinds = process.env.FAULTS ? process.env.FAULTS.split(',').map((kind) => kind.trim()) : undefined;
for (const kind of kinds ?? []) if (!(kind in KINDS)) fail(`FAULTS: ${kind} is none of ${Object.keys(KINDS).join(', ')}`);

if (!existsSync(BINARY)) fail(`${BINARY} is not there: run \`make chaos\`, or name one with GATEWAY_BIN`);

const seed = whole('SEED', randomInt(1, 2 ** 31));
const others = ['FAULTS', 'MIN_FAULTS', 'RATE'].filter((name) => process.env[name]);

try {
  const { verdict, lines } = await runChaos({
    seed,
    again: [`make chaos SEED=${seed} SECONDS=${seconds}`, ...others.map((name) => `${name}=${process.env[name]}`)].join(' '),
    seconds,
    kinds,
    // Less would not be what it is named after.
    minFaults: whole('MIN_FAULTS', Math.floor(seconds / 10)),
    rate: whole('RATE', 60),
    keep: whole('KEEP', 0) > 0,
    say: (text) => console.log(text),
  });
  console.log(lines.join('\n'));
  process.exit(verdict.violations.length > 0 ? 1 : 0);
} catch (error) {
  fail(error.stack);
}

function whole(name, otherwise) {
  const text = process.env[name];
  if (!text) return otherwise;
  if (!/^\d+$/.test(text)) fail(`${name} must be a whole number`);
  return Number(text);
}

function fail(why) {
  console.error(why);
  process.exit(1);
}
