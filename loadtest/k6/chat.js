// People who chat: half of them over plain WebSockets, half over Socket.IO, while others log in and read. See README.md.

import exec from 'k6/execution';
import { Counter, Trend } from 'k6/metrics';
import { PEOPLE, SESSION_MS, THINK_MS } from './lib/profiles.js';
import { logIn, newClient, readHistory } from './lib/rest.js';
import * as sockets from './lib/sockets.js';

export { options } from './lib/profiles.js';

/** From sending a message to its acknowledgement, and to its arrival at another socket. */
const ackMs = new Trend('chat_ack_ms', true);
const deliveryMs = new Trend('chat_delivery_ms', true);
/** From opening a socket to being let in. */
const connectMs = new Trend('chat_connect_ms', true);
const acknowledged = new Counter('chat_acknowledged');
/** Sockets that were not let in or ended by themselves, and messages that were answered with an error. */
const refused = new Counter('chat_refused');
/** Acknowledged, and not heard by the other socket by the end of the session. */
const lost = new Counter('chat_lost');
/** Heard out of its place in the conversation, twice, or after a gap. */
const outOfOrder = new Counter('chat_out_of_order');

/** How long after the last message the other socket may hear it. */
const LAST_CALL_MS = 3000;

/** Makes the people. An agent must be there: ADMIN_EMAIL, ADMIN_PASSWORD. */
export function setup() {
  const admin = logIn(__ENV.ADMIN_EMAIL, __ENV.ADMIN_PASSWORD);
  if (!admin) throw new Error('ADMIN_EMAIL and ADMIN_PASSWORD name an agency account: gateway create-admin makes one');
  const run = `k6-${Date.now().toString(36)}`;
  return { people: Array.from({ length: PEOPLE }, (_, i) => newClient(`${run}-${i}`, admin.user.id)) };
}

export function login({ people }) {
  const { email, password } = somebody(people);
  logIn(email, password);
}

export function history({ people }) {
  readHistory(somebody(people));
}

export function plain({ people }) {
  converse(sockets.plain, somebody(people));
}

export function socketIo({ people }) {
  converse(sockets.socketIo, somebody(people));
}

/** One user with two tabs: what one writes, the other must hear. Ends when both are closed. */
function converse({ kind, open }, { token, conversationId }) {
  const sent = new Map();
  const heard = new Set();
  const tabs = [];
  let [ready, ends, lastSeq, writing] = [0, false, undefined, undefined];
  const began = Date.now();

  const finish = () => {
    if (ends) return;
    ends = true;
    clearInterval(writing);
    for (const tab of tabs) tab.close();
  };
  const broken = (error) => {
    if (ends) return;
    refused.add(1, { kind });
    console.warn(`${kind}: ended: ${error ?? 'closed by the server'}`);
    finish();
  };
  const whenReady = () => {
    connectMs.add(Date.now() - began, { kind });
    if (++ready < 2) return;
    writing = setInterval(write, THINK_MS);
    setTimeout(() => {
      clearInterval(writing);
      setTimeout(() => {
        if (!ends) for (const [id, { isAcknowledged }] of sent) if (isAcknowledged && !heard.has(id)) lost.add(1, { kind });
        finish();
      }, isAllHeard() ? 0 : LAST_CALL_MS);
    }, SESSION_MS);
  };
  const isAllHeard = () => [...sent].every(([id, { isAcknowledged }]) => isAcknowledged && heard.has(id));
  const write = () => {
    const clientMessageId = `${exec.vu.idInTest}-${exec.vu.iterationInInstance}-${sent.size}-${began}`;
    const message = { at: Date.now(), isAcknowledged: false };
    sent.set(clientMessageId, message);
    tabs[0].ask('chatMessage', { conversationId, message: `message ${sent.size} of a load test`, clientMessageId }, (answer) => {
      if (!answer.success) return refused.add(1, { kind });
      message.isAcknowledged = true;
      ackMs.add(Date.now() - message.at, { kind });
      acknowledged.add(1, { kind });
    });
  };
  const hear = (event, data) => {
    if (event !== 'chatMessage' || data.conversationId !== conversationId) return;
    if (lastSeq !== undefined && data.seq !== lastSeq + 1) outOfOrder.add(1, { kind });
    lastSeq = data.seq;
    const message = sent.get(data.clientMessageId);
    if (!message) return;
    heard.add(data.clientMessageId);
    deliveryMs.add(Date.now() - message.at, { kind });
  };

  tabs.push(open(token, { onReady: whenReady, onEvent: () => {}, onEnd: broken }));
  tabs.push(open(token, { onReady: whenReady, onEvent: hear, onEnd: broken }));
}

function somebody(people) {
  return people[(exec.vu.idInTest + exec.vu.iterationInInstance) % people.length];
}
