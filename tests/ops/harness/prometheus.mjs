// Debian's Prometheus with the committed configuration: its rules as they are, its targets a test's own.

import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import axios from 'axios';
import { eventually, freePort, Program, temporaryFolder } from '../../e2e/harness/processes.mjs';
import { at } from './files.mjs';

/** A Prometheus that runs. */
export class Prometheus {
  /**
   * Starts it for `targets`: for each job's folder, groups as Prometheus reads them from a file. `command`: its flags, as
   * a container is given them. */
  static async start(targets, command = []) {
    const prometheus = new Prometheus();
    const folder = temporaryFolder();
    for (const name of ['prometheus.yml', 'rules']) symlinkSync(at('monitoring/prometheus', name), path.join(folder, name));
    for (const [job, groups] of Object.entries(targets)) {
      mkdirSync(path.join(folder, 'targets', job), { recursive: true });
      writeFileSync(path.join(folder, 'targets', job, 'test.yml'), JSON.stringify(groups));
    }
    const port = await freePort();
    prometheus.url = `http://127.0.0.1:${port}`;
    const placed = [/^--config\.file=/, /^--storage\.tsdb\.path=/];
    prometheus.program = new Program('prometheus', [
      ...command.filter((flag) => !placed.some((kind) => kind.test(flag))),
      `--config.file=${folder}/prometheus.yml`,
      `--storage.tsdb.path=${folder}/data`,
      `--web.listen-address=127.0.0.1:${port}`,
    ]);
    await eventually('Prometheus is ready', async () => {
      prometheus.program.mustRun();
      return (await axios.get(`${prometheus.url}/-/ready`, OPTIONS).catch(() => undefined))?.status === 200;
    });
    return prometheus;
  }

  /** What its API answers; fails where that is an error. */
  async ask(call, params) {
    const { data } = await axios.get(`${this.url}/api/v1/${call}`, { ...OPTIONS, params });
    if (data.status !== 'success') throw new Error(`${call} ${JSON.stringify(params)}: ${data.errorType}: ${data.error}`);
    return data.data;
  }

  /** The values of an expression now, by their labels: `[{labels, value}]`, without those that are no number. */
  async query(expression) {
    const { result, resultType } = await this.ask('query', { query: expression });
    const samples = resultType === 'vector' ? result : [{ metric: {}, value: result }];
    return samples.map(({ metric, value }) => ({ labels: metric, value: Number(value[1]) })).filter(({ value }) => !Number.isNaN(value));
  }

  stop() {
    return this.program.stop();
  }
}

const OPTIONS = { validateStatus: () => true, timeout: 10_000, proxy: false };
