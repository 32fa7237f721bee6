// A new operator's path: README.md, "In production", followed to the letter. Its blocks, and those of docs/secrets.md to which
// it sends one, are read from the documents and typed into shells: the gateway deployed on two nodes, an agent's account, a
// graph that moves, the signing secret changed in three steps, a new version rolled. Other words stand only where the documents
// name other machines; `words` of each step has them all. Meanwhile people chat through the balancer: nobody is logged out, and
// nothing is lost, doubled or out of order.
//
// An hour passes in a moment here: between the second step and the third everybody renews the token, as `tokenExpiring` and
// `TOKEN_EXPIRED` make a front end do within the hour. One sleeps through it, and meets the third step with a token of the
// old secret.

import { cpSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { BINARY } from '../e2e/harness/gateway.mjs';
import { axios, mysql } from '../e2e/harness/libraries.mjs';
import { restClient } from '../e2e/harness/people.mjs';
import { eventually, freePort, pause, Program, temporaryFolder, within } from '../e2e/harness/processes.mjs';
import { assertDiscreet, secret, unique } from '../e2e/harness/secrets.mjs';
import { agentFrom, findSources, startRedis, whenListening } from '../e2e/harness/servers.mjs';
import { FrontEnd, Tally } from './front-end.mjs';
import { Ledger, quantile } from './ledger.mjs';
import { blocksOf, chapter, Shell, stepsOf, substitute, TOP } from './literal.mjs';
import { faultsOf, isMain, main, number } from './program.mjs';

/** The steps of README.md, and how many blocks each has. Another one is for this program to learn first. */
const STEPS = {
  'Build': 1, 'The database': 1, 'Settings': 2, 'Start': 1, 'The balancer': 1, 'A graph': 2, 'Change the signing secret': 1, 'Roll a new version': 1,
};

/** The panel that README.md asks about. */
const PANEL = { board: 'monitoring/grafana/dashboards/fleet.json', title: 'How many messages come in?' };

/** How long what was said last may take to be acknowledged. */
const LAST_ACKS_MS = 20_000;

/** No message takes longer to anybody than one reconnect of its sender and one of its reader. */
const MAX_DELAY_MS = 15_000;

/**
 * `clients` people and an agent chat, who say `rate` messages a second; `nextBinary` is the new version.
 * As it is shipped, if not given: a node takes `drainSeconds` to send its sockets away, the balancer asks for it every `checkMs`,
 * Prometheus every `scrapeSeconds`. Returns `{figures, faults}`.
 */
export async function operator({ clients, rate, drainSeconds, checkMs, scrapeSeconds, nextBinary = BINARY, say = () => {} }) {
  const way = new Path({ clients, rate, drainSeconds, checkMs, scrapeSeconds, nextBinary, say });
  try {
    return await way.follow();
  } finally {
    await way.clear();
  }
}

class Path {
  nodes = [];
  people = [];
  figures = {};
  faults = [];
  tally = new Tally();
  ledger = new Ledger();
  /** Every exit code of a node that was told to end. */
  exits = [];
  restarts = [];
  begun = Date.now();

  constructor(sizes) {
    Object.assign(this, sizes);
    this.steps = stepsOf(chapter('README.md', '## In production'));
    const found = Object.fromEntries(this.steps.map(({ title, blocks }) => [title, blocks.length]));
    if (JSON.stringify(found) !== JSON.stringify(STEPS)) {
      throw new Error(`README.md has steps, and blocks, that this program does not know: ${JSON.stringify(found)}`);
    }
  }

  async follow() {
    await this.prepare();
    await this.deploy();
    await this.watch();
    await this.chat();
    await this.rotate();
    await this.roll();
    await this.judge();
    return { figures: this.figures, faults: this.faults };
  }

  /** A block of a step, with this machine's words. */
  block(title, words, which = 0) {
    return substitute(this.steps.find((step) => step.title === title).blocks[which], words);
  }

  /** What the documents take for granted: machines, a MySQL server, a Redis. */
  async prepare() {
    if (!process.env.TEST_MYSQL_URL) throw new Error('TEST_MYSQL_URL is not set: run this by `scripts/with-servers`');
    this.mysql = new URL(process.env.TEST_MYSQL_URL);
    this.redis = await startRedis();
    // A clone, as far as one needs it.
    this.clone = temporaryFolder();
    for (const part of ['monitoring/prometheus', 'loadbalancer']) cpSync(TOP + part, path.join(this.clone, part), { recursive: true });
    for (const name of ['a', 'b']) {
      const folder = temporaryFolder();
      mkdirSync(path.join(folder, 'bin'));
      const env = { HOME: folder, PATH: `${folder}/bin:${process.env.PATH}:/usr/sbin:/sbin` };
      const node = { name, folder, binary: path.join(folder, 'bin/gateway'), port: await freePort(), metricsPort: await freePort() };
      this.nodes.push(Object.assign(node, { url: `http://127.0.0.1:${node.port}`, shell: new Shell(`node ${name}`, folder, env) }));
    }
    [this.balancerPort, this.balancerMetricsPort, this.prometheusPort] = [await freePort(), await freePort(), await freePort()];
    this.url = `http://127.0.0.1:${this.balancerPort}`;
    this.operatorsShell = new Shell('the operator', this.clone);
  }

  async deploy() {
    const [a] = this.nodes;
    for (const node of this.nodes) await this.install(node, 'Build', [['cargo build --release --package gateway\n', '']], BINARY);

    const password = secret(unique());
    const server = await mysql.createConnection({ uri: this.mysql.href, multipleStatements: true });
    // Not before: a database of that name that is there already is somebody else's.
    await server.query(this.block('The database', [["BY 'password'", `BY '${password}'`]])).finally(() => server.end());
    const database = new URL(`mysql://chat:${password}@${this.mysql.hostname}:${this.mysql.port}/chat`);
    this.pool = mysql.createPool({ uri: database.href, timezone: 'Z', connectionLimit: 2 });

    // How a secret is made stands in the comment.
    const settings = this.steps.find(({ title }) => title === 'Settings');
    const signing = secret(await this.operatorsShell.run(/made once \((.+?)\)/.exec(settings.blocks[0])[1]));
    this.origin = /CORS_ORIGINS='(.+?)'/.exec(settings.blocks[0])[1];
    for (const node of this.nodes) {
      // Two nodes on one machine can't have one port.
      const place = `HOST=127.0.0.1 PORT=${node.port}`;
      const drain = this.drainSeconds === undefined ? '' : ` DRAIN_SECONDS=${this.drainSeconds}`;
      await node.shell.run(this.block('Settings', [
        ['export APP_ENV=production', `export APP_ENV=production ${place}${drain}`],
        ['mysql://chat:password@mysql:3306/chat', database.href],
        ['redis://redis:6379', this.redis.url],
        ["JWT_SECRET='...'", `JWT_SECRET='${signing}'`],
        ['10.0.0.0/24', '127.0.0.1/32'],
        ['0.0.0.0:9464', `127.0.0.1:${node.metricsPort}`],
      ]));
    }
    this.password = secret(`agent-pass-${unique()}`);
    const read = /`(read -rs PASSWORD)`/.exec(settings.text)[1];
    await a.shell.run(`${read}\n${this.password}`);
    const said = await a.shell.run(this.block('Settings', [], 1));
    this.agentEmail = /--email (\S+)/.exec(settings.blocks[1])[1];
    if (!said.includes(this.agentEmail)) this.faults.push(`create-admin does not say whom it made: ${said}`);

    for (const node of this.nodes) {
      await node.shell.run(this.block('Start', []));
      await this.noteProcess(node);
    }
    if (this.checkMs !== undefined) this.change('loadbalancer/haproxy.cfg', ['check inter 1s ', `check inter ${this.checkMs}ms `]);
    this.haproxy = this.start(this.block('The balancer', [
      ['0.0.0.0:80 ', `127.0.0.1:${this.balancerPort} `],
      ['10.0.0.10:8405', `127.0.0.1:${this.balancerMetricsPort}`],
      ...this.nodes.map(({ port }, i) => [`10.0.0.1${i + 1}:5000`, `127.0.0.1:${port}`]),
    ]));
    await whenListening(this.haproxy, this.balancerPort);
    this.took('deployed');
  }

  /** Prometheus as it is shipped, and what its graph says while nobody writes. */
  async watch() {
    if (this.scrapeSeconds !== undefined) {
      const times = ['scrape_interval', 'scrape_timeout', 'evaluation_interval'];
      const words = times.map((time) => [new RegExp(`${time}: \\d+s`), `${time}: ${this.scrapeSeconds}s`]);
      this.change('monitoring/prometheus/prometheus.yml', ...words);
    }
    const lines = this.block('A graph', [
      ...this.nodes.map(({ metricsPort }, i) => [`10.0.0.1${i + 1}:9464`, `127.0.0.1:${metricsPort}`]),
      ['10.0.0.10:8405', `127.0.0.1:${this.balancerMetricsPort}`],
      ['prometheus-data', `prometheus-data --web.listen-address=127.0.0.1:${this.prometheusPort}`],
    ]).trimEnd().split('\n');
    // All but the last, which does not end.
    await this.operatorsShell.run(lines.slice(0, -1).join('\n'));
    this.prometheus = this.start(lines.at(-1));
    await whenListening(this.prometheus, this.prometheusPort);

    const graph = this.block('A graph', [['localhost:9090', `127.0.0.1:${this.prometheusPort}`]], 1);
    const panel = JSON.parse(readFileSync(TOP + PANEL.board, 'utf8')).panels.find(({ title }) => title === PANEL.title);
    const asked = /'(.+)'/.exec(graph)[1];
    const [{ expr }] = panel.targets;
    if (expr.replaceAll('$__rate_interval', '1m') !== asked) this.faults.push(`README.md asks ${asked}, the board ${expr}`);
    this.graph = async () => {
      const figure = / => (\S+) @/.exec(await this.operatorsShell.run(graph));
      return figure ? Number(figure[1]) : undefined;
    };
    await eventually('Prometheus hears of both nodes and the balancer', async () => {
      // Nothing as long as it is not ready itself.
      const activeTargets = (await this.ask('targets'))?.activeTargets;
      return activeTargets?.length === 3 && activeTargets.every(({ health }) => health === 'up');
    }, 30_000);
    await eventually('the graph has a figure', async () => (this.quiet = await this.graph()) !== undefined, 30_000);
    this.took('Prometheus hears of two nodes and the balancer');
  }

  /** Everybody signs in, this once, and begins to chat; the graph moves. */
  async chat() {
    const routes = await findSources({ url: this.url });
    const person = (i, options) => new FrontEnd({
      ...{ url: this.url, origin: this.origin, address: `127.1.${i >> 8}.${(i & 0xff) + 1}`, routes, tally: this.tally, ...options },
    });
    this.agent = person(0);
    await this.agent.signIn(this.agentEmail, this.password);
    const conversations = [];
    for (let i = 1; i <= this.clients; i++) {
      const client = person(i, { renews: i > 1 });
      const account = { email: `client${i}@example.com`, password: secret(`client-pass-${unique()}`), firstName: 'Carla', lastName: 'Client' };
      const rest = restClient(this.url, undefined, agentFrom(client.address));
      const { status, data } = await rest.post('/auth/register', account);
      if (status !== 201) throw new Error(`a client can't register: ${status} ${data?.error?.code}`);
      secret(data.data.token);
      await client.signIn(account.email, account.password);
      const opened = await rest.post('/chat/conversations', {}, { headers: { Authorization: `Bearer ${client.token}` } });
      if (!opened.data?.success) throw new Error(`no conversation: ${opened.data?.error?.code}`);
      conversations.push(opened.data.data.id);
      this.people.push(client);
      await client.connect([opened.data.data.id], this.ledger);
    }
    this.sleeper = this.people[0];
    await this.agent.connect(conversations, this.ledger);
    this.people.push(this.agent);
    this.sessions = await this.count('Sessions');
    this.lives = this.people.map((one) => one.live());
    this.flow = this.startFlow();
    await eventually('the graph moves', async () => (this.moved = await this.graph()) > this.quiet, 30_000);
    this.figures['graph, messages a second'] = `${this.quiet} before the chat, ${this.moved.toFixed(2)} during it`;
    this.took(`the graph moved from ${this.quiet} to ${this.moved.toFixed(2)} messages a second`);
  }

  async rotate() {
    const [commands, copying, restarting, ...others] = blocksOf(chapter('docs/secrets.md', '### By hand'));
    const lines = commands.trimEnd().split('\n').map((line) => ({ line, step: /rotate-secret (\w+)/.exec(line)[1] }));
    if (others.length || lines.map(({ step }) => step).join() !== 'begin,switch,finish') throw new Error('docs/secrets.md has another way than is known');
    const restart = this.block('Change the signing secret', []);
    if (bare(restarting).split('\n').slice(1).join('\n') !== bare(restart)) throw new Error('README.md and docs/secrets.md restart a node in two ways');
    const [a, b] = this.nodes;
    // What each step tells, and the next is to be told.
    const kids = {};
    for (const { line, step } of lines) {
      if (step === 'finish') await this.anHourPasses();
      this.phase(step);
      const place = { switch: 'NEW', finish: 'OLD' }[step];
      const told = await a.shell.run(substitute(line, place ? [[`${place} `, `${kids[place]} `]] : []));
      kids[{ begin: 'NEW', switch: 'OLD' }[step]] = /gateway rotate-secret \w+ --\w+ (\S+)/.exec(told)?.[1];
      const file = `${step}.env`;
      for (const value of readFileSync(path.join(a.folder, file), 'utf8').matchAll(/[=,]([^=,\s]{32,}=*)/g)) secret(value[1]);
      const name = ['begin.env', file];
      await a.shell.run(substitute(copying, [name, ['scp -p', 'cp -p'], ['10.0.0.12:', `${b.folder}/`]]));
      for (const node of this.nodes) await this.restart(node, substitute(restarting, [name]));
      if (step === 'switch') await this.oldTokensAreGood();
    }
    await this.oldTokensAreGone();
    this.took('the secret is changed');
  }

  /** Whoever is awake has a token of the new secret, and needs the first one no more. */
  async anHourPasses() {
    for (const one of this.people) {
      this.retired ??= one.firstToken;
      one.firstToken = undefined;
      if (one !== this.sleeper && !(await one.renewAll())) this.faults.push(`${one.user.email} could not renew the token`);
    }
    // Calls with a first token that are under way.
    await pause(500);
  }

  async oldTokensAreGood() {
    for (const { url, name } of this.nodes) {
      const { status } = await restClient(url, this.agent.firstToken).get('/auth/me');
      if (status !== 200) this.faults.push(`after step 2 node ${name} answers ${status} to a token of the old secret`);
    }
  }

  async oldTokensAreGone() {
    for (const { url, name } of this.nodes) {
      const { status, data } = await restClient(url, this.retired).get('/auth/me');
      const answer = `${status} ${data?.error?.code}`;
      if (answer !== '401 INVALID_TOKEN') this.faults.push(`after step 3 node ${name} answers ${answer} to a token of the old secret`);
    }
    await eventually('the sleeper has a fresh token', () => this.sleeper.token !== this.retired && this.sleeper.socket.connected, 20_000).catch(
      (error) => this.faults.push(error.message),
    );
  }

  async roll() {
    this.phase('roll');
    for (const node of this.nodes) {
      await this.install(node, 'Roll a new version', [], this.nextBinary);
      await this.restart(node, this.block('Change the signing secret', []));
    }
    this.took('the new version is rolled');
    const versions = await this.ask('query', { query: 'count by (version) (chat_build_info{job="chat-gateway"})' });
    this.figures['versions that run'] = versions.result.map(({ metric, value }) => `${metric.version} on ${value[1]}`).join(', ');
  }

  /** Changes a file of the clone; fails where that does not say what it is to be changed from. */
  change(file, ...words) {
    let text = readFileSync(path.join(this.clone, file), 'utf8');
    for (const [from, to] of words) {
      const changed = text.replace(from, to);
      if (changed === text) throw new Error(`${file} has no "${from}"`);
      text = changed;
    }
    writeFileSync(path.join(this.clone, file), text);
  }

  async install(node, title, words, binary) {
    const here = `install '${path.resolve(binary)}' '${node.binary}'`;
    await node.shell.run(this.block(title, [...words, ['sudo install target/release/gateway /usr/local/bin/', here]]));
  }

  /** Types the lines that restart a node, and takes down how it ended. */
  async restart(node, block) {
    const begun = Date.now();
    const { code } = await node.shell.type(block, ((this.drainSeconds ?? 30) + 60) * 1000);
    this.exits.push(code);
    this.restarts.push(Date.now() - begun);
    this.say(`  ${this.tally.phase}: node ${node.name} ended with ${code} and was ready again, ${Date.now() - begun} ms`);
    const before = node.pid;
    await this.noteProcess(node);
    if (node.pid === before) this.faults.push(`node ${node.name} was not restarted`);
  }

  /** Which process a node is, and that it runs what is installed. */
  async noteProcess(node) {
    node.pid = Number(await node.shell.run('echo $!'));
    const [runs, installed] = [`/proc/${node.pid}/exe`, node.binary].map((file) => statSync(file).ino);
    if (runs !== installed) this.faults.push(`node ${node.name} does not run what is installed there`);
  }

  /** What README.md leaves running in a shell. */
  start(line) {
    return new Program('bash', ['-c', line], { cwd: this.clone, group: true });
  }

  /** Everybody in turn, a client, the agent, a client, the agent. `stop` ends it: `{sent, unanswered}`. */
  startFlow() {
    const sending = new Set();
    let sent = 0;
    const timer = setInterval(() => {
      const speaker = sent % 2 ? this.agent : this.people[(sent >> 1) % this.clients];
      sent++;
      const saying = speaker.say();
      sending.add(saying);
      void saying.finally(() => sending.delete(saying));
    }, 1000 / this.rate);
    const stop = async () => {
      clearInterval(timer);
      await within(LAST_ACKS_MS, Promise.all(sending), () => 'everything is acknowledged').catch(() => {});
      return { sent, unanswered: sending.size };
    };
    return { stop };
  }

  async judge() {
    // Whoever was sent away last comes back.
    await pause(2000);
    const { sent, unanswered } = await this.flow.stop();
    const verdict = await this.ledger.judge({ query: async (sql) => (await this.pool.query(sql))[0] });
    this.phase('end');
    this.figures['graph, messages a second'] += `, ${(await this.graph())?.toFixed(2)} at the end`;
    const alerts = (await this.ask('alerts')).alerts.filter(({ state, labels }) => state === 'firing' && labels.severity === 'page');
    for (const one of this.people) one.close();
    await Promise.all(this.lives);
    // Nobody is there any more: at once.
    this.exits.push(...(await Promise.all(this.nodes.map(({ shell }) => shell.type('kill $!; wait $!', 60_000)))).map(({ code }) => code));

    const { tally, faults } = this;
    const must = (holds, fault) => holds || faults.push(fault);
    faults.push(...faultsOf(verdict), ...tally.ended);
    must(unanswered === 0, `${unanswered} messages were not acknowledged`);
    must(verdict.stored === sent, `${sent} messages were sent, ${verdict.stored} are stored`);
    must(this.exits.every((code) => code === 0), `a node did not end with 0: ${this.exits.join(' ')}`);
    must(quantile(verdict.delays, 1) <= MAX_DELAY_MS, `a message took ${quantile(verdict.delays, 1)} ms`);
    must(tally.reconnects >= this.people.length, 'hardly anybody was sent away');
    must(tally.unrecovered === 0, `${tally.unrecovered} reconnects were not recovered`);
    // The one who slept for an hour is refused, and renews its token; nobody else is.
    const [expected, other] = [[], []];
    for (const one of tally.refusals) (one.who === this.sleeper && one.phase === 'finish' && one.code === 'INVALID_TOKEN' ? expected : other).push(one);
    for (const { who, phase, where, code } of other.slice(0, 5)) faults.push(`${who.user.email} was refused ${where} in ${phase}: ${code}`);
    must(other.length === 0, `${other.length} tokens were refused`);
    must(expected.length > 0, 'nobody met step 3 with a token of the old secret');
    const sessions = await this.count('Sessions');
    const open = await this.count('Sessions WHERE endedAt IS NULL');
    must(tally.signIns === this.people.length, `${tally.signIns} sign-ins of ${this.people.length} people`);
    must(sessions === this.sessions && open === sessions, `${this.sessions} sessions were begun, ${sessions} are there, ${open} of them open`);
    must(alerts.length === 0, `alerts that page: ${alerts.map(({ labels }) => labels.alertname).join(' ')}`);
    for (const { folder, name, shell } of this.nodes) {
      const log = readFileSync(path.join(folder, 'gateway.log'), 'utf8');
      for (const text of [log, shell.program.output]) {
        try {
          assertDiscreet(text);
        } catch (error) {
          faults.push(`node ${name}: ${error.message.split(':')[0]}`);
        }
      }
    }
    Object.assign(this.figures, {
      'nodes ended, exit codes': `${this.exits.length}: ${this.exits.join(' ')}`,
      'a restart, median and worst': `${quantile(this.restarts.toSorted((x, y) => x - y), 0.5)} ms, ${Math.max(...this.restarts)} ms`,
      'people, sign-ins, sessions ended': `${this.people.length}, ${tally.signIns}, ${sessions - open}`,
      'tokens renewed': tally.renewals,
      'tokens refused, and renewed: who slept': expected.length,
      'tokens refused: anybody else': other.length,
      'messages, deliveries': `${sent}, ${verdict.expected}`,
      'lost': verdict.lost,
      'doubled': verdict.doubled,
      'out of order': verdict.disordered,
      'sent to heard, median and worst': `${quantile(verdict.delays, 0.5)} ms, ${quantile(verdict.delays, 1)} ms`,
      'reconnects, not recovered': `${tally.reconnects}, ${tally.unrecovered}`,
      'messages sent again for want of an answer': tally.again,
      'REST calls': tally.calls,
      'REST calls made again': tally.repeated.length ? `${tally.repeated.length}: ${[...new Set(tally.repeated)].join(', ')}` : 0,
      'all of it': `${((Date.now() - this.begun) / 1000).toFixed(0)} s`,
    });
  }

  phase(name) {
    this.tally.phase = name;
  }

  took(what) {
    this.say(`${((Date.now() - this.begun) / 1000).toFixed(1)} s: ${what}`);
  }

  async count(what) {
    const [[{ n }]] = await this.pool.query(`SELECT COUNT(*) AS n FROM ${what}`);
    return n;
  }

  /** What Prometheus' API answers. */
  async ask(call, params) {
    const { data } = await axios.get(`http://127.0.0.1:${this.prometheusPort}/api/v1/${call}`, {
      ...{ params, proxy: false, timeout: 10_000, validateStatus: () => true },
    });
    return data.data;
  }

  async clear() {
    for (const one of this.people) one.close();
    await Promise.all([this.haproxy, this.prometheus, this.redis].map((program) => program?.stop('SIGKILL')));
    await Promise.all([...this.nodes.map(({ shell }) => shell), this.operatorsShell].map((shell) => shell?.close()));
    if (!this.pool) return;
    await this.pool.end();
    const server = await mysql.createConnection({ uri: this.mysql.href, multipleStatements: true });
    await server.query("DROP DATABASE chat; DROP USER 'chat'@'%'").finally(() => server.end());
  }
}

/** A block without its comments. */
function bare(block) {
  return block.replaceAll(/ +#.*$/gm, '').trim();
}

if (isMain(import.meta)) {
  const sizes = {
    ...{ clients: number('CLIENTS', 20), rate: number('RATE', 40) },
    drainSeconds: number('DRAIN_SECONDS', undefined),
    ...{ checkMs: number('CHECK_MS', undefined), scrapeSeconds: number('SCRAPE_SECONDS', undefined) },
    nextBinary: process.env.GATEWAY_NEXT_BIN,
  };
  await main("A new operator's path", (say) => operator({ ...sizes, say }));
}
