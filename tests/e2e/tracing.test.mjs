// Traces: one message is one trace over both nodes, with the right parents, at a collector of this test's own; and a
// collector that is away is nobody's trouble.

import assert from 'node:assert/strict';
import { Collector } from './harness/collector.mjs';
import { eventually } from './harness/processes.mjs';
import { words } from './harness/secrets.mjs';
import { Cluster, describeOn } from './harness/setups.mjs';

const SERVER = 2;
const PRODUCER = 4;
const CONSUMER = 5;

/** A cluster whose nodes export to a collector of their own. */
class Traced extends Cluster {
  async start() {
    this.collector = await Collector.start();
    // Batches are sent sooner than by default: a variable that the library reads.
    this.env = { OTEL_EXPORTER_OTLP_ENDPOINT: this.collector.url, OTEL_BSP_SCHEDULE_DELAY: '200' };
    await super.start();
  }

  async nodeEnvs() {
    return ['node-a', 'node-b'].map((name) => ({ ...this.storeEnv, OTEL_SERVICE_NAME: name }));
  }

  async stop() {
    await super.stop();
    await this.collector.stop();
  }
}

describeOn(Traced, (setup, test) => {
  let agent;
  let client;
  let id;
  let sender;
  let hearer;

  /** The spans of the trace in which a message was sent in that conversation, once all that is wanted is there. */
  const traceOf = (matches, names) =>
    eventually(
      () => `a trace with ${names}; there are ${setup.collector.spans.map((span) => `${span.service} ${span.name}`).join(', ')}`,
      () => {
        const root = setup.collector.spans.find(matches);
        const spans = setup.collector.spans.filter((span) => span.traceId === root?.traceId);
        return names.every((name) => spans.some((span) => `${span.service} ${span.name}` === name)) && spans;
      },
    );

  test('a message of a socket is one trace over both nodes', async () => {
    agent = await setup.admin();
    client = await setup.client();
    ({ id } = await client.converse(agent));
    sender = await client.connect(0, { transports: ['websocket'] });
    hearer = await agent.connect(1, { transports: ['websocket'] });
    const sent = await sender.ask('chatMessage', { conversationId: id, message: words() });
    await hearer.next('chatMessage', (message) => message.id === sent.id);

    const names = ['message', 'message.queue', 'message.commit', 'message.publish'].map((name) => `node-a ${name}`);
    const spans = await traceOf(
      (span) => span.name === 'message' && span.attributes['chat.conversation'] === id,
      [...names, 'node-a message.deliver', 'node-b message.deliver'],
    );
    assert.equal(spans.length, 6);
    const one = (name, service = 'node-a') => spans.find((span) => span.name === name && span.service === service);
    const root = one('message');
    assert.equal(root.parentId, '');
    assert.equal(root.attributes['chat.sender'], client.id);
    for (const name of ['message.queue', 'message.commit', 'message.publish']) assert.equal(one(name).parentId, root.spanId, name);
    const publish = one('message.publish');
    assert.equal(publish.kind, PRODUCER);
    for (const service of ['node-a', 'node-b']) {
      const deliver = one('message.deliver', service);
      assert.equal(deliver.parentId, publish.spanId, service);
      assert.equal(deliver.kind, CONSUMER);
      assert.ok(deliver.attributes['chat.sockets'] >= 1, service);
    }
    const stages = ['message.queue', 'message.commit', 'message.publish'].map((name) => one(name));
    for (const [i, stage] of stages.entries()) {
      assert.ok(stage.end >= stage.begin && stage.begin >= root.begin - 2_000_000n, stage.name);
      // Begins are reckoned back from ends by two clocks, hence the slack.
      if (i) assert.ok(stage.begin >= stages[i - 1].begin - 2_000_000n, stage.name);
    }
    assert.ok(spans.every((span) => !span.failed));
  });

  test('a REST call goes on with the trace of its caller, and says how it was answered', async () => {
    const traceId = '0af7651916cd43dd8448eb211c80319c';
    const post = (flags, conversation = id) =>
      client.rest.post(`/chat/conversations/${conversation}/messages`, { message: words() }, { headers: { traceparent: `00-${traceId}-b7ad6b7169203331-${flags}` } });
    // Not sampled by its caller: neither here.
    assert.equal((await post('00')).status, 201);
    assert.equal((await post('01')).status, 201);
    const name = 'POST /api/chat/conversations/{id}/messages';
    const all = await eventually('the call and its message are there', () => {
      const own = setup.collector.spans.filter((span) => span.traceId === traceId);
      return own.some((span) => span.name === name) && own.filter((span) => span.name === 'message.deliver').length === 2 && own;
    });
    const calls = all.filter((span) => span.name === name);
    assert.equal(calls.length, 1);
    assert.equal(calls[0].kind, SERVER);
    assert.equal(calls[0].parentId, 'b7ad6b7169203331');
    assert.equal(calls[0].attributes['http.response.status_code'], 201);
    const messages = all.filter((span) => span.name === 'message');
    assert.deepEqual(messages.map((span) => span.parentId), [calls[0].spanId]);
  });

  test('a message that is refused fails its trace', async () => {
    const stranger = await setup.client();
    const socket = await stranger.connect(0, { transports: ['websocket'] });
    assert.equal(await socket.refused('chatMessage', { conversationId: id, message: words() }), 'FORBIDDEN');
    await eventually('it is told', () =>
      setup.collector.spans.some((span) => span.name === 'message' && span.attributes['chat.sender'] === stranger.id && span.failed));
  });

  test('a collector that is away is told of once, and keeps nobody waiting', { timeout: 90_000 }, async () => {
    const [node] = setup.nodes;
    await setup.collector.stop();
    const failed = () => node.metric('chat_trace_exports_total', { result: 'failed' });
    const before = node.logs.length;
    for (let round = 0; round < 4; round++) {
      const began = Date.now();
      for (let i = 0; i < 25; i++) {
        const sent = await sender.ask('chatMessage', { conversationId: id, message: words() });
        await hearer.next('chatMessage', (message) => message.id === sent.id);
      }
      assert.ok(Date.now() - began < 10_000);
      await eventually('a batch was in vain', async () => (await failed()) > round);
    }
    const told = node.logs.slice(before).split('\n').filter((line) => /WARN|ERROR/.test(line));
    assert.equal(told.length, 1, told.join('\n'));
    assert.match(told[0], /traces/);

    setup.collector = Object.assign(await Collector.start(setup.collector.port), { bytes: setup.collector.bytes });
    const sent = await sender.ask('chatMessage', { conversationId: id, message: words() });
    await hearer.next('chatMessage', (message) => message.id === sent.id);
    await eventually('spans come again', () => setup.collector.spans.length > 0);
  });

  test('nothing that was said is in a trace', async () => {
    const text = words('a text that traces must not hold');
    await sender.ask('chatMessage', { conversationId: id, message: text });
    const count = setup.collector.spans.filter((span) => span.name === 'message').length;
    await sender.ask('chatMessage', { conversationId: id, message: words() });
    await eventually('it has been exported', () => setup.collector.spans.filter((span) => span.name === 'message').length >= count + 2);
    assert.ok(setup.collector.bytes.length > 3);
    const everything = Buffer.concat(setup.collector.bytes);
    for (const one of [text, client.token, agent.token, client.user.email]) assert.ok(!everything.includes(one));
  });
});
