// Rotating the signing secret of a fleet, as `gateway rotate-secret` says: node by node, under people who chat. Nobody is
// logged out: every token is good at every node at every moment, refresh tokens go on, sockets come back by themselves.

import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { dataOf } from './harness/assertions.mjs';
import { Gateway, JWT_SECRET, runGateway } from './harness/gateway.mjs';
import { restClient } from './harness/people.mjs';
import { temporaryFolder } from './harness/processes.mjs';
import { secret, words } from './harness/secrets.mjs';
import { Cluster, describeOn } from './harness/setups.mjs';
import { Client } from './harness/sockets.mjs';

describeOn(Cluster, (setup, test) => {
  test('two nodes, one after the other, three steps, and nobody is logged out', { timeout: 180_000 }, async () => {
    const agent = await setup.admin();
    const client = await setup.client();
    const { id } = await client.converse(agent);
    const people = [];
    for (const person of [agent, client]) {
      const login = { email: person.user.email, password: person.password, refreshIn: 'body' };
      const { token, refreshToken } = dataOf(await restClient(setup.nodes[people.length].url).post('/auth/login', login));
      const socket = await setup.keep(Client.connect(setup.url, { auth: { token: secret(token) }, withCredentials: true, reconnectionDelay: 200 }));
      const refusals = [];
      socket.socket.on('connect_error', (error) => error.data && refusals.push(error.data));
      people.push({ ...login, refreshToken: secret(refreshToken), tokens: [token], socket, refusals });
    }

    let settings = { JWT_SECRET };
    const step = async (...args) => {
      const file = path.join(temporaryFolder(), 'step.env');
      const { code, output } = await runGateway(['rotate-secret', ...args, '--out', file], settings);
      assert.equal(code, 0, output);
      assert.equal(statSync(file).mode & 0o777, 0o600);
      settings = Object.fromEntries(readFileSync(file, 'utf8').trim().split('\n').map((line) => line.split(/=(.*)/).slice(0, 2)));
      for (const one of Object.values(settings).flatMap((value) => value.split(','))) {
        if (one) assert.ok(!output.includes(secret(one)), 'no secret is said');
      }
      for (let at = 0; at < setup.nodes.length; at++) {
        const { METRICS_ADDR, ...env } = setup.nodes[at].env;
        assert.equal((await setup.nodes[at].stop()).code, 0);
        setup.nodes[at] = await Gateway.start({ ...env, ...settings });
        await everybodyIsHere();
      }
      return output;
    };
    const everybodyIsHere = async () => {
      for (const person of people) {
        for (const node of setup.nodes) {
          // A new token of this node's, by the refresh token that is handed on from step to step.
          const refreshed = dataOf(await restClient(node.url).post('/auth/refresh', { refreshToken: person.refreshToken }));
          person.refreshToken = secret(refreshed.refreshToken);
          person.tokens.push(secret(refreshed.token));
        }
        for (const node of setup.nodes) {
          for (const token of person.tokens) {
            assert.equal((await restClient(node.url, token).get('/auth/me')).status, 200);
          }
        }
        await person.socket.reconnected(15_000);
        assert.deepEqual(person.refusals, []);
      }
      const [to, from] = people;
      const sent = await from.socket.ask('chatMessage', { conversationId: id, message: words() });
      assert.deepEqual(await to.socket.next('chatMessage', (message) => message.id === sent.id), sent);
    };
    const kidOf = (token) => JSON.parse(Buffer.from(token.split('.')[0], 'base64url')).kid;
    const told = (output, word) => new RegExp(`${word} (\\S+)`).exec(output)[1];

    const old = kidOf(people[0].tokens[0]);
    const next = told(await step('begin'), 'switch --to');
    for (const { tokens } of people) assert.ok(tokens.every((token) => kidOf(token) === old), 'the new secret does not sign yet');
    assert.equal(told(await step('switch', '--to', next), 'finish --drop'), old);
    for (const person of people) {
      assert.equal(kidOf(person.tokens.at(-1)), next);
      // An hour on, tokens of the old secret have ended, and everybody has refreshed, as the warning before the end tells sockets.
      person.retired = person.tokens.filter((token) => kidOf(token) === old);
      person.tokens = person.tokens.filter((token) => kidOf(token) === next);
      await person.socket.ask('authenticate', { token: person.tokens[0] });
      person.socket.socket.auth = { token: person.tokens[0] };
    }
    await step('finish', '--drop', old);
    for (const node of setup.nodes) {
      for (const { retired } of people) assert.equal((await restClient(node.url, retired[0]).get('/auth/me')).status, 401);
    }
    // It comes back to the same settings from which the next rotation begins.
    assert.equal(settings.JWT_PREVIOUS_SECRETS, '');
    const { output } = await runGateway(['rotate-secret'], settings);
    assert.ok(output.includes(next) && !output.includes(old), output);
  });

  test('a step out of order is refused, and no file is written over', async () => {
    const other = await runGateway(['rotate-secret', 'switch', '--to', 'AAAAAAAA'], {});
    assert.ok(other.code > 0);
    assert.match(other.output, /JWT_PREVIOUS_SECRETS/);
    const out = path.join(temporaryFolder(), 'step.json');
    const begin = ['rotate-secret', 'begin', '--format', 'kubernetes', '--out', out];
    assert.equal((await runGateway(begin, {})).code, 0);
    const patch = JSON.parse(readFileSync(out, 'utf8'));
    assert.equal(patch.stringData.JWT_SECRET, JWT_SECRET);
    assert.ok(secret(patch.stringData.JWT_PREVIOUS_SECRETS).length >= 32);
    assert.ok((await runGateway(begin, {})).code > 0);
    assert.deepEqual(JSON.parse(readFileSync(out, 'utf8')), patch);
  });
});
