// A small run of crash-storm.mjs: a breeze.

import assert from 'node:assert/strict';
import { limitedTest } from '../e2e/harness/setups.mjs';
import { crashStorm } from './crash-storm.mjs';

limitedTest('all clients of a killed node are back and recovered on the other', async () => {
  const { faults } = await crashStorm({ clients: 400, processes: 2, missed: 20, quietMs: 1000 });
  assert.deepEqual(faults, []);
});
