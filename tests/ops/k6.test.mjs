// The load test's own test: its smoke profile against two nodes behind the balancer passes, and its thresholds can fail.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { temporaryFolder } from '../e2e/harness/processes.mjs';
import { Cluster, describeOn } from '../e2e/harness/setups.mjs';
import { at } from './harness/files.mjs';
import { runTool } from './harness/tools.mjs';

/** k6's exit status where a threshold was passed. */
const THRESHOLDS_HAVE_FAILED = 99;

describeOn(Cluster, (setup, test) => {
  /** Runs k6: `{code, output, metrics}`. */
  async function k6(env) {
    const admin = await setup.admin();
    const summary = path.join(temporaryFolder(), 'summary.json');
    const { code, stdout, stderr } = await runTool('k6', ['run', '--quiet', '--summary-export', summary, at('loadtest/k6/chat.js')], {
      env: { BASE_URL: setup.url, ADMIN_EMAIL: admin.user.email, ADMIN_PASSWORD: admin.password, PROFILE: 'smoke', ...env },
      timeout: 45_000,
    });
    return { code, output: stdout + stderr, metrics: JSON.parse(readFileSync(summary, 'utf8')).metrics };
  }

  test('the smoke profile passes, and what it counts is what the nodes count', async () => {
    const { code, output, metrics } = await k6();
    assert.equal(code, 0, output);
    const acknowledged = metrics.chat_acknowledged.count;
    assert.ok(acknowledged > 20);
    const stored = await Promise.all(setup.nodes.map((node) => node.metric('chat_messages_total', { sender_type: 'client' })));
    assert.equal(stored[0] + stored[1], acknowledged);
    for (const count of stored) assert.ok(count > 0);
    assert.equal(metrics.chat_lost.count, 0);
    assert.ok(metrics['http_req_duration{call:history}'].max > 0);
  });

  test('a threshold that is passed fails the run', async () => {
    const { code, output, metrics } = await k6({ P99_MS: '0.001', SESSION_MS: '500' });
    assert.equal(code, THRESHOLDS_HAVE_FAILED, output);
    assert.ok(metrics.chat_acknowledged.count > 0);
  });
});
