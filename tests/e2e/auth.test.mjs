// Accounts and sessions over REST: registering, logging in, refreshing, logging out, passwords, profiles. What sockets make
// of tokens is in tokens.test.mjs; limits on logins are in limits.test.mjs.

import assert from 'node:assert/strict';
import { assertError, assertNoContent, assertUserShape, dataOf } from './harness/assertions.mjs';
import { logIn, refreshCookie, restClient } from './harness/people.mjs';
import { eventually, pause } from './harness/processes.mjs';
import { secret, unique } from './harness/secrets.mjs';
import { onBothSetups } from './harness/setups.mjs';
import { Client } from './harness/sockets.mjs';
import { claimsOf, mintToken, signToken } from './harness/tokens.mjs';

onBothSetups((setup, test) => {
  const anyone = () => restClient(setup.url);
  const registration = (fields) => ({
    email: `person-${unique()}@example.com`,
    password: secret(`pass-${unique()}`),
    firstName: 'Rita',
    lastName: 'Registered',
    ...fields,
  });

  test('registering makes a client, whatever role is asked for', async () => {
    const body = registration({ company: 'Acme', phone: '+49 30 1', country: 'Germany', role: 'admin' });
    const answer = await anyone().post('/auth/register', body);
    const { token, expiresIn, user } = dataOf(answer, 201);
    assert.equal(expiresIn, 3600);
    assertUserShape(user);
    assert.equal(user.email, body.email);
    assert.equal(user.role, 'user');
    assert.equal(user.company, 'Acme');
    assert.equal(user.profilePicture, null);
    assert.equal(user.isOnboardingCompleted, false);
    const claims = claimsOf(secret(token));
    assert.equal(claims.id, user.id);
    assert.equal(claims.email, user.email);
    assert.equal(claims.role, 'user');
    assert.equal(claims.exp - claims.iat, 3600);
    assert.ok(claims.sid, 'our tokens name their session');
  });

  test('a registration that can not be is refused', async () => {
    const refused = async (fields) => assertError(await anyone().post('/auth/register', registration(fields)), 400, 'VALIDATION_ERROR');
    await refused({ email: undefined });
    await refused({ email: 'no address' });
    await refused({ email: 17 });
    await refused({ password: 'seven77' });
    await refused({ password: 'x'.repeat(73) });
    // 37 characters, 74 bytes: bcrypt would cut it.
    await refused({ password: 'é'.repeat(37) });
    await refused({ firstName: undefined });
    await refused({ lastName: null });
    await refused({ refreshIn: 'header' });
  });

  test('a password may have 8 characters and 72 bytes', async () => {
    for (const password of ['ünïcödé8', 'x'.repeat(72)]) {
      const body = registration({ password: secret(password) });
      dataOf(await anyone().post('/auth/register', body), 201);
      await logIn(setup, body.email, password);
    }
  });

  test('an address is taken once, without regard to case', async () => {
    const body = registration();
    dataOf(await anyone().post('/auth/register', body), 201);
    assertError(await anyone().post('/auth/register', registration({ email: body.email.toUpperCase() })), 409, 'EMAIL_TAKEN');
  });

  test('of many registrations of one address at once, one succeeds', async () => {
    const body = registration();
    const answers = await Promise.all(Array.from({ length: 5 }, () => anyone().post('/auth/register', body)));
    assert.deepEqual(answers.map((a) => a.status).sort(), [201, 409, 409, 409, 409]);
  });

  test('an agent is made by the command only, once an address', async () => {
    const admin = await setup.admin('Ada', 'Agent');
    assert.equal(admin.user.role, 'admin');
    assert.equal(admin.user.firstName, 'Ada');
    assertError(await anyone().post('/auth/register', registration({ email: admin.user.email })), 409, 'EMAIL_TAKEN');
  });

  test('login: the address without case, the password with', async () => {
    const person = await setup.client();
    const { email } = person.user;
    const { user, expiresIn } = dataOf(await anyone().post('/auth/login', { email: email.toUpperCase(), password: person.password }));
    assert.equal(user.id, person.id);
    assert.equal(expiresIn, 3600);
    assertUserShape(user);
    const refused = async (body) => assertError(await anyone().post('/auth/login', body), 401, 'INVALID_CREDENTIALS');
    await refused({ email, password: person.password.toUpperCase() });
    await refused({ email, password: `${person.password} ` });
    await refused({ email: `nobody-${unique()}@example.com`, password: person.password });
    // Longer than bcrypt reads: must not be cut to something right.
    await refused({ email, password: person.password.padEnd(100, 'x') });
    assertError(await anyone().post('/auth/login', { email }), 400, 'VALIDATION_ERROR');
    assertError(await anyone().post('/auth/login', { email, password: 12345678 }), 400, 'VALIDATION_ERROR');
  });

  test('the refresh token is a cookie that scripts and other sites do not get', async () => {
    const person = await setup.client();
    const answer = await anyone().post('/auth/login', { email: person.user.email, password: person.password });
    const { value, attributes } = refreshCookie(answer);
    assert.ok(value.length >= 32);
    for (const attribute of ['httponly', 'samesite=strict', 'path=/api/auth', 'secure']) {
      assert.ok(attributes.includes(attribute), `${attribute} in ${attributes}`);
    }
    assert.equal(dataOf(answer).refreshToken ?? null, null, 'not in the body too');
  });

  const refreshBy = (value) => anyone().post('/auth/refresh', undefined, { headers: { Cookie: `refresh_token=${value}` } });

  test('refreshing by cookie rotates it', async () => {
    const person = await setup.client();
    const login = await anyone().post('/auth/login', { email: person.user.email, password: person.password });
    const first = refreshCookie(login).value;
    const answer = await refreshBy(first);
    const { token, expiresIn } = dataOf(answer);
    assert.equal(expiresIn, 3600);
    const second = refreshCookie(answer).value;
    assert.notEqual(second, first);
    assert.equal(dataOf(await restClient(setup.url, secret(token)).get('/auth/me')).user.id, person.id);
    // Its session is that of the login.
    assert.equal(claimsOf(token).sid, claimsOf(dataOf(login).token).sid);
    dataOf(await refreshBy(second));
  });

  test('a spent refresh token is good for another tab for a moment', async () => {
    const person = await setup.client();
    const first = refreshCookie(await anyone().post('/auth/login', { email: person.user.email, password: person.password })).value;
    const answers = await Promise.all([refreshBy(first), refreshBy(first), refreshBy(first)]);
    for (const answer of answers) secret(dataOf(answer).token);
    const cookies = answers.map(refreshCookie).filter(Boolean);
    assert.equal(cookies.length, 1, 'one of the tabs gets the new cookie');
    dataOf(await refreshBy(cookies[0].value));
  });

  test('a spent refresh token shown later ends its whole family', { timeout: 30_000 }, async () => {
    const person = await setup.client();
    const login = await anyone().post('/auth/login', { email: person.user.email, password: person.password });
    const first = refreshCookie(login).value;
    const second = refreshCookie(await refreshBy(first)).value;
    const options = { auth: { token: secret(dataOf(login).token) }, reconnection: false };
    const socket = await setup.keep(Client.connect(setup.socketUrl(1), options));
    // The grace is ten seconds by the contract: nothing announces its end.
    await pause(11_000);
    assertError(await refreshBy(first), 401, 'INVALID_TOKEN');
    assertError(await refreshBy(second), 401, 'INVALID_TOKEN');
    await socket.disconnected();
    // Another session of the same person goes on.
    dataOf(await person.rest.get('/auth/me'));
  });

  test('where login asked for it, the refresh token travels in bodies', async () => {
    const body = registration({ refreshIn: 'body' });
    const registered = await anyone().post('/auth/register', body);
    assert.equal(refreshCookie(registered), undefined);
    const { refreshToken } = dataOf(registered, 201);
    const login = await anyone().post('/auth/login', { email: body.email, password: body.password, refreshIn: 'body' });
    assert.equal(refreshCookie(login), undefined);
    assert.notEqual(secret(dataOf(login).refreshToken), secret(refreshToken));
    const refreshed = await anyone().post('/auth/refresh', { refreshToken });
    assert.equal(refreshCookie(refreshed), undefined);
    const next = secret(dataOf(refreshed).refreshToken);
    assert.notEqual(next, refreshToken);
    const again = dataOf(await anyone().post('/auth/refresh', { refreshToken }));
    assert.equal(again.refreshToken ?? null, null, 'a second tab gets no refresh token');
    dataOf(await anyone().post('/auth/refresh', { refreshToken: next }));
  });

  test('refreshing without a token, or with none of ours', async () => {
    assertError(await anyone().post('/auth/refresh'), 401, 'MISSING_TOKEN');
    assertError(await anyone().post('/auth/refresh', {}), 401, 'MISSING_TOKEN');
    assertError(await anyone().post('/auth/refresh', { refreshToken: 'x'.repeat(43) }), 401, 'INVALID_TOKEN');
    assertError(await refreshBy('nonsense'), 401, 'INVALID_TOKEN');
  });

  test('access tokens: whose key, until when', async () => {
    const { user, rest } = await setup.client();
    const me = (token) => restClient(setup.url, token).get('/auth/me');
    assertError(await anyone().get('/auth/me'), 401, 'MISSING_TOKEN');
    assertError(await me('nonsense'), 401, 'INVALID_TOKEN');
    assertError(await me(mintToken(user, 60, { key: 'another-key-of-more-than-thirty-two-bytes' })), 401, 'INVALID_TOKEN');
    const now = Math.floor(Date.now() / 1000);
    const claims = { id: user.id, email: user.email, role: user.role, iat: now, exp: now + 60 };
    assertError(await me(signToken({ alg: 'none', typ: 'JWT' }, claims)), 401, 'INVALID_TOKEN');
    assertError(await me(signToken({ alg: 'HS256', typ: 'JWT' }, { ...claims, exp: undefined })), 401, 'INVALID_TOKEN');
    assertError(await me(mintToken(user, -1)), 401, 'TOKEN_EXPIRED');
    // A token without `sid`, as the old system wrote them, is as good.
    assert.equal(dataOf(await me(mintToken(user, 60))).user.id, user.id);
    assert.equal((await rest.get('/auth/me', { headers: { Authorization: 'Basic dTpw' } })).status, 401);
    // Never from the URL.
    assertError(await anyone().get('/auth/me', { params: { token: mintToken(user, 60) } }), 401, 'MISSING_TOKEN');
  });

  test('logging out ends the session: its refresh family, its tokens, its sockets on every node', async () => {
    const person = await setup.client();
    const login = await anyone().post('/auth/login', { email: person.user.email, password: person.password });
    const token = secret(dataOf(login).token);
    const cookie = refreshCookie(login).value;
    const sockets = [];
    for (const node of [0, 1]) {
      const options = { auth: { token }, reconnection: false };
      sockets.push(await setup.keep(Client.connect(setup.socketUrl(node), options)));
    }
    const other = await person.connect(0);
    const rest = restClient(setup.url, token);
    assertNoContent(await rest.post('/auth/logout'));
    for (const socket of sockets) await socket.disconnected();
    assertError(await refreshBy(cookie), 401, 'INVALID_TOKEN');
    // Twice, so that in a cluster both nodes are asked.
    for (let i = 0; i < 2; i++) {
      await eventually('the token is refused', async () => (await rest.get('/auth/me')).status === 401);
      assertError(await rest.get('/auth/me'), 401, 'INVALID_TOKEN');
    }
    assert.equal((await Client.refusal(setup.socketUrl(1), { auth: { token } })).data.code, 'INVALID_TOKEN');
    // The person's other session lives.
    await other.ask('getOnlineUsers', {});
    dataOf(await person.rest.get('/auth/me'));
  });

  test('logging out needs a token', async () => {
    assertError(await anyone().post('/auth/logout'), 401, 'MISSING_TOKEN');
  });

  test('a token without a session can be logged out too', async () => {
    const person = await setup.client();
    const token = mintToken(person.user, 600);
    const rest = restClient(setup.url, token);
    assertNoContent(await rest.post('/auth/logout'));
    assertError(await rest.get('/auth/me'), 401, 'INVALID_TOKEN');
    dataOf(await person.rest.get('/auth/me'));
  });

  test('a new password ends every other session', async () => {
    const person = await setup.client();
    const elsewhere = await person.again();
    const socketElsewhere = await elsewhere.connect(1, { reconnection: false });
    const socketHere = await person.connect(0);
    const newPassword = secret(`new-pass-${unique()}`);
    const change = (body) => person.rest.post('/auth/password', body);
    assertError(await change({ currentPassword: 'not this one', newPassword }), 401, 'INVALID_CREDENTIALS');
    assertError(await change({ currentPassword: person.password, newPassword: 'short' }), 400, 'VALIDATION_ERROR');
    assertError(await change({ newPassword }), 400, 'VALIDATION_ERROR');
    assertNoContent(await change({ currentPassword: person.password, newPassword }));
    await socketElsewhere.disconnected();
    await eventually('the other token is refused', async () => (await elsewhere.rest.get('/auth/me')).status === 401);
    dataOf(await person.rest.get('/auth/me'));
    await socketHere.ask('getOnlineUsers', {});
    assertError(await anyone().post('/auth/login', { email: person.user.email, password: person.password }), 401, 'INVALID_CREDENTIALS');
    await logIn(setup, person.user.email, newPassword);
  });

  test('a profile is shown and changed', async () => {
    const { rest, user } = await setup.client({ company: 'Before' });
    const me = dataOf(await rest.get('/auth/me')).user;
    assert.deepEqual(me, { ...user, updatedAt: me.updatedAt });
    const change = {
      ...{ firstName: 'Zoë', lastName: "O'Hara <b>", company: null, phone: '+1', profilePicture: 'https://example.com/z.png' },
      isOnboardingCompleted: true,
    };
    const changed = dataOf(await rest.patch('/auth/me', change)).user;
    for (const [key, value] of Object.entries(change)) assert.deepEqual(changed[key], value, key);
    assert.deepEqual(dataOf(await rest.get('/auth/me')).user, changed);
    // One field leaves the others alone.
    const once = dataOf(await rest.patch('/auth/me', { phone: '+2' })).user;
    assert.equal(once.firstName, 'Zoë');
    assertError(await rest.patch('/auth/me', { isOnboardingCompleted: 'yes' }), 400, 'VALIDATION_ERROR');
    assertError(await rest.patch('/auth/me', { firstName: 'x'.repeat(256) }), 400, 'VALIDATION_ERROR');
    assertError(await anyone().patch('/auth/me', change), 401, 'MISSING_TOKEN');
  });

  test('nobody makes themselves an agent, or somebody else', async () => {
    const { rest, user } = await setup.client();
    // Whether what can't be changed is refused or passed over, it does not change.
    await rest.patch('/auth/me', { role: 'admin', id: 1, email: 'other@example.com', password: 'x'.repeat(20) });
    const me = dataOf(await rest.get('/auth/me')).user;
    assert.deepEqual([me.role, me.id, me.email], ['user', user.id, user.email]);
  });
});
