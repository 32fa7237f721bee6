// The clients of crash-storm.mjs: a process of its own for each few thousand, as a process may have only so many files
// open. Stock `socket.io-client` with its default reconnection delays and its own recovery; nothing of its own per client
// but a few numbers. Told what to do, and asked what came of it, over IPC.

import { secret } from '../e2e/harness/secrets.mjs';
import { io } from '../e2e/harness/sockets.mjs';
import { mintToken } from '../e2e/harness/tokens.mjs';

/** How many connect at a time in the beginning. */
const AT_ONCE = 100;

const clients = [];
let back = 0;
let recovered = 0;

const commands = {
  /** Connects everybody, with the cookie that leads to the node which is to die. */
  async connect({ url, people, cookie }) {
    const rest = people.values();
    const connectNext = async () => {
      for (const person of rest) await connect(url, person, cookie);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, connectNext));
    return { connected: clients.length };
  },

  /** How far they are. */
  progress() {
    return { back, recovered };
  },

  /** What came of it. */
  report() {
    const cpu = process.cpuUsage();
    return {
      away: clients.filter((client) => !client.socket.connected).length,
      // A client that reconnects twice is told: something took the connection a second time.
      disconnects: clients.reduce((sum, client) => sum + client.disconnects, 0),
      backAt: clients.map((client) => client.backAt).filter(Boolean),
      heard: Object.fromEntries(clients.filter((client) => client.heard.length).map((client) => [client.id, client.heard])),
      cpuSeconds: (cpu.user + cpu.system) / 1e6,
      megabytes: Math.round(process.memoryUsage.rss() / 2 ** 20),
    };
  },
};

process.on('message', async ({ command, ...order }) => {
  process.send({ answer: await commands[command](order) });
});
process.on('disconnect', () => process.exit());

function connect(url, person, cookie) {
  const client = { id: person.id, heard: [], disconnects: 0, backAt: 0 };
  clients.push(client);
  const socket = io(url, {
    forceNew: true,
    transports: ['websocket'],
    auth: { token: secret(mintToken(person, 7200)) },
    extraHeaders: { cookie },
  });
  client.socket = socket;
  socket.on('chatMessage', (message) => client.heard.push(message.clientMessageId));
  socket.on('disconnect', () => client.disconnects++);
  return new Promise((resolve) => {
    socket.on('connect', () => {
      resolve();
      if (client.disconnects === 0) return;
      if (client.backAt === 0) back++;
      client.backAt = Date.now();
      if (socket.recovered) recovered++;
    });
  });
}
