// A small run of upkeep.mjs.

import assert from 'node:assert/strict';
import { limitedTest } from '../e2e/harness/setups.mjs';
import { upkeep } from './upkeep.mjs';

limitedTest('a database is archived, backed up and restored while two people chat', async () => {
  const { faults } = await upkeep({ messages: 6_000, conversations: 60 });
  assert.deepEqual(faults, []);
});
