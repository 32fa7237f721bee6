// docs/metrics.md against a node that runs: it shows every metric of the page and no other, each of the kind and with the
// labels that the page says, and figures that were measured.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { eventually } from './harness/processes.mjs';
import { words } from './harness/secrets.mjs';
import { Cluster, describeOn } from './harness/setups.mjs';

const PAGE = readFileSync(new URL('../../docs/metrics.md', import.meta.url), 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('| `'))
  .map((line) => line.slice(2, -2).split(' | '))
  .map(([name, kind, , labels]) => ({ name: name.slice(1, -1), kind, labels: labelsOf(labels) }));

describeOn(Cluster, (setup, test) => {
  test('a node shows what the page says, and nothing else', async () => {
    const [node] = setup.nodes;
    const agent = await setup.admin();
    const client = await setup.client();
    const { id } = await client.converse(agent);
    const socket = await client.connect(0, { transports: ['websocket'] });
    const other = await agent.connect(1);
    const sent = await socket.ask('chatMessage', { conversationId: id, message: words() });
    await other.next('chatMessage', (message) => message.id === sent.id);
    await socket.next('messageReceived');
    assert.equal((await client.rest.get('/auth/me')).status, 200);

    const measured = [
      ...['chat_queue_seconds_count', 'chat_commit_seconds_count', 'chat_publish_seconds_count', 'chat_deliver_seconds_count'],
      ...['chat_bus_lag_seconds_count', 'chat_build_info', 'chat_runtime_workers', 'chat_runtime_tasks', 'chat_present_users'],
      ...['process_resident_memory_bytes', 'process_open_fds', 'process_start_time_seconds', 'process_threads'],
    ];
    for (const name of measured) await eventually(`${name} is measured`, async () => (await node.metric(name)) > 0);
    for (const pool of ['database', 'redis']) {
      assert.ok((await node.metric('chat_pool_wait_seconds_count', { pool })) > 0, pool);
      assert.ok((await node.metric('chat_pool_connections', { pool })) > 0, pool);
    }
    await eventually('the runtime had work', async () => (await node.metric('chat_runtime_busy_ratio')) > 0, 20_000);

    const lines = await node.metrics();
    const kinds = lines.map((line) => /^# TYPE (\S+) (\S+)$/.exec(line)).filter(Boolean).map(([, name, kind]) => `${name} ${kind}`);
    assert.deepEqual(kinds.sort(), PAGE.map(({ name, kind }) => `${name} ${kind}`).sort());
    const page = new Map(PAGE.map((metric) => [metric.name, metric]));
    for (const line of lines) {
      const [, series, text = ''] = /^([a-z_]+)(?:\{(.*)\})? \S+$/.exec(line) ?? [];
      if (!series) continue;
      const metric = page.get(series) ?? page.get(series.replace(/_(bucket|sum|count)$/, ''));
      const labels = [...text.matchAll(/([a-z_]+)="([^"]*)"/g)].filter(([, label]) => label !== 'le');
      assert.deepEqual(labels.map(([, label]) => label).sort(), Object.keys(metric.labels).sort(), line);
      for (const [, label, value] of labels) {
        const values = metric.labels[label];
        assert.ok(!values || values.includes(value), line);
      }
    }
  });
});

/** By name, the values that are listed; null where they are described. */
function labelsOf(cell) {
  const labels = cell.split('; ').filter(Boolean).map((text) => /^`(\w+)`: (.*)$/.exec(text).slice(1));
  return Object.fromEntries(labels.map(([name, values]) => [name, values.startsWith('the ') ? null : values.split(', ')]));
}
