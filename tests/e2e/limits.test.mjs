// Rate limits, with small values: logins by address and by account, REST by user, events by socket, connections by node.
// Sizes and times that are limited are in hostile.test.mjs.

import assert from 'node:assert/strict';
import { assertError, dataOf } from './harness/assertions.mjs';
import { restClient } from './harness/people.mjs';
import { pause } from './harness/processes.mjs';
import { Cluster, describeOn, Single } from './harness/setups.mjs';
import { Client, PlainClient } from './harness/sockets.mjs';

function assertLimited(answer) {
  assertError(answer, 429, 'RATE_LIMITED');
  const wait = Number(answer.headers['retry-after']);
  assert.ok(Number.isInteger(wait) && wait >= 1 && wait <= 60, `Retry-After: ${answer.headers['retry-after']}`);
}

describeOn(Cluster, (setup, test) => {
  const LOGINS = 5;
  let nextAddress = 1;
  // Straight to a node, as the balancer would: what it says of the client's address is believed.
  const from = (address, node) => ({
    login: (email, password) =>
      restClient(setup.socketUrl(node)).post('/auth/login', { email, password }, { headers: { 'X-Forwarded-For': address } }),
  });
  const newAddress = () => `203.0.113.${nextAddress++}`;

  test('logins of one account, from anywhere, counted over all nodes', async () => {
    const person = await setup.client();
    for (let i = 0; i < LOGINS; i++) {
      assertError(await from(newAddress(), i).login(person.user.email, 'wrong one'), 401, 'INVALID_CREDENTIALS');
    }
    for (const node of [0, 1]) {
      // The right password too, whatever the case of the address.
      assertLimited(await from(newAddress(), node).login(person.user.email.toUpperCase(), person.password));
    }
    // Somebody else is not held up.
    const other = await setup.client();
    dataOf(await from(newAddress(), 0).login(other.user.email, other.password));
  });

  test('logins from one address, into any account, counted over all nodes', async () => {
    const address = newAddress();
    for (let i = 0; i < LOGINS; i++) {
      assertError(await from(address, i).login(`nobody-${i}@example.com`, 'wrong one'), 401, 'INVALID_CREDENTIALS');
    }
    const person = await setup.client();
    for (const node of [0, 1]) assertLimited(await from(address, node).login(person.user.email, person.password));
    dataOf(await from(newAddress(), 1).login(person.user.email, person.password));
  });
}, { RATE_LIMIT_LOGINS_PER_MINUTE: '5' });

describeOn(Single, (setup, test) => {
  test('whom nobody trusts can not choose an address', async () => {
    const answers = [];
    for (let i = 0; i < 8; i++) {
      const headers = { 'X-Forwarded-For': `203.0.113.${i}` };
      answers.push(await restClient(setup.url).post('/auth/login', { email: `n-${i}@example.com`, password: 'wrong one' }, { headers }));
    }
    assertLimited(answers.at(-1));
  });
}, { RATE_LIMIT_LOGINS_PER_MINUTE: '5' });

describeOn(Single, (setup, test) => {
  test('requests of one user', async () => {
    const person = await setup.client();
    const elsewhere = await person.again();
    const answers = await Promise.all(Array.from({ length: 30 }, (_, i) => (i % 2 ? person : elsewhere).rest.get('/auth/me')));
    const limited = answers.filter((a) => a.status === 429);
    assert.ok(limited.length >= 10, `${limited.length} of 30 were limited`);
    assert.ok(answers.some((a) => a.status === 200));
    for (const answer of limited) assertLimited(answer);
    const other = await setup.client();
    dataOf(await other.rest.get('/auth/me'));
    await pause(1000 * Number(limited[0].headers['retry-after']));
    dataOf(await person.rest.get('/auth/me'));
  });

  test('events of one socket: twice the rate at once, then the rate', async () => {
    const person = await setup.client();
    const [socket, sibling] = [await person.connect(0), await person.connect(0)];
    const answers = await Promise.all(Array.from({ length: 30 }, () => socket.request('getOnlineUsers', {})));
    const good = answers.filter((a) => a.success).length;
    // 5 a second, 10 at once; the burst itself may take a moment.
    assert.ok(good >= 10 && good <= 16, `${good} of 30 were answered`);
    for (const answer of answers.filter((a) => !a.success)) assert.equal(answer.error.code, 'RATE_LIMITED');
    // Other sockets have their own allowance; this one's grows again.
    await sibling.ask('getOnlineUsers', {});
    for (let i = 0; i < 15; i++) socket.send('getOnlineUsers', {});
    const error = await socket.next('error');
    assert.deepEqual([error.error.code, error.event], ['RATE_LIMITED', 'getOnlineUsers']);
    await pause(1000);
    await socket.ask('getOnlineUsers', {});
    assert.deepEqual(socket.disconnects, []);
  });

  test('events of a plain socket', async () => {
    const person = await setup.client();
    const socket = await person.connectPlain(0);
    const answers = await Promise.all(Array.from({ length: 30 }, () => socket.request('getOnlineUsers', {})));
    assert.ok(answers.some((a) => a.success));
    assert.ok(answers.some((a) => a.error?.code === 'RATE_LIMITED'));
  });
}, { RATE_LIMIT_REQUESTS_PER_SECOND: '5', RATE_LIMIT_EVENTS_PER_SECOND: '5' });

describeOn(Single, (setup, test) => {
  test('connections of a node', async () => {
    const person = await setup.client();
    const attempts = await Promise.allSettled(Array.from({ length: 12 }, () => person.connectPlain(0)));
    const refused = attempts.filter((a) => a.status === 'rejected').length;
    assert.ok(refused >= 4, `${refused} of 12 were refused`);
    assert.ok(refused <= 11, 'some are let in');
    const { status } = await PlainClient.refusal(setup.url, { token: person.token });
    assert.ok([429, 503].includes(status), `answered ${status}`);
    // Stock clients try again by themselves, and get in.
    const client = await setup.keep(Promise.resolve(new Client(setup.url, { auth: { token: person.token } })));
    await client.reconnected(20_000);
  });
}, { RATE_LIMIT_CONNECTS_PER_SECOND: '2' });
