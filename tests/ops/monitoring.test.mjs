// Prometheus as it is shipped, started for real: it finds two nodes and their balancer, knows its rules, and has an answer to
// every question of every board while people chat. What the rules say of figures is promtool's to test, which runs here too.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';
import axios from 'axios';
import { restClient } from '../e2e/harness/people.mjs';
import { eventually, pause } from '../e2e/harness/processes.mjs';
import { secret, unique, words } from '../e2e/harness/secrets.mjs';
import { Cluster, describeOn } from '../e2e/harness/setups.mjs';
import { Client } from '../e2e/harness/sockets.mjs';
import { at, json, list, text, yaml } from './harness/files.mjs';
import { Prometheus } from './harness/prometheus.mjs';

const RULE_FILES = list('monitoring/prometheus/rules', '.yml');
const BOARDS = list('monitoring/grafana/dashboards', '.json');
const rules = RULE_FILES.flatMap((file) => yaml(file).groups.flatMap((group) => group.rules));
const alerts = rules.filter((rule) => rule.alert);

describe('rules', () => {
  const promtool = async (...args) => (await promisify(execFile)('promtool', args, { cwd: at('monitoring/prometheus') })).stdout;

  test('the configuration is one', async () => {
    assert.match(await promtool('check', 'config', 'prometheus.yml'), /SUCCESS/);
  });

  test('they say what they should of figures that are known', async () => {
    const files = list('monitoring/prometheus/tests', '.yml').map((file) => at(file));
    await promtool('test', 'rules', ...files);
  });

  test('every alert is tested, both ways', () => {
    const tests = list('monitoring/prometheus/tests', '.yml').map((file) => text(file)).join('\n');
    for (const { alert } of alerts) {
      assert.ok(tests.includes(`'${alert} fires: `), alert);
      assert.ok(tests.includes(`'${alert} is silent: `), alert);
    }
  });

  test('the runbook has a chapter for every alert, and no other', () => {
    const chapters = [...text('docs/runbook.md').matchAll(/^### (Chat\w+)$/gm)].map(([, name]) => name);
    assert.deepEqual(chapters.sort(), alerts.map(({ alert }) => alert).sort());
    for (const { alert, annotations, labels } of alerts) {
      assert.ok(annotations.runbook_url.endsWith(`/docs/runbook.md#${alert.toLowerCase()}`), alert);
      assert.ok(['page', 'ticket'].includes(labels.severity), alert);
    }
  });
});

describe('boards', () => {
  test('every panel asks something, says what its answer means, and stands by itself', () => {
    const ids = new Set();
    for (const file of BOARDS) {
      const board = json(file);
      assert.ok(!ids.has(board.uid), board.uid);
      ids.add(board.uid);
      const taken = new Set();
      for (const panel of panelsOf(board)) {
        assert.match(panel.title, /\?$/, `${file}: ${panel.title}`);
        assert.ok(panel.description.length > 10, `${file}: ${panel.title}`);
        assert.ok(panel.targets.length > 0, panel.title);
        const { x, y, w, h } = panel.gridPos;
        assert.ok(x + w <= 24, panel.title);
        for (let i = x; i < x + w; i++) {
          for (let j = y; j < y + h; j++) {
            assert.ok(!taken.has(`${i},${j}`), `${file}: ${panel.title} lies on another panel`);
            taken.add(`${i},${j}`);
          }
        }
      }
    }
  });
});

describeOn(Cluster, (setup, limited) => {
  limited('targets up, rules loaded, every question of every board answered, an alert raised', { timeout: 150_000 }, async () => {
    const { nodes, haproxy } = setup;
    const instances = nodes.map((node) => `127.0.0.1:${node.metricsPort}`);
    const prometheus = await Prometheus.start({
      // As Kubernetes labels them; without it both labels are missing, which the rules don't mind.
      gateway: instances.map((instance, i) => ({ targets: [instance], labels: { namespace: 'chat', pod: `chat-gateway-${i}` } })),
      haproxy: [{ targets: [`127.0.0.1:${haproxy.metricsPort}`] }],
    });
    const traffic = new Traffic(setup);
    try {
      await traffic.begin();
      await eventually('all targets are up', async () => {
        const { activeTargets } = await prometheus.ask('targets');
        return activeTargets.length === 3 && activeTargets.every(({ health }) => health === 'up');
      });
      await allRulesAreLoaded(prometheus);

      const questions = [...questionsOf(instances), ...rules.filter((rule) => rule.record).map((rule) => ({ title: rule.record, expr: rule.record }))];
      assert.ok(questions.length > 100);
      let open = questions;
      await eventually('every question is answered', async () => {
        const answers = await Promise.all(open.map(({ expr }) => prometheus.query(expr)));
        open = open.filter((_, i) => answers[i].length === 0);
        return open.length === 0;
      }, 60_000).catch((error) => {
        throw new Error(`no data for:\n${open.map(({ title, expr }) => `${title}\n    ${expr}`).join('\n')}`, { cause: error });
      });

      await theAdapterFindsPods(prometheus);
      for (const { labels, value } of await prometheus.query('sum by (instance) (rate(chat_messages_total[30s]))')) {
        assert.ok(value > 0, labels.instance);
      }
      await traffic.end();
      const { groups } = await prometheus.ask('rules', { type: 'alert' });
      for (const { name, state, labels } of groups.flatMap((group) => group.rules)) {
        assert.ok(state !== 'firing' || labels.severity !== 'page', `${name} fires`);
      }

      await nodes[1].stop();
      await eventually('the alert is raised', async () => {
        const [alert] = (await prometheus.ask('alerts')).alerts.filter(({ labels }) => labels.alertname === 'ChatNodeDown');
        return alert?.labels.instance === instances[1];
      }, 25_000);
    } finally {
      await traffic.end();
      await prometheus.stop();
    }
  });
}, { RATE_LIMIT_REQUESTS_PER_SECOND: '20' });

/** What prometheus-adapter would ask for the autoscaler: a figure for each pod. */
async function theAdapterFindsPods(prometheus) {
  const { custom } = yaml('k8s/components/autoscaling/prometheus-adapter.values.yaml').rules;
  for (const { seriesQuery, name, metricsQuery } of custom) {
    const query = metricsQuery
      .replaceAll('<<.Series>>', seriesQuery.split('{')[0])
      .replaceAll('<<.LabelMatchers>>', 'namespace="chat",pod=~"chat-gateway-0|chat-gateway-1"')
      .replaceAll('<<.GroupBy>>', 'pod');
    const figures = await prometheus.query(query);
    assert.deepEqual(figures.map(({ labels }) => JSON.stringify(labels)).sort(), ['{"pod":"chat-gateway-0"}', '{"pod":"chat-gateway-1"}'], name.as);
    for (const { value } of figures) assert.ok(value > 0, name.as);
    // A pod without traffic is at 0, not without a figure.
    const idle = await prometheus.query(query.replaceAll('[2m]', '[1s]'));
    assert.deepEqual(idle.map(({ labels }) => labels.pod).sort(), ['chat-gateway-0', 'chat-gateway-1'], name.as);
  }
}

async function allRulesAreLoaded(prometheus) {
  await eventually('all rules were evaluated', async () => {
    const loaded = (await prometheus.ask('rules')).groups.flatMap((group) => group.rules);
    assert.deepEqual(loaded.map(({ name }) => name).sort(), rules.map((rule) => rule.alert ?? rule.record).sort());
    for (const { name, health, lastError } of loaded) assert.notEqual(health, 'err', `${name}: ${lastError}`);
    return loaded.every(({ health }) => health === 'ok');
  });
}

/** Every query of every board, as Grafana would send it: for the node board once for each node. */
function* questionsOf(instances) {
  for (const file of BOARDS) {
    const board = json(file);
    const variables = board.templating.list.map(({ name }) => name);
    for (const panel of panelsOf(board)) {
      for (const { expr } of panel.targets) {
        for (const instance of variables.includes('instance') ? instances : ['']) {
          const asked = expr.replaceAll('$__rate_interval', '20s').replaceAll('$instance', instance);
          assert.ok(!asked.includes('$'), `${panel.title}: a variable is left in ${asked}`);
          yield { title: `${board.title}: ${panel.title}`, expr: asked };
        }
      }
    }
  }
}

function panelsOf(board) {
  return board.panels.filter((panel) => panel.type !== 'row');
}

/** People who chat, through the balancer and on each node, and do now and then what they should not, until they are told to end. */
class Traffic {
  #ends = false;

  constructor(setup) {
    this.setup = setup;
  }

  async begin() {
    this.agent = await this.setup.admin();
    this.clients = [await this.setup.client(), await this.setup.client()];
    this.conversations = [];
    for (const client of this.clients) this.conversations.push((await client.converse(this.agent)).id);
    this.agentSocket = await this.agent.connect(0, { transports: ['websocket'] });
    this.pollers = [];
    for (const node of [0, 1]) this.pollers.push(await this.clients[node].connect(node, { transports: ['polling'] }));
    this.running = this.#run();
  }

  /** Ends when the round that is under way has. */
  async end() {
    this.#ends = true;
    await this.running;
    this.running = undefined;
  }

  async #run() {
    while (!this.#ends) {
      await Promise.all([0, 1].map((node) => this.#round(node)));
      await pause(500);
    }
  }

  async #round(node) {
    const [client, conversationId] = [this.clients[node], this.conversations[node]];
    const visit = await client.connect(node, { transports: ['websocket'] });
    const plain = await client.connectPlain(node);
    await visit.ask('joinConversation', { conversationId });
    visit.send('typing', { conversationId, isTyping: true });
    const message = await visit.ask('chatMessage', { conversationId, message: words() });
    await plain.next('chatMessage', ({ id }) => id === message.id);
    await this.pollers[node].ask('chatMessage', { conversationId, message: words() });
    await this.agentSocket.ask('markAsRead', { conversationId });
    await plain.refused('chatMessage', { conversationId, message: ' ' });
    plain.close();
    visit.close();
    // Each node by itself, and the balancer.
    const { url } = this.setup.nodes[node];
    const nobody = { email: this.agent.user.email, password: secret(`wrong-${unique()}`) };
    assert.equal((await restClient(url).post('/auth/login', nobody)).status, 401);
    assert.equal((await client.rest.get('/auth/me')).status, 200);
    const many = Array.from({ length: 60 }, () => restClient(url, client.token).get('/chat/unread-count'));
    assert.ok((await Promise.all(many)).some(({ status }) => status === 429));
    const through = await Client.connect(this.setup.url, { auth: { token: this.agent.token } });
    await through.ask('getOnlineUsers', {});
    through.close();
    await axios.get(`${this.setup.url}/healthz`, { proxy: false });
  }
}
