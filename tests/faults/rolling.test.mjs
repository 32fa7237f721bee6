// A small run of rolling.mjs: as fast as the balancer notices what happens.

import assert from 'node:assert/strict';
import { limitedTest } from '../e2e/harness/setups.mjs';
import { rolling } from './rolling.mjs';

limitedTest('three nodes are restarted in turn under load, and nobody misses anything', async () => {
  const { faults } = await rolling({ nodes: 3, clients: 40, agents: 3, rate: 60, drainSeconds: 2 });
  assert.deepEqual(faults, []);
});
