// Sockets live as long as their tokens: the warning before the end, the end, renewing by `authenticate`. Tokens are written
// here with a short life. Logging out is in auth.test.mjs.

import assert from 'node:assert/strict';
import { describe } from 'node:test';
import { assertTime } from './harness/assertions.mjs';
import { pause } from './harness/processes.mjs';
import { onBothSetups } from './harness/setups.mjs';
import { Client, PlainClient } from './harness/sockets.mjs';
import { claimsOf, mintToken } from './harness/tokens.mjs';

onBothSetups((setup, test) => {
  const expiryOf = (token) => new Date(claimsOf(token).exp * 1000).toISOString();
  const connectWith = (token, options) =>
    setup.keep(Client.connect(setup.socketUrl(0), { auth: { token }, reconnection: false, ...options }));

  describe('side by side', { concurrency: true }, () => {
    test('a minute before its token ends a socket is told', async () => {
      const { user } = await setup.client();
      const token = mintToken(user, 64);
      const socket = await connectWith(token);
      const told = await socket.nextEntry('tokenExpiring');
      assert.deepEqual(told.data, { expiresAt: expiryOf(token) });
      const before = claimsOf(token).exp * 1000 - told.at;
      assert.ok(before > 50_000 && before <= 61_500, `told ${before} ms before`);
    });

    test('a socket is closed when its token has ended, within five seconds', async () => {
      const { user } = await setup.client();
      const token = mintToken(user, 4);
      const socket = await connectWith(token);
      // It is inside its last minute already.
      assert.deepEqual(await socket.next('tokenExpiring'), { expiresAt: expiryOf(token) });
      const { at } = await socket.disconnected(12_000);
      const after = at - claimsOf(token).exp * 1000;
      assert.ok(after >= -500 && after <= 5_500, `closed ${after} ms after the end`);
      const refusal = await Client.refusal(setup.socketUrl(0), { auth: { token } });
      assert.equal(refusal.data.code, 'TOKEN_EXPIRED');
    });

    test('a plain socket is closed with 4401', async () => {
      const { user } = await setup.client();
      const token = mintToken(user, 3);
      const socket = await setup.keep(PlainClient.connect(setup.socketUrl(0), { token }));
      assert.deepEqual(await socket.next('tokenExpiring'), { expiresAt: expiryOf(token) });
      assert.equal((await socket.whenClosed(12_000)).code, 4401);
    });

    test('a fresh token keeps the socket', async () => {
      const person = await setup.client();
      const token = mintToken(person.user, 4);
      const socket = await connectWith(token);
      assert.deepEqual(await socket.ask('authenticate', { token: person.token }), { expiresAt: expiryOf(person.token) });
      // Past the old token's end and the five seconds of closing: nothing announces that nothing happens.
      await pause(claimsOf(token).exp * 1000 + 5_500 - Date.now());
      assert.deepEqual(socket.disconnects, []);
      await socket.ask('getOnlineUsers', {});
    });

    test('only a token that is good, and the same person\'s, renews', async () => {
      const [person, other] = [await setup.client(), await setup.client()];
      const socket = await person.connect(1);
      const renew = (token) => socket.refused('authenticate', { token });
      assert.equal(await renew(other.token), 'FORBIDDEN');
      assert.equal(await renew('nonsense'), 'INVALID_TOKEN');
      assert.equal(await renew(mintToken(person.user, -1)), 'TOKEN_EXPIRED');
      assert.ok(['MISSING_TOKEN', 'VALIDATION_ERROR'].includes(await socket.refused('authenticate', {})));
      assert.equal((await socket.request('authenticate', { token: 5 })).success, false);
      // None of this ended it, or changed whose it is.
      const { expiresAt } = await socket.ask('authenticate', { token: person.token });
      assertTime(expiresAt);
    });
  });
});
