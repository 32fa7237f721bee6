// A node dies with thousands of sockets, and all of them come to the other one at once: they are back and recovered within
// seconds, what they missed is there, and the database hardly notices.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { eventually, pause } from '../e2e/harness/processes.mjs';
import { words } from '../e2e/harness/secrets.mjs';
import { Client } from '../e2e/harness/sockets.mjs';
import { mintToken } from '../e2e/harness/tokens.mjs';
import { Fleet } from './fleet.mjs';
import { quantile } from './ledger.mjs';
import { isMain, main, number, STRICT } from './program.mjs';

const CLIENTS = fileURLToPath(new URL('storm-clients.mjs', import.meta.url));

/** How long it may take until all are back and recovered: the promise. */
const BACK_MS = 15_000;

/** How long the database's own pace is watched before. */
const QUIET_MS = 5000;

/**
 * `clients` sockets on the node that dies, in `processes` processes with a balancer each; `missed` messages are sent to as
 * many of them while they are away. Returns `{figures, faults}`.
 */
export async function crashStorm({ clients, processes, missed, quietMs = QUIET_MS, strict = STRICT, say = () => {} }) {
  const fleet = await Fleet.start({ nodes: 2, balancers: processes, standby: true });
  const crowds = [];
  let agent;
  try {
    const people = await fleet.populate({ agents: 1, clients });
    agent = await Client.connect(fleet.nodes[1].url, { auth: { token: mintToken(people.agents[0], 7200) }, transports: ['websocket'] });
    for (const haproxy of fleet.haproxies) {
      const share = people.clients.filter((_, i) => i % processes === crowds.length);
      crowds.push(await Crowd.start(haproxy.url, share));
    }
    const begun = Date.now();
    await Promise.all(crowds.map((crowd) => crowd.connect()));
    const [dying, other] = fleet.nodes;
    const here = await dying.metric('chat_connections');
    say(`${here} of ${clients} clients are on the node that dies, after ${Date.now() - begun} ms`);

    await pause(quietMs / 2);
    const watched = { at: Date.now(), questions: await questions(fleet.database) };
    await pause(quietMs);
    const pace = ((await questions(fleet.database)) - watched.questions) / (Date.now() - watched.at);
    const cpu = new Cpu(fleet);
    await cpu.begin();

    const before = await questions(fleet.database);
    const diedAt = Date.now();
    await dying.stop('SIGKILL');
    // Nobody comes back within the first half second: that is the stock client's own delay.
    const receivers = Array.from({ length: missed }, (_, i) => people.clients[Math.floor((i * clients) / missed)]);
    const names = await Promise.all(receivers.map((person) => tell(agent, person, `missed-${person.id}`)));
    const toldAt = Date.now();
    const settled = async () => {
      const { back, recovered } = await sum(crowds);
      return back === clients && (recovered === clients || !strict);
    };
    await eventually('all are back', settled, BACK_MS * 2).catch(() => {});
    const doneAt = Date.now();
    const asked = (await questions(fleet.database)) - before - pace * (doneAt - diedAt);
    const seconds = await cpu.end();
    const { back, recovered } = await sum(crowds);

    // They hear on, all of those who missed something and some who did not.
    const others = people.clients.filter((_, i) => i % 97 === 0);
    const later = await Promise.all(others.map((person) => tell(agent, person, `later-${person.id}`)));
    await pause(1000);
    const reports = await Promise.all(crowds.map((crowd) => crowd.ask('report')));
    const heard = Object.assign({}, ...reports.map((report) => report.heard));
    const wanted = new Map();
    for (const { to, name } of [...names, ...later]) wanted.set(to, [...(wanted.get(to) ?? []), name]);
    let [lost, doubled, strange] = [0, 0, 0];
    for (const [id, list] of wanted) {
      for (const name of list) if (!heard[id]?.includes(name)) lost++;
    }
    for (const [id, list] of Object.entries(heard)) {
      doubled += list.length - new Set(list).size;
      const right = wanted.get(Number(id)) ?? [];
      strange += [...new Set(list)].filter((name, i) => right[i] !== name && !lost).length;
    }

    const times = reports.flatMap((report) => report.backAt.map((at) => at - diedAt)).sort((a, b) => a - b);
    const perClient = asked / clients;
    const away = reports.reduce((total, report) => total + report.away, 0);
    const extra = reports.reduce((total, report) => total + report.disconnects, 0) - clients;
    const faults = [];
    if (here !== clients) faults.push(`only ${here} clients were on the node`);
    if (back !== clients || away) faults.push(`${clients - back} clients did not come back, ${away} are away`);
    if (quantile(times, 1) > BACK_MS) faults.push(`the last was back after ${quantile(times, 1)} ms`);
    if (strict && recovered !== clients) faults.push(`${clients - recovered} clients were not recovered`);
    if (strict && (lost || strange)) faults.push(`of the missed messages ${lost} were lost, ${strange} in another order`);
    if (doubled) faults.push(`${doubled} messages came twice`);
    if (!(perClient < 1)) faults.push(`${perClient.toFixed(2)} database queries a client`);
    if (/panicked at/.test(fleet.logs)) faults.push('a log tells of a panic');
    const figures = {
      'clients of the killed node': here,
      'back': back,
      'recovered': recovered,
      'first back': `${quantile(times, 0)} ms`,
      'half of them back': `${quantile(times, 0.5)} ms`,
      'last back': `${quantile(times, 1)} ms`,
      'disconnected a second time': extra,
      'told while they were away': `${missed} messages, all committed after ${toldAt - diedAt} ms`,
      'lost': lost,
      'doubled': doubled,
      'database queries a client': `${perClient.toFixed(3)} (${Math.round(asked)}, and ${(pace * 1000).toFixed(1)} a second without the storm)`,
      'CPU seconds, the node that took them': seconds.node.toFixed(1),
      'CPU seconds, HAProxy': seconds.haproxy.toFixed(1),
      'CPU seconds, Redis, MariaDB': `${seconds.redis.toFixed(1)}, ${seconds.mariadb.toFixed(1)}`,
      'CPU seconds, clients': (await cpu.clients(crowds)).toFixed(1),
      'memory of the node that took them': `${residentMegabytes(other.program.child.pid)} MB`,
      'memory of the clients': `${reports.map((report) => report.megabytes).join(' + ')} MB`,
    };
    return { figures, faults };
  } finally {
    agent?.close();
    for (const crowd of crowds) await crowd.stop();
    await fleet.stop();
  }
}

/** One process of clients. */
class Crowd {
  static async start(url, people) {
    const crowd = Object.assign(new Crowd(), { url, people });
    crowd.child = fork(CLIENTS, { serialization: 'advanced' });
    await once(crowd.child, 'spawn');
    return crowd;
  }

  async connect() {
    const people = this.people.map(({ id, email, role }) => ({ id, email, role }));
    await this.ask('connect', { url: this.url, people, cookie: 'GATEWAY=a' });
  }

  async ask(command, order = {}) {
    this.child.send({ command, ...order });
    const [{ answer }] = await once(this.child, 'message');
    return answer;
  }

  async stop() {
    const ended = once(this.child, 'exit');
    this.child.kill('SIGKILL');
    await ended;
  }
}

async function sum(crowds) {
  const all = await Promise.all(crowds.map((crowd) => crowd.ask('progress')));
  return all.reduce((a, b) => ({ back: a.back + b.back, recovered: a.recovered + b.recovered }));
}

/** Sends a client a message; returns when it is committed. */
async function tell(agent, person, name) {
  await agent.ask('chatMessage', { conversationId: person.conversationId, message: words(name), clientMessageId: name });
  return { to: person.id, name };
}

/** How many statements clients have sent to this server. */
async function questions(database) {
  const [row] = await database.query("SHOW GLOBAL STATUS LIKE 'Questions'");
  return Number(row.Value);
}

/** What the programs took of the processors, between `begin` and `end`. */
class Cpu {
  constructor(fleet) {
    this.fleet = fleet;
  }

  async begin() {
    const [row] = await this.fleet.database.query("SHOW VARIABLES LIKE 'pid_file'");
    this.pids = {
      node: [this.fleet.nodes[1].program.child.pid],
      haproxy: this.fleet.haproxies.map((haproxy) => haproxy.child.pid),
      redis: [this.fleet.redis.child.pid],
      mariadb: [Number(readFileSync(row.Value, 'utf8'))],
    };
    this.before = this.#read();
  }

  async end() {
    const after = this.#read();
    return Object.fromEntries(Object.keys(after).map((name) => [name, after[name] - this.before[name]]));
  }

  /** Of the clients' processes since their beginning, which is mostly the storm and the connecting before it. */
  async clients(crowds) {
    const reports = await Promise.all(crowds.map((crowd) => crowd.ask('report')));
    return reports.reduce((total, report) => total + report.cpuSeconds, 0);
  }

  #read() {
    const seconds = (pids) => pids.reduce((total, pid) => total + processorSeconds(pid), 0);
    return Object.fromEntries(Object.entries(this.pids).map(([name, pids]) => [name, seconds(pids)]));
  }
}

/** User and system time of a process; proc(5): fields 14 and 15, in ticks of a hundredth of a second. */
function processorSeconds(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** What a process has in memory. */
export function residentMegabytes(pid) {
  return Math.round(Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1024);
}

if (isMain(import.meta)) {
  const sizes = { clients: number('CLIENTS', 10_000), processes: number('PROCESSES', 2), missed: number('MISSED', 300) };
  await main('A crash storm', (say) => crashStorm({ ...sizes, say }));
}
