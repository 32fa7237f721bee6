// REST calls: accounts, conversations, history.

import http from 'k6/http';
import { check } from 'k6';
import { BASE_URL } from './profiles.js';

/** Makes a client's account and its conversation: `{token, email, password, conversationId}`. */
export function newClient(name, agencyId) {
  const [email, password] = [`${name}@example.com`, `password of ${name}`];
  const { token } = data(post('/auth/register', { email, password, firstName: 'Load', lastName: name }, undefined, 'register'), 201);
  const conversation = data(post('/chat/conversations', { agencyId }, token, 'converse'), 201);
  return { token, email, password, conversationId: conversation.id };
}

/** Logs in: `{token, user}`, or undefined where that was refused. */
export function logIn(email, password) {
  const answer = post('/auth/login', { email, password }, undefined, 'login');
  return check(answer, { 'login: 200': ({ status }) => status === 200 }) ? answer.json('data') : undefined;
}

/** What a client's page reads when it is opened: its conversations, the latest messages, and a page before those. */
export function readHistory({ token, conversationId }) {
  const conversations = get('/chat/conversations', token);
  check(conversations, { 'conversations: 200': ({ status }) => status === 200 });
  const latest = get(`/chat/conversations/${conversationId}/messages?limit=50`, token);
  if (!check(latest, { 'messages: 200': ({ status }) => status === 200 })) return;
  const { messages, hasMore } = latest.json('data');
  check(messages, { 'messages: in order, without gaps': (list) => list.every(({ seq }, i) => i === 0 || seq === list[i - 1].seq + 1) });
  if (!hasMore) return;
  const before = get(`/chat/conversations/${conversationId}/messages?limit=50&beforeSeq=${messages[0].seq}`, token);
  check(before, { 'page before: up to the page after': (answer) => answer.json('data.messages').pop()?.seq === messages[0].seq - 1 });
}

function get(path, token) {
  return http.get(`${BASE_URL}/api${path}`, { headers: { Authorization: `Bearer ${token}` }, tags: { call: 'history', name: 'history' } });
}

function post(path, body, token, call) {
  const headers = { 'Content-Type': 'application/json' };
  if (token) headers.Authorization = `Bearer ${token}`;
  return http.post(`${BASE_URL}/api${path}`, JSON.stringify(body), { headers, tags: { call, name: call } });
}

function data(answer, status) {
  if (answer.status !== status) throw new Error(`${answer.request.method} ${answer.url}: ${answer.status} ${answer.body}`);
  return answer.json('data');
}
