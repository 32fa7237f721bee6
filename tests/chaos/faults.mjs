// How each fault is done, and undone. What happens when is decided in schedule.mjs.

import { pause } from '../e2e/harness/processes.mjs';
import { describeFault } from './schedule.mjs';

/**
 * Does the faults of a plan, each at its time; resolves when the last is over. A fault waits for the end of an earlier one
 * of the same thing, since a node may take longer to come back than was planned. `told` hears of each as it begins.
 */
export async function perform(faults, { stage, cast, verdict, told }) {
  const began = Date.now();
  const underWay = new Map();
  const all = [];
  for (const fault of faults) {
    await pause(Math.max(0, fault.at - (Date.now() - began)));
    await Promise.all(fault.of.map((thing) => underWay.get(thing)));
    told(fault);
    const doing = FAULTS[fault.kind](fault, { stage, cast }).catch((error) => {
      verdict.add('broken', `${describeFault(fault)}: ${error.message}`);
    });
    for (const thing of fault.of) underWay.set(thing, doing);
    all.push(doing);
  }
  await Promise.all(all);
}

const FAULTS = {
  'node-kill': async ({ node, ms }, { stage }) => {
    await stage.nodes[node].kill();
    await pause(ms);
    await stage.nodes[node].start();
  },
  'node-term': async ({ node, down }, { stage }) => {
    await stage.nodes[node].terminate();
    await pause(down);
    await stage.nodes[node].start();
  },
  'redis-kill': ({ ms }, { stage }) => killAndStart(stage.redis, ms),
  'redis-freeze': ({ ms }, { stage }) => freezeAndThaw(stage.redis, ms),
  'redis-flush': (_fault, { stage }) => stage.redis.flush(),
  'db-kill': ({ ms }, { stage }) => killAndStart(stage.mariadb, ms),
  'db-freeze': ({ ms }, { stage }) => freezeAndThaw(stage.mariadb, ms),
  'link-cut': async (fault, { stage }) => {
    const link = linkOf(fault, stage);
    link.cut();
    await pause(fault.ms);
    await link.mend();
  },
  'link-reset': async (fault, { stage }) => linkOf(fault, stage).reset(),
  'link-delay': async (fault, { stage }) => {
    const link = linkOf(fault, stage);
    link.delay(fault.late);
    await pause(fault.ms);
    link.delay(0);
  },
  'link-hole': async (fault, { stage }) => {
    const link = linkOf(fault, stage);
    link.hold(...fault.directions);
    await pause(fault.ms);
    link.release();
  },
  'reader-stall': ({ reader, ms }, { cast }) => cast.stall(reader, ms),
};

async function killAndStart(server, ms) {
  await server.kill();
  await pause(ms);
  await server.start();
}

async function freezeAndThaw(server, ms) {
  server.freeze();
  await pause(ms);
  server.thaw();
}

function linkOf({ link }, stage) {
  return stage.nodes[link.node].links[link.to];
}
