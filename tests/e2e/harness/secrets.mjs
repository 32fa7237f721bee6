// What a test said in confidence: passwords, tokens, message texts. No log may show any of it.

import assert from 'node:assert/strict';

const secrets = new Set();

/** Notes a secret, and returns it. */
export function secret(text) {
  secrets.add(text);
  return text;
}

/** A message's text that is like no other, noted as a secret. */
export function words(text = 'hello') {
  return secret(`${text} ${unique()}`);
}

/** A short string that is like no other. */
export function unique() {
  return Math.random().toString(36).slice(2, 12).padEnd(10, '0');
}

/** Fails where a log shows a secret, or tells of a panic. */
export function assertDiscreet(log) {
  for (const text of secrets) {
    assert.ok(!log.includes(text), `the log shows a secret: ${excerpt(log, text)}`);
  }
  assert.doesNotMatch(log, /panicked at/, 'the log tells of a panic');
}

function excerpt(log, text) {
  const at = log.indexOf(text);
  return log.slice(Math.max(0, at - 200), at + 40);
}
