// One run from the empty stage to the verdict.

import os from 'node:os';
import path from 'node:path';
import { mkdirSync, writeFileSync } from 'node:fs';
import { eventually, pause, within } from '../e2e/harness/processes.mjs';
import { Cast } from './cast.mjs';
import { checkSendOrder, checkStored, Ledger, Verdict } from './checker.mjs';
import { perform } from './faults.mjs';
import { Random } from './random.mjs';
import { progressLine, reportLines, violationLine } from './report.mjs';
import { describeFault, plan } from './schedule.mjs';
import { Stage } from './stage.mjs';

const PROGRESS_MS = 5000;

/** After everything is healed, so long may a sender wait for its answer, a reader come back, the outbox run empty. */
const PATIENCE_MS = 60_000;

/** Then still so long for what comes a second time, as from a node that publishes what another one has published. */
const AFTERMATH_MS = 4000;

/**
 * Plays, and returns `{verdict, lines, faults, logs}`: the report as lines, and the folder of the logs where they were kept.
 * `say` gets the progress.
 *
 * `bounds` are those of `plan`; `rate` is messages a second over all senders while nothing is wrong; `keep` keeps the logs
 * whatever was found; `again` is the command that plays the same.
 */
export async function runChaos({ seed, seconds, minFaults, kinds, bounds = {}, rate = 60, keep = false, again, say = () => {} }) {
  const random = new Random(seed);
  const verdict = new Verdict();
  const ledger = new Ledger(verdict);
  const stage = new Stage(verdict);
  const cast = new Cast({ stage, ledger, verdict, random, seconds, rate });
  const faults = [];
  const found = {};
  const run = { seed, again, minFaults, ledger, cast, faults, verdict, counted: stage.counted };
  const timeline = [];
  const note = (text) => {
    timeline.push(`${new Date().toISOString()} ${text}`);
    say(text);
  };

  let progress;
  try {
    note(`seed ${seed}: starting`);
    await stage.start();
    await cast.gather();
    const began = Date.now();
    progress = setInterval(() => note(progressLine({ ...run, seconds: (Date.now() - began) / 1000 })), PROGRESS_MS);

    const writing = cast.write();
    const schedule = plan({ random: random.fork('plan'), seconds, kinds, readers: cast.stallable.length, ...bounds });
    const told = (fault) => {
      faults.push(fault);
      note(`     ${fault.number}. ${describeFault(fault)}`);
    };
    await perform(schedule, { stage, cast, verdict, told });
    await pause(Math.max(0, began + seconds * 1000 - Date.now()));
    note('healing');
    await stage.heal();
    await calmDown({ stage, cast, verdict, writing });
    Object.assign(found, await examine({ stage, cast, ledger, verdict }));
    for (const node of stage.nodes) await stage.tally(node.gateway);
    if (faults.length < minFaults) verdict.add('tame', `${faults.length} faults were done, and ${minFaults} are wanted`);
  } catch (error) {
    // Not the gateway's fault, or not known to be: there is no report, but there are logs.
    note(`broken off; logs are in ${keepLogs(stage, seed, timeline, verdict)}`);
    throw error;
  } finally {
    clearInterval(progress);
    cast.close();
    await stage.stop();
  }
  if (keep || verdict.violations.length > 0) found.logs = keepLogs(stage, seed, timeline, verdict);
  const lines = reportLines({ ...run, ...found });
  if (found.logs) lines.splice(-1, 0, `logs are in ${found.logs}`);
  return { verdict, lines, faults, logs: found.logs };
}

/** Everything sent is answered, everybody is back and has everything, nothing is left to publish: or the verdict says what not. */
async function calmDown({ stage, cast, verdict, writing }) {
  cast.stopWriting();
  await within(PATIENCE_MS, writing, () => 'every message is acknowledged').catch(() => cast.giveUp());
  const heads = await stage.query('SELECT id, lastSeq FROM Conversations');
  const lastSeq = new Map(heads.map((row) => [row.id, row.lastSeq]));
  const hasAll = ({ notebook }) => notebook.conversations.every((id) => notebook.lastSeq(id) >= lastSeq.get(id));
  // Who lacks something shows in the examination, with what it lacks.
  await eventually('everybody has everything', () => cast.participants.every((one) => one.isPresent && hasAll(one)), PATIENCE_MS).catch(() => {});
  for (const one of cast.participants) {
    if (!one.isPresent) verdict.add('absent', `${one.name} is not back ${PATIENCE_MS / 1000} s after everything was healed`);
  }
  const isStruck = async () => (await stage.query('SELECT COUNT(*) AS n FROM Outbox'))[0].n === 0;
  await eventually('the outbox is empty', isStruck, PATIENCE_MS).catch(async () => {
    for (const row of await stage.query('SELECT * FROM Outbox')) verdict.add('leftover', JSON.stringify(row));
  });
  await pause(AFTERMATH_MS);
}

/** Looks at everything from outside. */
async function examine({ stage, cast, ledger, verdict }) {
  const messages = await stage.query(
    `SELECT id, conversationId, senderId, content, seq, eventSeq, CAST(clientMessageId AS CHAR) AS clientMessageId
     FROM Messages ORDER BY conversationId, seq`,
  );
  const events = await stage.query('SELECT conversationId, eventSeq, messageId FROM ConversationEvents');
  const conversations = await stage.query('SELECT id, lastSeq, lastEventSeq FROM Conversations');
  checkStored({ messages, events, conversations }, ledger, verdict);
  for (const sender of cast.senders) checkSendOrder(sender.entries, verdict);
  const stored = new Map(conversations.map(({ id }) => [id, []]));
  for (const row of messages) stored.get(row.conversationId).push(row);
  for (const { notebook } of cast.participants) {
    for (const id of notebook.conversations) notebook.checkAgainst(id, stored.get(id));
  }
  stage.checkLogs(cast.marker);
  return { stored: messages.length, events: events.length, withoutPort: stage.withoutPort };
}

function keepLogs(stage, seed, timeline, verdict) {
  const folder = path.join(os.tmpdir(), `chat-chaos-${seed}-${process.pid}`);
  mkdirSync(folder, { recursive: true });
  stage.keepLogs(folder);
  writeFileSync(path.join(folder, 'timeline.log'), `${timeline.join('\n')}\n`);
  writeFileSync(path.join(folder, 'violations.log'), `${verdict.violations.map(violationLine).join('\n')}\n`);
  return folder;
}
