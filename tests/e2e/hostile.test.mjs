// Input that no honest client sends, over bare connections: oversized, malformed, unfinished, lying. Each ends in a clear
// answer or the end of that connection; the node lives on and holds nothing. Faults of honest clients (a wrong id, a missing
// field) are with the suites of what they asked for.

import assert from 'node:assert/strict';
import http from 'node:http';
import { describe } from 'node:test';
import axios from 'axios';
import { dataOf } from './harness/assertions.mjs';
import { eventually } from './harness/processes.mjs';
import { frame, RawConnection } from './harness/raw.mjs';
import { words } from './harness/secrets.mjs';
import { describeOn, Single } from './harness/setups.mjs';

const MAX_PAYLOAD = 1_000_000;

describeOn(Single, (setup, test) => {
  const engine = (query, options = {}) =>
    axios.request({
      ...{ url: `${setup.url}/socket.io/`, params: { EIO: 4, transport: 'polling', ...query }, proxy: false },
      // A connection each: a node may end one whose request it did not care to read.
      ...{ httpAgent: new http.Agent(), validateStatus: () => true, responseType: 'text', transformResponse: (body) => body, ...options },
    });
  const post = (sid, data, headers = { 'Content-Type': 'text/plain;charset=UTF-8' }) =>
    engine({ sid }, { method: 'POST', data, headers, maxBodyLength: Infinity });

  /** An Engine.IO session over polling; with a token also a connected Socket.IO socket. */
  async function pollingSession(token) {
    const opened = await engine({});
    const { sid } = JSON.parse(opened.data.slice(1));
    if (token) {
      await post(sid, `40${JSON.stringify({ token })}`);
      assert.match((await engine({ sid })).data, /^40\{/);
    }
    return sid;
  }

  /** An Engine.IO session over a bare WebSocket; with a token also a connected Socket.IO socket. */
  async function rawEngine(token) {
    const raw = await RawConnection.webSocket(setup.url, '/socket.io/?EIO=4&transport=websocket');
    await raw.until((received) => received.includes('"sid"'));
    if (token) {
      raw.sendText(`40${JSON.stringify({ token })}`);
      await raw.until((received) => /40\{"sid"/.test(received.toString('latin1')));
    }
    return raw;
  }

  const rawPlain = async (token) => RawConnection.webSocket(setup.url, '/ws', token ? { Authorization: `Bearer ${token}` } : {});

  test('the handshake announces what the node is set to', async () => {
    const { status, data } = await engine({});
    assert.equal(status, 200);
    const handshake = JSON.parse(data.slice(1));
    assert.equal(data[0], '0');
    assert.deepEqual(
      [handshake.upgrades, handshake.pingInterval, handshake.pingTimeout, handshake.maxPayload],
      [['websocket'], 8_000, 6_000, MAX_PAYLOAD],
    );
  });

  test('Engine.IO requests that are none', async () => {
    const sid = await pollingSession();
    for (const query of [{ EIO: 3 }, { EIO: 'x' }, { transport: 'pigeon' }, { sid: 'unknown' }, { sid: '../../etc' }, { sid: 'x'.repeat(5000) }]) {
      assert.equal((await engine(query)).status, 400, JSON.stringify(query).slice(0, 60));
    }
    assert.equal((await engine({}, { method: 'POST', data: '40' })).status, 400, 'a session begins with GET');
    assert.ok([400, 405].includes((await engine({ sid }, { method: 'PUT', data: '40' })).status));
    const bad = await pollingSession();
    assert.equal((await post(bad, 'abc')).status, 400);
    assert.equal((await engine({ sid: bad })).status, 400, 'a session that broke the protocol is gone');
  });

  test('two polls at once end the session', async () => {
    const { token } = await setup.client();
    const sid = await pollingSession(token);
    const answers = await Promise.all([engine({ sid }), engine({ sid })]);
    assert.ok(answers.some((a) => a.status === 400));
  });

  test('a polling payload over the limit', async () => {
    const { token } = await setup.client();
    const sid = await pollingSession(token);
    const { status } = await post(sid, `42["chatMessage","${'x'.repeat(MAX_PAYLOAD)}"]`);
    assert.equal(status, 413);
  });

  test('frames over the limit end the socket before they are read', async () => {
    const { token } = await setup.client();
    for (const open of [rawPlain, rawEngine]) {
      const raw = await open(token);
      // Announced only: a node that waits for it would wait for ever.
      raw.write(frame(0x81, Buffer.from('x'), MAX_PAYLOAD + 1));
      await raw.whenClosed();
      const vast = await open(token);
      vast.write(frame(0x82, Buffer.from('x'), 2 ** 50));
      await vast.whenClosed();
    }
  });

  test('fragments that never end are cut at the limit', async () => {
    const { token } = await setup.client();
    for (const open of [rawPlain, rawEngine]) {
      const raw = await open(token);
      const piece = Buffer.alloc(60_000, 0x78);
      raw.write(frame(0x01, piece));
      for (let i = 0; i < 20; i++) raw.write(frame(0x00, piece));
      await raw.whenClosed();
    }
  });

  test('a frame of the full size is taken', async () => {
    const { token } = await setup.client();
    const raw = await rawPlain(token);
    const shell = '{"event":"getOnlineUsers","id":1,"data":{"x":""}}';
    raw.sendText(shell.replace('""', `"${'x'.repeat(MAX_PAYLOAD - shell.length)}"`));
    await raw.until((received) => received.includes('"ack":1'));
    raw.close();
  });

  test('frames that break WebSocket', async () => {
    const { token } = await setup.client();
    const faults = [
      Buffer.from([0x81, 0x05, 0x68, 0x65, 0x6c, 0x6c, 0x6f]), // not masked
      frame(0xf1, Buffer.from('{}')), // reserved bits
      frame(0x83, Buffer.from('{}')), // a reserved opcode
      frame(0x80, Buffer.from('{}')), // the continuation of nothing
      frame(0x89, Buffer.alloc(126)), // a control frame too long
      frame(0x81, Buffer.from([0xc3, 0x28])), // text that is not UTF-8
      Buffer.alloc(4096, 0xff),
    ];
    for (const open of [rawPlain, rawEngine]) {
      for (const fault of faults) {
        const raw = await open(token);
        raw.write(fault);
        await raw.whenClosed();
      }
    }
  });

  test('Engine.IO and Socket.IO packets that are none end the socket', async () => {
    const { token } = await setup.client();
    const packets = [
      ...['', '9', 'x', '4', '49', '4x', '42', '42{}', '42[]', '42["chatMessage"', '42[["x"]]', '42nonsense'],
      ...['42/other,["x"]garbage', '40{"not":'],
    ];
    for (const packet of packets) {
      const raw = await rawEngine(token);
      raw.sendText(packet);
      await raw.whenClosed();
    }
  });

  test('binary packets that announce too much, or what never comes', async () => {
    const { token } = await setup.client();
    const packets = ['45999999999-["chatMessage"]', '45100000-["x"]', '4599999999999999999999-["x"]', '45-1-["x"]', '45x-["x"]', '45["x"]'];
    for (const packet of packets) {
      const raw = await rawEngine(token);
      raw.sendText(packet);
      await raw.whenClosed();
    }
    // Something else in the place of an attachment.
    const raw = await rawEngine(token);
    raw.sendText('451-["x",{"_placeholder":true,"num":0}]');
    raw.sendText('42["getOnlineUsers",{}]');
    await raw.whenClosed();
    // A placeholder for an attachment there is not.
    const lying = await rawEngine(token);
    lying.sendText('451-["x",{"_placeholder":true,"num":7}]');
    lying.write(frame(0x82, Buffer.from([1])));
    lying.sendText('4211["getOnlineUsers",{}]');
    await Promise.race([lying.whenClosed(), lying.until((received) => received.includes('4311['))]);
    lying.close();
  });

  test('attachments whose sum is over the limit are not kept', async () => {
    const { token } = await setup.client();
    const raw = await rawEngine(token);
    const places = Array.from({ length: 5 }, (_, num) => ({ _placeholder: true, num }));
    raw.sendText(`455-${JSON.stringify(['x', ...places])}`);
    for (let i = 0; i < 4; i++) raw.write(frame(0x82, Buffer.alloc(400_000)));
    await raw.whenClosed();
  });

  test('an attachment where text is meant is refused, not fatal', async () => {
    const client = await setup.client();
    const agent = await setup.admin();
    const { id } = await client.converse(agent);
    const socket = await client.connect(0);
    assert.equal(await socket.refused('chatMessage', { conversationId: id, message: Buffer.from('x') }), 'VALIDATION_ERROR');
    assert.equal(await socket.refused('chatMessage', Buffer.from('x')), 'VALIDATION_ERROR');
    assert.equal(await socket.refused('getOnlineUsersx', Buffer.from('x')), 'UNKNOWN_EVENT');
  });

  test('payloads that are JSON and nothing else', async () => {
    const client = await setup.client();
    const socket = await client.connectPlain(0);
    const nested = `${'['.repeat(10_000)}${']'.repeat(10_000)}`;
    const raw = await rawPlain(client.token);
    raw.sendText(`{"event":"sync","id":1,"data":${nested}}`);
    await Promise.race([raw.whenClosed(), raw.until((received) => received.includes('"ack":1'))]);
    raw.close();
    for (const data of [{ conversationId: 1e308 }, { conversationId: -0.5 }, { __proto__: null, constructor: 1 }, 'x', [1]]) {
      assert.equal(await socket.refused('joinConversation', data), 'VALIDATION_ERROR');
    }
    assert.equal(await socket.refused('x'.repeat(10_000), {}), 'UNKNOWN_EVENT');
    assert.equal(await socket.refused('\u0000\u2028</script>', {}), 'UNKNOWN_EVENT');
    // As many conversations as a frame holds: answered, one way or the other, and soon.
    const many = Array.from({ length: 20_000 }, () => ({ conversationId: 1, afterEventSeq: 0 }));
    assert.equal(typeof (await socket.request('sync', { conversations: many })).success, 'boolean');
  });

  test('text that SQL, HTML and logs might trip over is kept as it is', async () => {
    const client = await setup.client();
    const agent = await setup.admin();
    const { id } = await client.converse(agent);
    const socket = await client.connect(0);
    for (const text of ["'; DROP TABLE Messages; --", '<img src=x onerror=alert(1)>', '{"a":1}\\u0000', '%s %n {} {{x}}', '\u202e\u0007\u0000x']) {
      const message = words(text);
      assert.equal((await socket.ask('chatMessage', { conversationId: id, message })).content, message);
    }
    const { messages } = dataOf(await agent.rest.get(`/chat/conversations/${id}/messages`));
    assert.equal(messages.length, 5);
    // A lone surrogate can't be UTF-8.
    const raw = await rawPlain(client.token);
    raw.sendText(`{"event":"chatMessage","id":1,"data":{"conversationId":${id},"message":"\\ud800"}}`);
    await Promise.race([raw.whenClosed(), raw.until((received) => received.includes('"success":false'))]);
    raw.close();
  });

  describe('side by side', { concurrency: true }, () => {
    const timed = async (open, least, most) => {
      const raw = await open();
      const opened = Date.now();
      const after = (await raw.whenClosing(most + 5000)) - opened;
      assert.ok(after >= least && after <= most, `closed after ${after} ms`);
      raw.close();
      return raw;
    };

    test('who never authenticates is closed after ten seconds', async () => {
      const [plain] = await Promise.all([
        timed(() => rawPlain(), 9_000, 13_000),
        timed(() => rawEngine(), 9_000, 13_000),
      ]);
      assert.equal(plain.closeCode, 4401);
    });

    test('a polling session that never connects ends too', { timeout: 30_000 }, async () => {
      const sid = await pollingSession();
      await eventually('the session is gone', async () => (await engine({ sid })).status === 400, 20_000);
    });

    test('requests that do not come to their end are cut after thirty seconds', { timeout: 60_000 }, async () => {
      const begin = (text) => async () => {
        const raw = await RawConnection.open(setup.url);
        raw.write(text);
        return raw;
      };
      const host = 'Host: x\r\n';
      await Promise.all([
        timed(begin(`GET /healthz HTTP/1.1\r\n${host}X-Half: `), 0, 35_000),
        timed(begin(`POST /api/auth/login HTTP/1.1\r\n${host}Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{`), 0, 35_000),
        timed(begin(`GET /ws HTTP/1.1\r\n${host}Upgrade: websocket\r\n`), 0, 35_000),
      ]);
    });

    test('garbage instead of HTTP', async () => {
      const noise = [Buffer.alloc(2000, 0x00), Buffer.from('\x16\x03\x01\x02\x00'), Buffer.from('GET / HTTP/9.9\r\n\r\n'), Buffer.from(`GET /${'x'.repeat(500_000)} HTTP/1.1\r\n`)];
      for (const bytes of noise) {
        const raw = await RawConnection.open(setup.url);
        raw.write(bytes);
        await raw.whenClosed(40_000);
      }
    });
  });

  test('after all this the node lives, and holds no connection', async () => {
    // Sessions that nobody closed end with their heartbeat.
    setup.closeConnections();
    const [node] = setup.nodes;
    node.program.mustRun();
    assert.equal(await node.probe('/readyz'), 200);
    await eventually('chat_connections is 0', async () => (await node.metric('chat_connections')) === 0, 30_000);
  });
  // A heartbeat that ends what these tests leave open soon, but not before the ten seconds they wait for a close.
}, { PING_INTERVAL_MS: '8000', PING_TIMEOUT_MS: '6000' });
