// A small run of operator.mjs, and what it does with a document that says something else than it knows.

import assert from 'node:assert/strict';
import { limitedTest } from '../e2e/harness/setups.mjs';
import { stepsOf, substitute } from './literal.mjs';
import { operator } from './operator.mjs';

limitedTest("README.md is followed from nothing to a rolled version, and nobody notices", { timeout: 120_000 }, async () => {
  const { faults } = await operator({ clients: 10, rate: 20, drainSeconds: 1, checkMs: 100, scrapeSeconds: 1 });
  assert.deepEqual(faults, []);
});

limitedTest('a block that says something else, or names a machine that is not known, is not run', () => {
  const block = "export REDIS_URL='redis://redis:6379'   # not 10.0.0.1\n";
  assert.equal(substitute(block, [['redis://redis:6379', 'redis://127.0.0.1:1']]), "export REDIS_URL='redis://127.0.0.1:1'   # not 10.0.0.1\n");
  assert.throws(() => substitute(block, [['redis://cache:6379', 'x']]), /stands 0 times/);
  assert.throws(() => substitute(block + block, [['redis://redis:6379', 'x']]), /stands 2 times/);
  assert.throws(() => substitute(block, []), /no substitution is known for "redis:6379"/);
});

limitedTest('steps are numbered, and have their blocks', () => {
  const steps = stepsOf('Words.\n\n1. **Build** it.\n\n   ```sh\n   make\n     it\n   ```\n\n2. **Run** it.\n\nMore words.\n');
  assert.deepEqual(steps.map(({ title, blocks }) => [title, blocks]), [['Build', ['make\n  it\n']], ['Run', []]]);
  assert.throws(() => stepsOf('1. **Build**\n3. **Run**\n'), /step 3/);
});
