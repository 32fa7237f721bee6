// A few rounds of commit-kill.mjs.

import assert from 'node:assert/strict';
import { limitedTest } from '../e2e/harness/setups.mjs';
import { commitKill } from './commit-kill.mjs';

limitedTest('nodes are killed between commit and publish, and everybody hears every message', async () => {
  const { faults } = await commitKill({ kills: 8, blind: 4, victims: 3 });
  assert.deepEqual(faults, []);
});
