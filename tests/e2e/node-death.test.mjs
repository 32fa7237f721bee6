// A node that dies without goodbye (SIGKILL): what it had acknowledged is not lost, its clients go elsewhere, and who does
// not come back is offline within a minute.

import assert from 'node:assert/strict';
import { dataOf } from './harness/assertions.mjs';
import { words } from './harness/secrets.mjs';
import { Cluster, describeOn } from './harness/setups.mjs';
import { Client } from './harness/sockets.mjs';

describeOn(Cluster, (setup, test) => {
  test('nothing acknowledged is lost, and presence heals', { timeout: 120_000 }, async () => {
    const agent = await setup.admin();
    const [mover, victim] = [await setup.client(), await setup.client()];
    const { id } = await mover.converse(agent);
    const agentSocket = await agent.connect(1);
    const moving = await setup.keep(
      Client.connect(setup.url, {
        auth: { token: mover.token },
        ...{ withCredentials: true, extraHeaders: { cookie: 'GATEWAY=a' }, reconnectionDelay: 200 },
      }),
    );
    await victim.connect(0, { reconnection: false });
    await agentSocket.next('userOnline', (e) => e.userId === victim.id);

    // In the middle of a burst, some of it acknowledged.
    const acknowledged = [];
    const burst = Array.from({ length: 100 }, (_, i) =>
      moving.request('chatMessage', { conversationId: id, message: words(String(i)), clientMessageId: `b${i}` }).then((answer) => {
        if (answer.success) acknowledged.push(answer.data);
        if (acknowledged.length === 20) setup.nodes[0].program.child.kill('SIGKILL');
      }, () => {}),
    );
    await moving.disconnected(20_000);
    const diedAt = Date.now();
    await moving.reconnected(20_000);
    await Promise.all(burst);
    assert.ok(acknowledged.length >= 20);
    // Everything committed reaches the agent, in order, each once; everything acknowledged was committed.
    const { messages } = dataOf(await agent.rest.get(`/chat/conversations/${id}/messages`, { params: { limit: 100 } }));
    const stored = new Set(messages.map((m) => m.id));
    for (const message of acknowledged) assert.ok(stored.has(message.id), `${message.seq} was acknowledged`);
    await agentSocket.next('chatMessage', (m) => m.seq === messages.at(-1).seq, 20_000);
    const heard = agentSocket.all('chatMessage').map((m) => m.seq);
    assert.deepEqual(heard, heard.map((_, i) => i + 1));
    assert.ok(heard.length >= messages.length);

    const offline = await agentSocket.nextEntry('userOffline', (e) => e.userId === victim.id, 62_000);
    assert.ok(offline.at - diedAt < 60_000);
    agentSocket.hasNotHeard('userOffline', (e) => e.userId === mover.id);
  });
});
