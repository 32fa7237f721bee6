// Readers that never read, in a room with heavy traffic: the node's memory stays within its bound, they are sent away, and
// the others hear as fast as without them. With and without are measured in turn in one run, so that what else the machine
// does is in both.

import { readFileSync } from 'node:fs';
import { eventually, pause, within } from '../e2e/harness/processes.mjs';
import { frame, RawConnection } from '../e2e/harness/raw.mjs';
import { Client, io } from '../e2e/harness/sockets.mjs';
import { mintToken } from '../e2e/harness/tokens.mjs';
import { Fleet } from './fleet.mjs';
import { quantile } from './ledger.mjs';
import { isMain, main, number } from './program.mjs';

/** How often messages are handed out. */
const TICK_MS = 10;

/** An empty pong, which anybody may send at any time (RFC 6455, 5.5.3): it finds out whether the other end is still there. */
const PONG = frame(0x8a, Buffer.alloc(0));

/** What the node may take besides the outboxes: allocators keep some, and more sockets are more of everything. */
const SLACK_MB = 8;

/** A character of four bytes: a message has a limit of characters, and these make the largest. */
const WIDE = '\u{1f600}';

/**
 * `readers` stock clients and `slow` that never read, in a room that hears `rate` messages a second of `bytes` bytes, which are at
 * most 19,000;
 * `rounds` times `seconds` without the slow ones and as long with them; `outboxBytes`: what may wait for each; `ratio`: by
 * how much the readers' p99 may be longer with them. Returns `{figures, faults}`.
 */
export async function slowReader({ readers, slow, rate, bytes, rounds, seconds, outboxBytes, ratio, say = () => {} }) {
  const fleet = await Fleet.start({ env: { OUTBOX_BYTES: String(outboxBytes) } });
  const sockets = [];
  const stuck = new Set();
  let flow;
  try {
    const [node] = fleet.nodes;
    const { agents, clients } = await fleet.populate({ agents: readers + slow, clients: 1 });
    const room = { conversationId: clients[0].conversationId };
    const latencies = { current: [] };
    let readersSentAway = 0;
    for (const person of agents.slice(0, readers)) {
      const socket = io(node.url, { forceNew: true, transports: ['websocket'], auth: { token: mintToken(person, 7200) } });
      sockets.push(socket);
      // One that is starved of the processor may itself be too slow: it comes back, and is told of below.
      socket.on('disconnect', (reason) => reason === 'io client disconnect' || readersSentAway++);
      const joined = new Promise((resolve) => {
        socket.on('connect', () => socket.emit('joinConversation', room, resolve));
      });
      const answer = await within(10_000, joined, () => 'a reader joins');
      if (!answer.success) throw new Error(`not joined: ${JSON.stringify(answer)}`);
      socket.on('chatMessage', ({ content }) => latencies.current.push(performance.now() - Number(content.slice(0, content.indexOf(' ')))));
    }
    // Staff: what a client writes, all staff would hear a second time as a notification.
    const writer = await Client.connect(node.url, { auth: { token: mintToken(agents[0], 7200) }, transports: ['websocket'] });
    sockets.push(writer.socket);
    // The node is warmed up before anything is compared.
    flow = startFlow(writer.socket, room, rate, bytes);
    await pause(Math.min(seconds, 5) * 1000);

    const samples = { without: [], with: [] };
    const p99s = { without: [], with: [] };
    const memory = { without: 0, with: 0 };
    let opened = 0;
    for (let turn = 0; turn < 2 * rounds; turn++) {
      const kind = turn % 2 ? 'with' : 'without';
      const slowOnes = kind === 'with' ? keepStuck(node, agents.slice(readers), room, stuck) : undefined;
      // Whatever the others did before this turn is over.
      await pause(500);
      latencies.current = [];
      const until = Date.now() + seconds * 1000;
      while (Date.now() < until) {
        memory[kind] = Math.max(memory[kind], residentKilobytes(node));
        await pause(200);
      }
      const heard = latencies.current.sort((a, b) => a - b);
      latencies.current = [];
      samples[kind] = samples[kind].concat(heard);
      p99s[kind].push(quantile(heard, 0.99));
      opened += (await slowOnes?.stop()) ?? 0;
      say(`${kind}: p99 ${quantile(heard, 0.99).toFixed(1)} ms of ${heard.length} samples, ${Math.round(memory[kind] / 1024)} MB at the most`);
    }
    const { sent, refusals } = await flow.stop();
    flow = undefined;
    const closings = await eventually('closings are counted', () => node.metric('chat_slow_socket_closings_total'), 2000).catch(() => 0);

    for (const list of [...Object.values(samples), ...Object.values(p99s)]) list.sort((a, b) => a - b);
    // The middle turn of each kind: a turn in which the machine did something else decides nothing.
    const p99 = { without: quantile(p99s.without, 0.5), with: quantile(p99s.with, 0.5) };
    const grown = (memory.with - memory.without) / 1024;
    const bound = (1.5 * slow * outboxBytes) / 2 ** 20 + SLACK_MB;
    const faults = [];
    const expected = (kind) => 0.5 * readers * rate * seconds * rounds <= samples[kind].length;
    if (!expected('with') || !expected('without')) faults.push('the readers did not hear what was sent: the machine is too slow for the rate');
    for (const [why, count] of refusals) faults.push(`${count} messages were not taken: ${why}`);
    if (closings < slow) faults.push(`only ${closings} slow sockets were sent away: the bound was not reached`);
    if (grown > bound) faults.push(`the node grew by ${grown.toFixed(1)} MB`);
    // Some milliseconds are nothing that anybody notices, whatever they are in proportion.
    if (p99.with > p99.without * ratio && p99.with > p99.without + 10 * ratio) faults.push('the other readers wait for the slow ones');
    if (/panicked at/.test(fleet.logs)) faults.push('a log tells of a panic');
    const figures = {
      'readers, slow readers': `${readers}, ${slow}`,
      'messages': `${sent}, of ${bytes} bytes, ${rate} a second`,
      'slow sockets opened': opened,
      'slow sockets sent away': closings,
      'other readers disconnected': readersSentAway,
      'memory at the most, without': `${(memory.without / 1024).toFixed(1)} MB`,
      'memory at the most, with': `${(memory.with / 1024).toFixed(1)} MB (bound: ${bound.toFixed(0)} MB more)`,
      'samples, without and with': `${samples.without.length}, ${samples.with.length}`,
      'p50, without and with': `${quantile(samples.without, 0.5).toFixed(1)} ms, ${quantile(samples.with, 0.5).toFixed(1)} ms`,
      'p99 of all, without and with': `${quantile(samples.without, 0.99).toFixed(1)} ms, ${quantile(samples.with, 0.99).toFixed(1)} ms`,
      'p99 of the middle turn, without and with': `${p99.without.toFixed(1)} ms, ${p99.with.toFixed(1)} ms`,
      'ratio of the latter': (p99.with / p99.without).toFixed(2),
    };
    return { figures, faults };
  } finally {
    await flow?.stop();
    for (const socket of sockets) socket.disconnect();
    for (const connection of stuck) connection.close();
    await fleet.stop();
  }
}

/** A steady flow of messages that say when they were sent; `stop` ends it: `{sent, refusals}`, the latter by reason. */
function startFlow(socket, room, rate, bytes) {
  const begun = performance.now();
  let [sent, pending] = [0, 0];
  const refusals = new Map();
  const refused = (why, count = 1) => refusals.set(why, (refusals.get(why) ?? 0) + count);
  const timer = setInterval(() => {
    const now = performance.now();
    for (const due = ((now - begun) * rate) / 1000; sent < due; sent++) {
      const message = `${performance.now()} `.padEnd(20) + WIDE.repeat((bytes - 20) / 4);
      pending++;
      socket.timeout(10_000).emit('chatMessage', { ...room, message }, (error, answer) => {
        pending--;
        if (error || !answer.success) refused(error?.message ?? answer.error.code);
      });
    }
  }, TICK_MS);
  const stop = async () => {
    clearInterval(timer);
    await eventually('all messages are answered', () => pending === 0, 12_000).catch(() => refused('no answer', pending));
    return { sent, refusals };
  };
  return { stop };
}

/**
 * Keeps a slow reader for each of these people, over Socket.IO and plain WebSockets in turn: who was sent away comes back
 * and does not read again. `stop` ends them all, and tells how many there have been.
 */
function keepStuck(node, people, room, stuck) {
  let running = true;
  let opened = 0;
  const keepers = people.map(async (person, i) => {
    while (running) {
      const opening = i % 2 ? openPlain(node, person, room) : openSocketIo(node, person, room);
      // On a busy machine it may be too slow already while it still reads.
      const connection = await opening.catch(() => pause(100));
      if (!connection) continue;
      stuck.add(connection);
      opened++;
      // That it was reset is what is looked for.
      connection.closed.catch(() => {});
      connection.socket.pause();
      while (running && !connection.socket.destroyed) {
        await pause(250);
        if (!connection.socket.destroyed) connection.write(PONG);
      }
      connection.close();
      stuck.delete(connection);
    }
  });
  const stop = async () => {
    running = false;
    await Promise.all(keepers);
    return opened;
  };
  return { stop };
}

async function openSocketIo(node, person, room) {
  const connection = await RawConnection.webSocket(node.url, '/socket.io/?EIO=4&transport=websocket');
  connection.sendText(`40${JSON.stringify({ token: mintToken(person, 7200) })}`);
  await connection.until((received) => received.includes('40{"sid"'));
  connection.sendText(`420${JSON.stringify(['joinConversation', room])}`);
  await connection.until((received) => received.includes('430['));
  return connection;
}

async function openPlain(node, person, room) {
  const headers = { Authorization: `Bearer ${mintToken(person, 7200)}` };
  const connection = await RawConnection.webSocket(node.url, '/ws', headers);
  connection.sendText(JSON.stringify({ event: 'joinConversation', data: room, id: 1 }));
  await connection.until((received) => received.includes('"ack":1'));
  return connection;
}

/** What the node has in memory; proc(5). */
function residentKilobytes(node) {
  return Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${node.program.child.pid}/status`, 'utf8'))[1]);
}

if (isMain(import.meta)) {
  const sizes = {
    ...{ readers: number('READERS', 20), slow: number('SLOW', 6), rate: number('RATE', 100), bytes: number('BYTES', 16_000) },
    ...{ rounds: number('ROUNDS', 4), seconds: number('TURN_SECONDS', 15), outboxBytes: number('OUTBOX_BYTES', 2 ** 20) },
    ratio: number('RATIO', 1.5),
  };
  await main('Readers that never read', (say) => slowReader({ ...sizes, say }));
}
