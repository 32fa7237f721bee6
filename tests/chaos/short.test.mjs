// A short run of the chaos test: every kind of fault once. `make chaos` is the long one.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runChaos } from './run.mjs';
import { KINDS } from './schedule.mjs';

/** Every run of the suite plays the same, so that a failure can be had again. */
const SEED = 1;

/** Shorter and closer than in the long run, so that each kind comes within half a minute or so. */
const BOUNDS = { gap: [300, 1500], most: 3000 };

test('every kind of fault once: nothing lost, nothing twice, always in order', { timeout: 240_000 }, async (t) => {
  const kinds = Object.keys(KINDS);
  const { verdict, lines, faults } = await runChaos({
    ...{ seed: SEED, seconds: 34, minFaults: kinds.length, bounds: BOUNDS, rate: 40 },
    again: 'node --test tests/chaos/short.test.mjs',
    say: (text) => t.diagnostic(text),
  });
  t.diagnostic(lines.join('\n'));
  assert.deepEqual(verdict.violations, []);
  assert.deepEqual([...new Set(faults.map((fault) => fault.kind))].sort(), kinds.sort());
});
