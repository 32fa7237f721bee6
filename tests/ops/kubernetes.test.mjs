// The manifests: every overlay is rendered by kustomize, held against the schemas of Kubernetes and of the custom resources, and
// checked for what no schema says: that the parts fit together, and that nothing runs with more rights than it needs.

import assert from 'node:assert/strict';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { before, describe } from 'node:test';
import { ExternalSecret } from '@kubernetes-models/external-secrets/external-secrets.io/v1/ExternalSecret';
import { HTTPRoute } from '@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute';
import { PrometheusRule } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule';
import { ServiceMonitor } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor';
import YAML from 'yaml';
import { runGateway } from '../e2e/harness/gateway.mjs';
import { temporaryFolder } from '../e2e/harness/processes.mjs';
import { limitedTest as test } from '../e2e/harness/setups.mjs';
import { at, list, text, yaml } from './harness/files.mjs';
import { runTool } from './harness/tools.mjs';

/** The newest Kubernetes whose schemas there are, and the oldest that has everything used here and is still cared for. */
const VERSIONS = ['1.37.0', '1.34.0'];

/** Custom resources, by what checks them: their schemas' types, enums and required fields. */
const CUSTOM = { ExternalSecret, HTTPRoute, PrometheusRule, ServiceMonitor };

/** The overlays there are, and production with the component that it only mentions. */
const TRACED = 'production, traced';
const OVERLAYS = ['try-out', 'production', 'production-gateway-api', TRACED];

for (const overlay of OVERLAYS) {
  describe(`overlay ${overlay}`, () => {
    let objects;
    const of = (kind, name) => objects.filter((object) => object.kind === kind && (!name || object.metadata.name === name));
    const one = (kind, name) => {
      const found = of(kind, name);
      assert.equal(found.length, 1, `${kind} ${name ?? ''}`);
      return found[0];
    };
    /** Deployments, StatefulSets and Jobs; a CronJob as the Job it makes. */
    const workloads = () =>
      objects
        .map((object) => (object.kind === 'CronJob' ? { ...object, spec: object.spec.jobTemplate.spec } : object))
        .filter((object) => object.spec?.template?.spec?.containers);
    const podsOf = (labels) => workloads().filter(({ spec }) => matches(labels, spec.template.metadata.labels));
    const settings = () => of('ConfigMap').find(({ metadata }) => metadata.name.startsWith('chat-gateway-')).data;

    before(async () => {
      objects = await render(overlay === TRACED ? tracedProduction() : `k8s/overlays/${overlay}`);
    });

    test('schemas', async () => {
      const file = path.join(temporaryFolder(), `${overlay}.yaml`);
      writeFileSync(file, objects.filter(({ kind }) => !(kind in CUSTOM)).map((object) => JSON.stringify(object)).join('\n---\n'));
      for (const version of VERSIONS) {
        const { code, stdout, stderr } = await runTool('kubernetes-validate', ['--strict', '-k', version, file]);
        assert.equal(code, 0, stdout + stderr);
        // One whose schema it does not know it only warns of.
        assert.doesNotMatch(stdout + stderr, /WARN|ERROR/);
      }
      for (const object of objects.filter(({ kind }) => kind in CUSTOM)) {
        assert.deepEqual(customFaults(object), [], `${object.kind} ${object.metadata.name}`);
      }
    });

    test('names that are used are there', () => {
      for (const { metadata, spec } of workloads()) {
        const pod = spec.template.spec;
        if (pod.serviceAccountName) one('ServiceAccount', pod.serviceAccountName);
        for (const container of pod.containers) {
          for (const { configMapRef, secretRef } of container.envFrom ?? []) {
            if (configMapRef) one('ConfigMap', configMapRef.name);
            if (secretRef) assert.ok(secretNames().includes(secretRef.name), secretRef.name);
          }
          for (const { valueFrom } of container.env ?? []) {
            if (valueFrom?.secretKeyRef) assert.ok(valueFrom.secretKeyRef.key in secretOf(valueFrom.secretKeyRef.name).data, metadata.name);
          }
          for (const probe of [container.startupProbe, container.readinessProbe, container.livenessProbe]) {
            const port = probe?.httpGet?.port ?? probe?.tcpSocket?.port;
            if (port) assert.ok(container.ports.some(({ name }) => name === port), `${metadata.name}: ${port}`);
          }
        }
        for (const { persistentVolumeClaim: claim } of pod.volumes ?? []) if (claim) one('PersistentVolumeClaim', claim.claimName);
        if (spec.selector) assert.ok(matches(spec.selector.matchLabels, spec.template.metadata.labels), metadata.name);
      }
      for (const { metadata, spec } of of('Service')) {
        const pods = podsOf(spec.selector);
        assert.equal(pods.length, 1, metadata.name);
        const ports = pods[0].spec.template.spec.containers.flatMap((container) => container.ports.map(({ name }) => name));
        for (const { targetPort } of spec.ports) assert.ok(ports.includes(targetPort), `${metadata.name}: ${targetPort}`);
      }
      for (const { spec } of of('Ingress')) {
        for (const { backend } of spec.rules.flatMap((rule) => rule.http.paths)) {
          const { ports } = one('Service', backend.service.name).spec;
          assert.ok(ports.some(({ name }) => name === backend.service.port.name));
        }
      }
      for (const { spec } of of('HTTPRoute')) {
        for (const { name, port } of spec.rules.flatMap((rule) => rule.backendRefs)) {
          assert.ok(one('Service', name).spec.ports.some((other) => other.port === port));
        }
      }
      for (const { metadata, spec } of of('ServiceMonitor')) {
        const [service] = of('Service').filter((other) => matches(spec.selector.matchLabels, other.metadata.labels));
        for (const { port } of spec.endpoints) assert.ok(service.spec.ports.some(({ name }) => name === port), metadata.name);
        // The job's name, by which rules and boards go.
        assert.equal(service.metadata.labels[spec.jobLabel], 'chat-gateway');
      }
      for (const { metadata, spec } of of('PodDisruptionBudget')) assert.equal(podsOf(spec.selector.matchLabels).length, 1, metadata.name);
      for (const { spec } of of('NetworkPolicy')) assert.ok(workloads().some((w) => selects(spec.podSelector, w.spec.template.metadata.labels)));
    });

    /** Of this render, and those that something outside makes. */
    function secretNames() {
      const made = overlay === 'production' || overlay === TRACED ? [yaml('k8s/overlays/production/secret.example.yaml').metadata.name] : [];
      return [...of('Secret').map(({ metadata }) => metadata.name), ...of('ExternalSecret').map(({ spec }) => spec.target.name), ...made];
    }

    function secretOf(name) {
      return one('Secret', name);
    }

    test('every container runs with no more rights than it needs', () => {
      for (const { metadata, spec } of workloads()) {
        const pod = spec.template.spec;
        assert.equal(pod.automountServiceAccountToken, false, metadata.name);
        assert.equal(pod.securityContext.runAsNonRoot, true, metadata.name);
        assert.ok(pod.securityContext.runAsUser > 0, metadata.name);
        assert.equal(pod.securityContext.seccompProfile.type, 'RuntimeDefault', metadata.name);
        for (const { securityContext, resources, image } of pod.containers) {
          assert.equal(securityContext.allowPrivilegeEscalation, false, metadata.name);
          assert.deepEqual(securityContext.capabilities, { drop: ['ALL'] }, metadata.name);
          // MySQL writes where its image has put things.
          if (metadata.name !== 'mysql') assert.equal(securityContext.readOnlyRootFilesystem, true, metadata.name);
          for (const name of ['cpu', 'memory']) assert.ok(resources.requests[name], `${metadata.name}: ${name}`);
          assert.ok(resources.limits.memory, metadata.name);
          assert.match(image, /:[\w.-]+$/, metadata.name);
          assert.doesNotMatch(image, /:latest$/, metadata.name);
        }
        // Policies single it out, so that it is closed to all others.
        const chosen = of('NetworkPolicy').filter((policy) => selects(policy.spec.podSelector, spec.template.metadata.labels));
        for (const type of ['Ingress', 'Egress']) assert.ok(chosen.some((policy) => policy.spec.policyTypes.includes(type)), `${metadata.name} ${type}`);
      }
    });

    test('a node gets the time it needs to end, and comes after its migration', () => {
      const deployment = one('Deployment', 'chat-gateway');
      const pod = deployment.spec.template.spec;
      const [node] = pod.containers;
      const needed = node.lifecycle.preStop.sleep.seconds + Number(settings().DRAIN_SECONDS) + 10;
      assert.ok(pod.terminationGracePeriodSeconds > needed);
      assert.ok(node.startupProbe && node.readinessProbe.httpGet.path === '/readyz' && node.livenessProbe.httpGet.path === '/healthz');
      assert.equal(deployment.spec.strategy.rollingUpdate.maxUnavailable, 0);
      const job = one('Job', 'chat-gateway-migrate');
      const [migration] = job.spec.template.spec.containers;
      assert.equal(migration.image, node.image);
      assert.deepEqual(migration.envFrom, node.envFrom);
      assert.equal(settings().AUTO_MIGRATE, 'false');
      const wave = ({ metadata }) => Number(metadata.annotations['argocd.argoproj.io/sync-wave']);
      assert.ok(wave(job) < wave(deployment));
      // What README.md applies first is everything but this.
      const server = objects.filter(({ metadata }) => metadata.labels?.['app.kubernetes.io/component'] === 'server');
      assert.deepEqual(server, [deployment]);
    });

    test('settings are settings', async () => {
      const { output } = await runGateway(['--help'], {}, { bare: true });
      const secrets = [...of('Secret').filter(({ metadata }) => metadata.name.startsWith('chat-gateway')), yaml('k8s/overlays/production/secret.example.yaml')];
      const names = [...Object.keys(settings()), ...secrets.flatMap(({ data, stringData }) => Object.keys(data ?? stringData))];
      names.push(...of('ExternalSecret').flatMap(({ spec }) => spec.data.map(({ secretKey }) => secretKey)));
      for (const name of names) assert.match(output, new RegExp(`^  ${name} \\[default`, 'm'));
      for (const name of ['DATABASE_URL', 'REDIS_URL', 'JWT_SECRET']) assert.ok(names.includes(name));
      assert.equal('OTEL_EXPORTER_OTLP_ENDPOINT' in settings(), overlay === TRACED);
      // What it would refuse, it refuses at once.
      const { code, output: said } = await runGateway(['health'], { ...settings(), JWT_SECRET: 'x'.repeat(32), DATABASE_URL: 'mysql://a:b@127.0.0.1:1/c', PORT: '1' }, { bare: true });
      assert.equal(code, 1);
      assert.match(said, /no answer from/);
    });

    if (overlay !== 'try-out') {
      test('certificates are mounted where they are looked for, whole, and may be missing', () => {
        for (const workload of [one('Deployment', 'chat-gateway'), one('Job', 'chat-gateway-migrate')]) {
          const { volumes, containers } = workload.spec.template.spec;
          assert.deepEqual(volumes, [{ name: 'tls', secret: { secretName: 'chat-gateway-tls', optional: true } }]);
          // Without a subPath, under which it would never be replaced.
          assert.deepEqual(containers[0].volumeMounts, [{ name: 'tls', mountPath: '/tls', readOnly: true }]);
        }
        // Upkeep goes to the same database.
        for (const { metadata, spec } of of('CronJob')) {
          const { volumes, containers } = spec.jobTemplate.spec.template.spec;
          assert.deepEqual(volumes.filter(({ name }) => name === 'tls'), [{ name: 'tls', secret: { secretName: 'chat-gateway-tls', optional: true } }], metadata.name);
          const mounts = containers[0].volumeMounts.filter(({ name }) => name === 'tls');
          assert.deepEqual(mounts, [{ name: 'tls', mountPath: '/tls', readOnly: true }], metadata.name);
        }
        for (const file of ['k8s/overlays/production/kustomization.yaml', 'k8s/overlays/production/secret.example.yaml']) {
          const named = [...text(file).matchAll(/(?:_FILE|ssl-ca)=(\S+?)[,\s]/g)].map(([, name]) => name);
          assert.ok(named.length > 0 && named.every((name) => /^\/tls\/(ca\.crt|tls\.crt|tls\.key)$/.test(name)), String(named));
        }
      });

      test('what keeps the database in shape runs by the clock, with commands that there are', async () => {
        const jobs = of('CronJob');
        const commands = jobs.map(({ spec }) => spec.jobTemplate.spec.template.spec.containers[0].args[0]);
        assert.deepEqual(commands.sort(), ['archive', 'backup', 'optimize']);
        // What nobody should be surprised by waits for somebody to want it.
        assert.deepEqual(jobs.filter(({ spec }) => spec.suspend).map(({ metadata }) => metadata.name), ['chat-gateway-optimize']);
        for (const { metadata, spec } of jobs) {
          const [container] = spec.jobTemplate.spec.template.spec.containers;
          const [command, ...flags] = container.args;
          const { code, output } = await runGateway([command, '--help'], {}, { bare: true });
          assert.equal(code, 0, output);
          for (const flag of flags.filter((word) => word.startsWith('--'))) assert.ok(output.includes(flag), flag);
          assert.deepEqual(container.envFrom, one('Deployment', 'chat-gateway').spec.template.spec.containers[0].envFrom);
          assert.equal(spec.concurrencyPolicy, 'Forbid', metadata.name);
          assert.match(spec.schedule, /^\d+ \d+ \* \* [*\d]$/, metadata.name);
          // The way to the database, which no other policy opens.
          const labels = spec.jobTemplate.spec.template.metadata.labels;
          const ports = of('NetworkPolicy').filter((policy) => selects(policy.spec.podSelector, labels)).flatMap(({ spec: { egress } }) => egress ?? []).flatMap((rule) => rule.ports);
          assert.ok(ports.some(({ port }) => port === 3306), metadata.name);
        }
      });

      test('the nodes, and nobody else, have the way to a collector that their settings name, and to no other', () => {
        const ways = workloads().flatMap(({ metadata, spec }) => {
          const chosen = of('NetworkPolicy').filter((policy) => selects(policy.spec.podSelector, spec.template.metadata.labels));
          const rules = chosen.flatMap((policy) => policy.spec.egress ?? []).filter((rule) => rule.ports.some(({ port }) => port === 4318));
          return rules.map((rule) => ({ from: metadata.name, ...rule }));
        });
        if (overlay !== TRACED) return assert.deepEqual(ways, []);
        assert.deepEqual(ways.map(({ from }) => from), ['chat-gateway']);
        const collector = new URL(settings().OTEL_EXPORTER_OTLP_ENDPOINT);
        const [{ to: [{ namespaceSelector, podSelector }], ports }] = ways;
        const [service, namespace] = collector.hostname.split('.');
        assert.deepEqual(namespaceSelector.matchLabels, { 'kubernetes.io/metadata.name': namespace });
        assert.deepEqual(podSelector.matchLabels, { 'app.kubernetes.io/name': service });
        assert.deepEqual(ports, [{ protocol: 'TCP', port: Number(collector.port) }]);
      });

      test('the autoscaler asks for figures that the adapter knows, and alone says how many', () => {
        const { spec } = one('HorizontalPodAutoscaler');
        const known = yaml('k8s/components/autoscaling/prometheus-adapter.values.yaml').rules.custom.map(({ name }) => name.as);
        const asked = spec.metrics.filter(({ type }) => type === 'Pods').map(({ pods }) => pods.metric.name);
        assert.deepEqual(asked.sort(), known.sort());
        assert.ok(spec.metrics.some(({ resource }) => resource?.name === 'cpu'));
        assert.equal(one(spec.scaleTargetRef.kind, spec.scaleTargetRef.name).spec.replicas, undefined);
        assert.ok(spec.minReplicas > one('PodDisruptionBudget').spec.maxUnavailable + 1);
      });

      test('the rules and boards are those that are tested', () => {
        const rules = of('PrometheusRule').flatMap(({ spec }) => spec.groups);
        const files = ['recording', 'alerts'].flatMap((name) => yaml(`monitoring/prometheus/rules/${name}.yml`).groups);
        // Objects and groups come in an order of kustomize's own.
        assert.deepEqual(new Set(rules.map(({ name }) => name)), new Set(files.map(({ name }) => name)));
        const flat = (groups) => Object.fromEntries(groups.flatMap((group) => group.rules).map((rule) => [rule.alert ?? rule.record, rule]));
        assert.deepEqual(flat(rules), flat(files), 'run `make k8s-rules`');
        const boards = one('ConfigMap', 'chat-boards');
        for (const [name, content] of Object.entries(boards.data)) assert.equal(content, text('monitoring/grafana/dashboards', name));
        // Beyond this, `kubectl apply` can't note what it applied.
        assert.ok(JSON.stringify(boards).length < 250_000);
      });
    }
  });
}

describe('the checks themselves', () => {
  test('a misspelt field, a wrong type and a missing one are found', async () => {
    const [deployment] = list('k8s/base', 'deployment.yaml').map((file) => text(file));
    for (const [right, wrong] of [['minReadySeconds: 10', 'minReadySecond: 10'], ['replicas: 2', 'replicas: two'], ['image: chat-gateway', 'imago: chat-gateway']]) {
      assert.ok(deployment.includes(right));
      const file = path.join(temporaryFolder(), 'wrong.yaml');
      writeFileSync(file, deployment.replace(right, wrong));
      assert.notEqual((await runTool('kubernetes-validate', ['--strict', '-k', VERSIONS[0], file])).code, 0, wrong);
    }
    const route = yaml('k8s/components/gateway-api/route.yaml');
    assert.deepEqual(customFaults(route), []);
    for (const change of [
      (r) => (r.spec.rules[0].matches[0].path.type = 'Prefix'),
      (r) => (r.spec.rules[0].timeout = { request: '0s' }),
      (r) => delete r.spec.parentRefs[0].name,
    ]) {
      const wrong = structuredClone(route);
      change(wrong);
      assert.notDeepEqual(customFaults(wrong), [], change.toString());
    }
  });
});

/** A copy of the manifests in which production has what it mentions in a comment. */
function tracedProduction() {
  const folder = temporaryFolder();
  for (const name of ['k8s', 'monitoring']) cpSync(at(name), path.join(folder, name), { recursive: true });
  const file = path.join(folder, 'k8s/overlays/production/kustomization.yaml');
  const before = readFileSync(file, 'utf8');
  const after = before.replace('  # - ../../components/tracing\n', '  - ../../components/tracing\n');
  assert.notEqual(after, before);
  writeFileSync(file, after);
  return path.dirname(file);
}

async function render(folder) {
  const { code, stdout, stderr } = await runTool('kubectl', ['kustomize', folder]);
  assert.equal(code, 0, stderr);
  return YAML.parseAllDocuments(stdout).map((document) => document.toJS());
}

/** What is wrong with a custom resource: by its schema, which lets unknown fields pass; and those, by the types of the same package. */
function customFaults(object) {
  const faults = [];
  try {
    new CUSTOM[object.kind](object).validate();
  } catch (error) {
    faults.push(error.message);
  }
  const [group, version] = TYPES[object.kind];
  const folder = path.dirname(createRequire(import.meta.url).resolve(`@kubernetes-models/${group}/package.json`));
  unknownFields(object, path.join(folder, version, `${object.kind}.js`), object.kind, faults);
  return faults;
}

const OPERATOR = ['prometheus-operator', 'monitoring.coreos.com/v1'];
const TYPES = {
  ...{ ExternalSecret: ['external-secrets', 'external-secrets.io/v1'], HTTPRoute: ['gateway-api', 'gateway.networking.k8s.io/v1'] },
  ...{ PrometheusRule: OPERATOR, ServiceMonitor: OPERATOR },
};

/** Adds to `faults` every field of `value` that its type, the interface in `file`, does not have. */
function unknownFields(value, file, place, faults) {
  const fields = fieldsOf(file);
  // A union of strings and the like has no fields.
  if (fields.size === 0) return;
  for (const [key, item] of Object.entries(value)) {
    if (!fields.has(key)) faults.push(`${place}.${key} is no field`);
    // Types of other packages (metadata, selectors) are Kubernetes' own.
    const next = fields.get(key);
    if (!next) continue;
    for (const one of Array.isArray(item) ? item : [item]) {
      if (one && typeof one === 'object') unknownFields(one, next, `${place}.${key}`, faults);
    }
  }
}

/** The fields of the interface in a file, with the file of each one's own type, where that is of the same package. */
function fieldsOf(file) {
  const declarations = readFileSync(file.replace(/\.js$/, '.d.ts'), 'utf8');
  const imports = [...declarations.matchAll(/import \{ (\w+) \} from "(\.[^"]+)"/g)];
  const fileOf = (type) => imports.filter(([, name]) => type.match(`\\b${name}\\b`)).map(([, , from]) => path.join(path.dirname(file), from));
  const [, parents = '', body = ''] = /export interface \w+(?: extends ([\w, ]+))? \{\n([\s\S]*?)\n?\}\n/.exec(declarations) ?? [];
  const inherited = fileOf(parents).flatMap((parent) => [...fieldsOf(parent)]);
  return new Map([...inherited, ...[...body.matchAll(/^ {4}"([^"]+)"\??: (.*?);?$/gm)].map(([, name, type]) => [name, fileOf(type)[0]])]);
}

function matches(selector, labels) {
  return Object.entries(selector).every(([key, value]) => labels?.[key] === value);
}

function selects({ matchLabels = {}, matchExpressions = [] }, labels) {
  return matches(matchLabels, labels) && matchExpressions.every(({ key, values }) => values.includes(labels?.[key]));
}
