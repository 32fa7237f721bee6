// A small run of slow-reader.mjs: three times what the kernel holds for a reader before its outbox fills. Few samples on a busy machine say little about the last hundredth: what is left of the
// bound finds a node that waits for its slow readers, not one that is a little slower.

import assert from 'node:assert/strict';
import { limitedTest } from '../e2e/harness/setups.mjs';
import { slowReader } from './slow-reader.mjs';

limitedTest('readers that never read are sent away, and the others hear as before', async () => {
  const sizes = { readers: 3, slow: 3, rate: 120, bytes: 16_000, rounds: 1, seconds: 6, outboxBytes: 2 ** 20 };
  const { faults } = await slowReader({ ...sizes, ratio: 10 });
  assert.deepEqual(faults, []);
});
