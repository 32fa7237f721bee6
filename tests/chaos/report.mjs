// What is printed: a line of progress every few seconds, and the report at the end.

import { KINDS as VIOLATIONS } from './checker.mjs';

/** The state of a run in a line. */
export function progressLine({ seconds, ledger, cast, faults, verdict }) {
  const { heard, reconnects } = sums(cast);
  const up = cast.participants.filter((one) => one.isPresent).length;
  return [
    `${String(Math.round(seconds)).padStart(4)} s`,
    `${ledger.sent} sent`,
    `${ledger.acknowledged} acknowledged`,
    `${heard} heard`,
    `${up} of ${cast.participants.length} readers there`,
    `${reconnects} reconnects`,
    `${faults.length} faults`,
    `${Object.keys(VIOLATIONS).reduce((sum, kind) => sum + verdict.count(kind), 0)} violations`,
  ].join(', ');
}

/** The whole run, as lines. */
export function reportLines({ seed, again, minFaults, ledger, cast, faults, verdict, stored, events, counted, withoutPort }) {
  const all = sums(cast);
  const others = Object.keys(VIOLATIONS).filter((kind) => !PROMISED.includes(kind) && verdict.count(kind) > 0);
  return [
    '',
    `messages    ${ledger.sent} sent, ${ledger.acknowledged} acknowledged, ${stored ?? '?'} stored, ${events ?? '?'} events in the log`,
    `attempts    ${all.attempts}, of which failed: ${list(all.failures) || 'none'}`,
    `readers     ${cast.participants.length}, of which ${all.stayed} never lost their connection`,
    `heard       ${all.heard} live, ${all.synced} by ${all.syncs} calls of sync`,
    `reconnects  ${all.reconnects}, of which ${all.recoveries} recovered (${list(all.ends) || 'no ends'})`,
    `nodes       ${list(new Map(Object.entries(counted)))}`,
    `faults      ${faults.length} (at least ${minFaults} wanted): ${list(countBy(faults, (fault) => fault.kind))}`,
    `delay       ${all.longestLive.ms} ms at most to a reader that listened: ${all.longestLive.what}`,
    `            ${all.longest.ms} ms at most to any: ${all.longest.what}`,
    ...(withoutPort
      ? [`machine     ${withoutPort} times a node found no free port to connect from: something else takes them all, and what is late may be late for it`]
      : []),
    ...verdict.violations.slice(0, SHOWN).map(violationLine),
    ...(verdict.violations.length > SHOWN ? [`            and ${verdict.violations.length - SHOWN} more`] : []),
    ...others.map((kind) => `${kind.padEnd(11)} ${verdict.count(kind)}: ${VIOLATIONS[kind]}`),
    `seed        ${seed}: to run it again, ${again}`,
    `${verdict.count('lost')} lost, ${verdict.count('doubled')} doubled, ${verdict.count('disordered')} out of order` +
      (others.length > 0 ? `; ${others.map((kind) => `${verdict.count(kind)} ${kind}`).join(', ')}` : ''),
  ];
}

/** A violation in a line. */
export function violationLine({ kind, text, at }) {
  return `VIOLATION   ${new Date(at).toISOString()} ${kind}: ${text}`;
}

const SHOWN = 30;
const PROMISED = ['lost', 'doubled', 'disordered'];

function sums({ participants, senders }) {
  const total = (numbers) => numbers.reduce((a, b) => a + b, 0);
  const books = participants.map((one) => one.notebook.counts);
  const entries = senders.flatMap((sender) => sender.entries);
  return {
    heard: total(books.map((book) => book.heard)),
    synced: total(books.map((book) => book.synced)),
    syncs: total(participants.map((one) => one.counts.syncs)),
    reconnects: total(participants.map((one) => one.reconnects)),
    recoveries: total(participants.map((one) => one.counts.recoveries)),
    stayed: participants.filter((one) => one.reconnects === 0).length,
    ends: merged(participants.map((one) => one.counts.ends)),
    attempts: total(entries.map((entry) => entry.attempts)),
    failures: merged(senders.map((sender) => sender.failures)),
    longest: greatest(participants.map((one) => one.notebook.longest)),
    longestLive: greatest(participants.map((one) => one.notebook.longestLive)),
  };
}

function greatest(delays) {
  return delays.reduce((a, b) => (b.ms > a.ms ? b : a), { ms: 0 });
}

function merged(maps) {
  const sum = new Map();
  for (const map of maps) for (const [key, n] of map) sum.set(key, (sum.get(key) ?? 0) + n);
  return sum;
}

function countBy(list, key) {
  const counts = new Map();
  for (const item of list) counts.set(key(item), (counts.get(key(item)) ?? 0) + 1);
  return counts;
}

function list(counts) {
  return [...counts].sort(([a], [b]) => (String(a) < String(b) ? -1 : 1)).map(([key, n]) => `${n} ${key}`).join(', ');
}
