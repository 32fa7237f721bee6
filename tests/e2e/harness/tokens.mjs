// Access tokens written by hand, as another program that knows the secret would write them.

import { createHmac } from 'node:crypto';
import { JWT_SECRET } from './gateway.mjs';
import { secret } from './secrets.mjs';

/** A token of `user` that is good for `seconds` from now (negative: that ended so long ago). */
export function mintToken(user, seconds, { key = JWT_SECRET, alg = 'HS256', claims = {} } = {}) {
  const now = Math.floor(Date.now() / 1000);
  const iat = Math.min(now, now + seconds - 1);
  const payload = { id: user.id, email: user.email, role: user.role, iat, exp: now + seconds, ...claims };
  return signToken({ alg, typ: 'JWT' }, payload, key);
}

/** Any header and payload, signed with `key`. */
export function signToken(header, payload, key = JWT_SECRET) {
  const signed = [header, payload].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  const signature = header.alg === 'none' ? '' : createHmac('sha256', key).update(signed).digest('base64url');
  return secret(`${signed}.${signature}`);
}

/** What a token says, unverified. */
export function claimsOf(token) {
  return JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
}
