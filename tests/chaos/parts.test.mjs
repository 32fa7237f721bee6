// The parts of the chaos test that could deceive it: a schedule that is not the seed's, a link that does nothing.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';
import { Link } from './proxy.mjs';
import { Random } from './random.mjs';
import { KINDS, plan } from './schedule.mjs';

describe('the schedule', () => {
  const planOf = (seed, options) => plan({ random: new Random(seed), seconds: 600, readers: 3, ...options });

  test('is the same for a seed, and another for another', () => {
    assert.deepEqual(planOf(5), planOf(5));
    assert.notDeepEqual(planOf(5), planOf(6));
  });

  test('has at least 60 faults in ten minutes, each kind among them several times', () => {
    for (let seed = 1; seed <= 50; seed++) {
      const faults = planOf(seed);
      assert.ok(faults.length >= 60, `${faults.length} with seed ${seed}`);
      for (const kind of Object.keys(KINDS)) {
        assert.ok(faults.filter((fault) => fault.kind === kind).length >= 4, `${kind} with seed ${seed}`);
      }
    }
  });

  test('does two faults at a time at times, never three, and never two of the same thing', () => {
    let twoAtOnce = 0;
    for (let seed = 1; seed <= 20; seed++) {
      const faults = planOf(seed);
      for (const fault of faults) {
        const others = faults.filter((f) => f !== fault && f.at <= fault.at && fault.at < f.at + f.ms);
        assert.ok(others.length <= 1, `fault ${fault.number} with seed ${seed}`);
        if (others.length === 1) twoAtOnce++;
        for (const other of others) assert.ok(!other.of.some((thing) => fault.of.includes(thing)));
        assert.ok(fault.at + fault.ms <= 600_000);
      }
    }
    assert.ok(twoAtOnce > 20, `${twoAtOnce} times`);
  });
});

describe('a link', () => {
  let far;
  let link;

  before(async () => {
    // Says everything again.
    far = net.createServer({ allowHalfOpen: true }, (socket) => socket.on('error', () => {}).pipe(socket)).listen(0, '127.0.0.1');
    await once(far, 'listening');
    link = await Link.to(far.address().port);
  });
  after(() => {
    link.cut();
    far.close();
  });

  async function connected() {
    const socket = net.connect(link.port, '127.0.0.1');
    socket.heard = '';
    socket.on('data', (bytes) => (socket.heard += bytes));
    await once(socket, 'connect');
    return socket;
  }

  async function say(socket, text) {
    const wanted = socket.heard + text;
    socket.write(text);
    while (socket.heard.length < wanted.length) await once(socket, 'data');
    assert.equal(socket.heard, wanted);
  }

  test('carries everything in order, both ways, and its end', { timeout: 10_000 }, async () => {
    const socket = await connected();
    await say(socket, 'x'.repeat(3_000_000) + 'the end');
    socket.end();
    await once(socket, 'end');
  });

  test('that is cut ends connections and takes none until it is mended', { timeout: 10_000 }, async () => {
    const socket = await connected();
    await say(socket, 'before');
    link.cut();
    await once(socket, 'close');
    const refused = net.connect(link.port, '127.0.0.1');
    const [error] = await once(refused, 'error');
    assert.equal(error.code, 'ECONNREFUSED');
    await link.mend();
    const again = await connected();
    await say(again, 'after');
    again.destroy();
  });

  test('that is reset breaks connections and takes new ones', { timeout: 10_000 }, async () => {
    const socket = await connected();
    await say(socket, 'before');
    link.reset();
    const [error] = await once(socket, 'error');
    assert.equal(error.code, 'ECONNRESET');
    const again = await connected();
    await say(again, 'after');
    again.destroy();
  });

  test('that is late keeps the order', { timeout: 10_000 }, async () => {
    const socket = await connected();
    link.delay(100);
    const began = performance.now();
    socket.write('first ');
    // It has come to the link.
    while (link.waiting === 0) await new Promise((resolve) => setImmediate(resolve));
    link.delay(0);
    // Nothing overtakes what is late already.
    socket.write('second');
    while (socket.heard.length < 12) await once(socket, 'data');
    assert.equal(socket.heard, 'first second');
    assert.ok(performance.now() - began >= 95);
    socket.destroy();
  });

  for (const direction of ['in', 'out']) {
    test(`that is silent ${direction} holds back everything, and loses nothing`, { timeout: 10_000 }, async () => {
      const socket = await connected();
      const other = await connected();
      await say(socket, 'before ');
      link.hold(direction);
      socket.write('meanwhile');
      // What came by another link shows that there was time enough.
      const open = await Link.to(far.address().port);
      const witness = net.connect(open.port, '127.0.0.1');
      witness.write('witness');
      await once(witness, 'data');
      assert.equal(socket.heard, 'before ');
      assert.equal(socket.readyState, 'open');
      link.release();
      while (socket.heard !== 'before meanwhile') await once(socket, 'data');
      for (const one of [socket, other, witness]) one.destroy();
      open.cut();
    });
  }
});
