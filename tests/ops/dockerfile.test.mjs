// The Dockerfile. There is no builder here: it is read as one would read it, its COPY steps are done, and Cargo is asked whether it could
// build what they leave.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { describe } from 'node:test';
import { promisify } from 'node:util';
import { temporaryFolder } from '../e2e/harness/processes.mjs';
import { limitedTest as test } from '../e2e/harness/setups.mjs';
import { composeFile } from './harness/compose.mjs';
import { copied, copyInto, passes, stagesOf } from './harness/dockerfile.mjs';
import { at, list, text, yaml } from './harness/files.mjs';

const run = promisify(execFile);
const stages = stagesOf(text('Dockerfile'));
const last = stages.at(-1);
const stage = (name) => stages.find((one) => one.name === name);

/** The Debian that an image is of: its number. */
function debianOf(image) {
  const releases = { bookworm: 12, trixie: 13 };
  const [, number, name] = /debian:?(\d+)|(bookworm|trixie)/.exec(image) ?? assert.fail(`which Debian is ${image}?`);
  return Number(number ?? releases[name]);
}

/** The packages that a stage installs. */
function packagesOf({ steps }) {
  return steps.filter(({ word }) => word === 'RUN').flatMap(({ text: command }) => {
    const [, words] = /apt-get install ([^&]+)/.exec(command) ?? [];
    return words ? words.trim().split(/\s+/).filter((one) => !one.startsWith('-')) : [];
  });
}

describe('Dockerfile', () => {
  test('its stages have names of their own, and take only from stages before them', () => {
    const names = stages.map(({ name }) => name).filter(Boolean);
    assert.equal(new Set(names).size, names.length);
    for (const [i, { from, steps }] of stages.entries()) {
      const before = stages.slice(0, i).map(({ name }) => name);
      // Else it is an image, and pinned.
      if (!before.includes(from)) assert.match(from, /^[\w./-]+:[\w.-]+(@sha256:[0-9a-f]{64})?$/);
      assert.doesNotMatch(from, /:latest/);
      for (const { flags } of steps) if (flags.from) assert.ok(before.includes(flags.from), `COPY --from=${flags.from}`);
    }
  });

  test('what it copies is there, and let through by .dockerignore, which lets nothing else through', () => {
    const ignore = text('.dockerignore');
    const sources = stages.flatMap(({ steps }) => steps.filter(({ word, flags }) => word === 'COPY' && !flags.from).flatMap((step) => copied(step).sources));
    assert.ok(sources.length > 5);
    for (const source of sources) {
      assert.ok(existsSync(at(source)), source);
      assert.ok(passes(ignore, source), `${source} is ignored`);
    }
    for (const rule of ignore.split('\n').filter((line) => line.startsWith('!')).map((line) => line.slice(1))) {
      assert.ok(sources.includes(rule), `nobody copies ${rule}`);
    }
    assert.ok(!passes(ignore, '.env'));
  });

  test('what is copied from another stage is what was made there', () => {
    const made = stage('build').steps.filter(({ word }) => word === 'RUN').at(-1).text;
    const taken = stages.flatMap(({ steps }) => steps.filter(({ flags }) => flags.from === 'build'));
    assert.equal(taken.length, 2);
    for (const step of taken) {
      const { sources: [source], to } = copied(step);
      assert.equal(source, '/src/target/release/gateway');
      assert.ok(made.includes('target/release/gateway'));
      assert.equal(to, '/usr/local/bin/gateway');
    }
    assert.ok(stage('dependencies').steps.some(({ word, text: folder }) => word === 'WORKDIR' && folder === '/src'));
  });

  test('Cargo could build what each stage has been given', { timeout: 120_000 }, async () => {
    const folder = temporaryFolder();
    for (const { steps } of [stage('dependencies'), stage('build')]) {
      copyInto(folder, at(), steps);
      for (const { text: command } of steps.filter(({ word }) => word === 'RUN')) {
        assert.match(command, /cargo build --release --package gateway/);
        // What it would compile, in place of compiling it for minutes.
        const asked = command
          .replace('cargo build --release --package gateway', 'cargo tree --offline --package gateway --edges normal,build --depth 1')
          .replace(/&& strip .*$/, '');
        const { stdout } = await run('sh', ['-c', asked], { cwd: folder, env: { ...process.env, CARGO_TARGET_DIR: `${folder}/target` } });
        assert.match(stdout, /^gateway v/);
        assert.match(stdout, /shared v/);
      }
    }
    // What the sources take in at compile time.
    const outside = (await run('grep', ['-rhoE', '(include_str|include_bytes|migrate)!\\("[^"]+"', at('gateway/src'), at('shared/src')])).stdout;
    const places = [...outside.matchAll(/"\.\.\/migrations\/(\w+)"/g)].map(([, name]) => name);
    assert.deepEqual(places.sort(), ['mysql', 'sqlite']);
    for (const name of places) assert.ok(existsSync(`${folder}/migrations/${name}`), name);
    for (const file of ['gateway/src/main.rs', 'shared/src/lib.rs', 'gateway/build.rs']) assert.equal(readFileSync(`${folder}/${file}`, 'utf8'), text(file));
  });

  test('all images are of one Debian, whose C library the binary needs', () => {
    const images = stages.map(({ from }) => from).filter((from) => !stage(from));
    assert.equal(images.length, 3);
    assert.equal(new Set(images.map(debianOf)).size, 1, String(images));
    // The compiler is one that the sources take.
    const [, wanted] = /rust-version = "([\d.]+)"/.exec(text('Cargo.toml'));
    assert.ok(stage('dependencies').from.startsWith(`rust:${wanted}`));
  });

  test('what runs is no root, has no shell to speak of, and is asked by itself', () => {
    for (const { name, steps } of [last, stage('upkeep')]) {
      const of = (word) => steps.filter((step) => step.word === word).map((step) => step.text);
      assert.equal(of('USER').length, 1, name);
      assert.match(of('USER')[0], /^[1-9]\d*:[1-9]\d*$/, name);
      assert.deepEqual(JSON.parse(of('ENTRYPOINT')[0]), [copied(steps.find(({ flags }) => flags.from)).to], name);
      // Nothing is put there after the rights are given up.
      assert.ok(steps.findIndex(({ word }) => word === 'USER') > steps.findLastIndex(({ word }) => word === 'COPY' || word === 'RUN'), name);
    }
    assert.ok(!last.steps.some(({ word }) => word === 'RUN'));
    assert.ok(last.steps.some(({ word }) => word === 'HEALTHCHECK'));
    assert.deepEqual(JSON.parse(last.steps.find(({ word }) => word === 'CMD').text), ['serve']);
    // Upkeep is told what to do, or says what there is to do: it never serves by mistake.
    assert.ok(!stage('upkeep').steps.some(({ word }) => word === 'CMD' || word === 'EXPOSE'));
  });
});

describe('the images that are used', () => {
  /** What is built of a name, by the way this repository calls them: `chat-gateway`, and `chat-gateway-STAGE`. */
  const built = (name) => (name === 'chat-gateway' ? last : stage(name.replace(/^chat-gateway-/, '')));

  test('Compose builds a stage that there is', () => {
    const own = Object.entries(composeFile().services).filter(([, { build }]) => build);
    assert.ok(own.length >= 3);
    for (const [name, { build, image }] of own) {
      const { context, target, dockerfile = 'Dockerfile' } = typeof build === 'string' ? { context: build } : build;
      assert.ok(existsSync(at(context, dockerfile)), name);
      assert.ok(target ? stage(target) : image.startsWith('chat-gateway:'), `${name}: ${target}`);
    }
  });

  test('the manifests name images that are built, and production says where each of them is', () => {
    const files = ['base', ...['autoscaling', 'external-secret', 'gateway-api', 'ingress', 'tls', 'tracing', 'upkeep'].map((name) => `components/${name}`)]
      .flatMap((folder) => list(`k8s/${folder}`, '.yaml'));
    const used = new Set(files.flatMap((file) => [...text(file).matchAll(/^\s*(?:- )?image: (\S+)$/gm)].map(([, name]) => name)));
    assert.deepEqual([...used].sort(), ['chat-gateway', 'chat-gateway-upkeep']);
    const { images } = yaml('k8s/overlays/production/kustomization.yaml');
    for (const name of used) {
      assert.ok(built(name), `no stage makes ${name}`);
      const placed = images.find((one) => one.name === name);
      assert.ok(placed?.newName.endsWith(`/${name}`) && (placed.newTag || placed.digest), name);
    }
    assert.equal(new Set(images.map(({ newTag }) => newTag)).size, 1, 'one version of all');
  });

  test('what documents say of building is right', () => {
    const files = ['README.md', 'Dockerfile', 'k8s/README.md', 'k8s/components/upkeep/kustomization.yaml', ...list('docs', '.md')];
    const commands = files.flatMap((file) => [...text(file).matchAll(/docker build ([^`'\n&]*)/g)].map(([, words]) => ({ file, words })));
    assert.ok(commands.length >= 3);
    for (const { file, words } of commands) {
      const [, target] = /--target[ =](\S+)/.exec(words) ?? [];
      const [, tag] = /-t (\S+)/.exec(words) ?? [];
      if (target) assert.ok(stage(target), `${file}: ${target}`);
      if (tag) assert.equal(built(tag.split(':')[0]), target ? stage(target) : last, `${file}: ${tag}`);
    }
    assert.match(text('docs/upkeep.md'), /the target `upkeep` of the Dockerfile/);
  });

  test('the command that needs the database\'s tools has them', () => {
    for (const file of ['archive', 'optimize', 'backup']) {
      const [, image] = /image: (\S+)/.exec(text(`k8s/components/upkeep/${file}.yaml`));
      assert.equal(image, file === 'backup' ? 'chat-gateway-upkeep' : 'chat-gateway', file);
    }
  });
});

const machine = Object.fromEntries(
  (existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : '').split('\n').map((line) => line.replaceAll('"', '').split('=')),
);
// On another release the index tells nothing of this one's.
if (machine.ID === 'debian' && Number(machine.VERSION_ID) === debianOf(stage('upkeep').from)) {
  describe(`the packages, in Debian ${machine.VERSION_ID}`, () => {
    const packages = packagesOf(stage('upkeep'));
    const ask = async (...words) => (await run('apt-cache', words)).stdout;

    test('are there', async () => {
      assert.ok(packages.length > 0);
      for (const name of packages) assert.match(await ask('policy', name), /^ {2}Candidate: \d/m, name);
    });

    test('bring the programs that backup and restore look for', async () => {
      const needed = [...packages];
      for (const name of packages) needed.push(...[...(await ask('depends', '--no-recommends', '--no-suggests', name)).matchAll(/Depends: (\S+)/g)].map(([, other]) => other));
      const source = text('gateway/src/store/sql/backup/tools.rs');
      const pairs = [...source.matchAll(/\["(mariadb\S*)", "(mysql\S*)"\]/g)].map(([, one]) => one);
      assert.deepEqual(pairs.sort(), ['mariadb', 'mariadb-dump']);
      for (const program of pairs) {
        // The tests run with these packages installed.
        const { stdout } = await run('dpkg', ['--search', `/usr/bin/${program}`]);
        assert.ok(needed.includes(stdout.split(':')[0]), `${program} is of ${stdout}`);
      }
    });
  });
}
