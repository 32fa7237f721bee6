// Requests that no route takes: unknown paths and methods, bodies that are no JSON, too large or of another type. They all
// get the same envelope. Details are shown in development only. Faults of single calls are with those calls' suites.

import assert from 'node:assert/strict';
import http from 'node:http';
import axios from 'axios';
import { assertError } from './harness/assertions.mjs';
import { describeOn, Single } from './harness/setups.mjs';

describeOn(Single, (setup, test) => {
  const call = (method, url, data, headers = {}) =>
    axios.request({
      ...{ method, url, data, headers, baseURL: setup.url, proxy: false, validateStatus: () => true, maxRedirects: 0 },
      // A connection each: a node may end one whose body it did not care to read.
      httpAgent: new http.Agent(),
      // Bodies go out as they are.
      transformRequest: (body) => body,
    });
  const JSON_TYPE = { 'Content-Type': 'application/json' };

  test('unknown paths', async () => {
    for (const path of ['/api', '/api/', '/api/nothing', '/api/auth', '/api/chat/conversations/1/nothing', '/nothing']) {
      assertError(await call('GET', path), 404, 'NOT_FOUND');
      assertError(await call('POST', path, '{}', JSON_TYPE), 404, 'NOT_FOUND');
    }
  });

  test('methods that a path does not know', async () => {
    const put = await call('PUT', '/api/chat/conversations', '{}', JSON_TYPE);
    assertError(put, 405, 'METHOD_NOT_ALLOWED');
    assert.match(put.headers.allow, /GET/);
    assert.match(put.headers.allow, /POST/);
    assertError(await call('GET', '/api/auth/login'), 405, 'METHOD_NOT_ALLOWED');
    assertError(await call('DELETE', '/api/auth/me'), 405, 'METHOD_NOT_ALLOWED');
    assertError(await call('PATCH', '/api/chat/online'), 405, 'METHOD_NOT_ALLOWED');
  });

  test('bodies that are no JSON object', async () => {
    for (const body of ['', '{', '{"email":}', 'null', '[]', '"x"', '17', '{"email":"a@b.c"}{}', '\xff\xfe', '[['.repeat(50_000)]) {
      assertError(await call('POST', '/api/auth/login', body, JSON_TYPE), 400, 'VALIDATION_ERROR');
    }
    const notUtf8 = Buffer.concat([Buffer.from('{"email":"'), Buffer.from([0xc3, 0x28]), Buffer.from('","password":"x"}')]);
    assertError(await call('POST', '/api/auth/login', notUtf8, JSON_TYPE), 400, 'VALIDATION_ERROR');
  });

  test('bodies of another type', async () => {
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', 'nonsense']) {
      const answer = await call('POST', '/api/auth/login', '{"email":"a@b.c","password":"12345678"}', { 'Content-Type': type });
      assertError(answer, 415, 'UNSUPPORTED_MEDIA_TYPE');
    }
    const withCharset = { 'Content-Type': 'application/json; charset=utf-8' };
    const answer = await call('POST', '/api/auth/login', '{"email":"a@b.c","password":"12345678"}', withCharset);
    assertError(answer, 401, 'INVALID_CREDENTIALS');
  });

  test('a body may have 256 KiB', async () => {
    const body = (bytes) => JSON.stringify({ email: 'a@b.c', password: '12345678', more: '' }).replace('""', `"${'x'.repeat(bytes)}"`);
    const frame = body(0).length;
    const fits = await call('POST', '/api/auth/login', body(256 * 1024 - frame), JSON_TYPE);
    assertError(fits, 401, 'INVALID_CREDENTIALS');
    assertError(await call('POST', '/api/auth/login', body(256 * 1024 - frame + 1), JSON_TYPE), 413, 'PAYLOAD_TOO_LARGE');
    // Without a length given, too.
    async function* chunks() {
      for (let i = 0; i < 40; i++) yield Buffer.alloc(8 * 1024, 0x20);
    }
    const streamed = await fetch(`${setup.url}/api/auth/login`, { method: 'POST', headers: JSON_TYPE, body: chunks(), duplex: 'half' });
    assert.equal(streamed.status, 413);
    assert.equal((await streamed.json()).error.code, 'PAYLOAD_TOO_LARGE');
  });
});
