// What many suites assert: the shapes of answers.

import assert from 'node:assert/strict';

/** An error answer of REST with that status and code. */
export function assertError(answer, status, code) {
  assert.equal(answer.data?.error?.code, code, `answered ${answer.status} ${JSON.stringify(answer.data)}`);
  assert.equal(answer.status, status);
  assert.equal(answer.data.success, false);
  assert.equal(typeof answer.data.error.message, 'string');
  assert.ok(answer.data.error.message.length > 0);
  assert.ok(!('details' in answer.data.error), 'details are for development only');
  assert.match(answer.headers['content-type'], /^application\/json/);
}

/** A success of REST with that status; returns its data. */
export function dataOf(answer, status = 200) {
  assert.equal(answer.status, status, `answered ${answer.status} ${JSON.stringify(answer.data)}`);
  assert.equal(answer.data.success, true);
  assert.match(answer.headers['content-type'], /^application\/json/);
  return answer.data.data;
}

/** A 204 without a body. */
export function assertNoContent(answer) {
  assert.equal(answer.status, 204, `answered ${answer.status} ${JSON.stringify(answer.data)}`);
  assert.equal(answer.data, '');
}

/** A time as the wire shows it: UTC, milliseconds, Z. */
export function assertTime(value) {
  assert.match(value, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
}

/** A message has exactly the documented fields. */
export function assertMessageShape(message) {
  assert.deepEqual(Object.keys(message).sort(), MESSAGE_FIELDS);
  assertTime(message.createdAt);
}

/** A conversation has exactly the documented fields. */
export function assertConversationShape(conversation) {
  assert.deepEqual(Object.keys(conversation).sort(), CONVERSATION_FIELDS);
  assert.deepEqual(Object.keys(conversation.client).sort(), ['company', 'email', 'id', 'name', 'userId']);
  assert.deepEqual(Object.keys(conversation.agency).sort(), ['email', 'firstName', 'id', 'lastName']);
  assertTime(conversation.createdAt);
}

/** A user has exactly the documented fields: never the password. */
export function assertUserShape(user) {
  assert.deepEqual(Object.keys(user).sort(), USER_FIELDS);
  assertTime(user.createdAt);
}

const MESSAGE_FIELDS = [
  ...['clientMessageId', 'content', 'conversationId', 'createdAt', 'eventSeq', 'id', 'isRead', 'readAt', 'receiverId'],
  ...['senderId', 'senderType', 'seq', 'updatedAt'],
];

const CONVERSATION_FIELDS = [
  ...['agency', 'agencyId', 'client', 'clientId', 'createdAt', 'id', 'isActive', 'lastEventSeq', 'lastMessage'],
  ...['lastMessageTime', 'lastSeq', 'unreadCount', 'updatedAt'],
];

const USER_FIELDS = [
  ...['company', 'createdAt', 'email', 'firstName', 'id', 'isOnboardingCompleted', 'lastName', 'phone'],
  ...['profilePicture', 'role', 'updatedAt'],
];
