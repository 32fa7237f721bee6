// What comes in with the dependencies: licences, versions and sources, as deny.toml allows them. Advisories are not asked for
// here: their database is not to be had without the network.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe } from 'node:test';
import { temporaryFolder } from '../e2e/harness/processes.mjs';
import { limitedTest as test } from '../e2e/harness/setups.mjs';
import { at, text } from './harness/files.mjs';
import { runTool } from './harness/tools.mjs';

describe('deny.toml', () => {
  const check = (config) => runTool('cargo-deny', ['--color', 'never', '--config', config, 'check', 'licenses', 'bans', 'sources']);

  test('allows what is there', async () => {
    const { code, stdout, stderr } = await check(at('deny.toml'));
    assert.equal(code, 0, (stdout + stderr).split('\n').filter((line) => line.startsWith('error')).join('\n'));
  });

  test('and would not allow another licence', async () => {
    const config = path.join(temporaryFolder(), 'deny.toml');
    const stricter = text('deny.toml').replace('    "ISC",\n', '');
    assert.notEqual(stricter, text('deny.toml'));
    writeFileSync(config, stricter);
    const { code, stdout, stderr } = await check(config);
    assert.notEqual(code, 0);
    assert.match(stdout + stderr, /ISC/);
  });
});
