// Which faults happen, when, to whom and for how long: all of it follows from the seed. How a fault is done is in
// faults.mjs.

/** How long DRAIN_SECONDS is for the nodes: a SIGTERM takes about so long. */
export const DRAIN_SECONDS = 3;

/** At most so many faults at a time. With three nodes one is then always left, for more than a moment. */
const AT_ONCE = 2;

/** Rest between two faults of one thing: long enough to begin to heal, short enough to be hit while healing. */
const REST_MS = 1500;

/**
 * Every kind. `draw` chooses the particulars: `ms` is how long it lasts, `of` what it takes; two faults of the same thing
 * are never at once. Only one node is down at a time.
 */
export const KINDS = {
  'node-kill': (random, { nodes, most }) => {
    const node = random.between(0, nodes - 1);
    return { node, ms: random.between(500, most), of: ['nodes', `node ${node}`] };
  },
  'node-term': (random, { nodes, most }) => {
    const node = random.between(0, nodes - 1);
    const down = random.between(0, most / 2);
    return { node, down, ms: DRAIN_SECONDS * 1000 + down, of: ['nodes', `node ${node}`] };
  },
  'redis-kill': (random, { most }) => ({ ms: random.between(0, most), of: ['redis'] }),
  'redis-freeze': (random, { most }) => ({ ms: random.between(1000, most), of: ['redis'] }),
  'redis-flush': () => ({ ms: 0, of: ['redis'] }),
  'db-kill': (random, { most }) => ({ ms: random.between(0, most), of: ['db'] }),
  'db-freeze': (random, { most }) => ({ ms: random.between(1000, most), of: ['db'] }),
  'link-cut': (random, bounds) => ({ ...someLink(random, bounds), ms: random.between(200, bounds.most) }),
  'link-reset': (random, bounds) => ({ ...someLink(random, bounds), ms: 0 }),
  'link-delay': (random, bounds) => ({
    ...someLink(random, bounds),
    late: random.pick([20, 100, 400]),
    ms: random.between(1000, bounds.most),
  }),
  'link-hole': (random, bounds) => ({
    ...someLink(random, bounds),
    directions: random.pick([['in'], ['out'], ['in', 'out']]),
    ms: random.between(1000, bounds.most),
  }),
  'reader-stall': (random, { readers }) => ({
    reader: random.between(0, readers - 1),
    // The kernels keep some 4 MB for it: shorter, and its outbox would not even notice.
    ms: random.between(5000, 8000),
    of: ['reader'],
  }),
};

/**
 * The faults of a run: `[{number, kind, at, ms, of, ...}]`, times in milliseconds from the start, in order.
 *
 * Kinds are dealt like cards, each once before any again, so that a short run has as many of them as fit. `gap` is the
 * least and the greatest time between two starts, `most` the longest that a fault lasts.
 */
export function plan({ random, seconds, kinds = Object.keys(KINDS), gap = [1500, 6500], most = 8000, nodes = 3, readers = 1 }) {
  const end = seconds * 1000;
  const faults = [];
  const freeAt = new Map();
  let deck = [];
  // Some time to chat in peace first.
  let at = Math.min(2000, gap[1]);
  for (;;) {
    if (deck.length === 0) deck = random.shuffled(kinds);
    const kind = deck.pop();
    const fault = { kind, ...KINDS[kind](random, { nodes, readers, most }) };
    at += random.between(...gap);
    const freed = fault.of.map((thing) => freeAt.get(thing) ?? 0);
    const ends = faults.map((f) => f.at + f.ms).sort((a, b) => b - a);
    const roomAt = ends[AT_ONCE - 1] ?? 0;
    fault.at = at = Math.max(at, roomAt, ...freed);
    if (fault.at + fault.ms > end) return faults;
    for (const thing of fault.of) freeAt.set(thing, fault.at + fault.ms + REST_MS);
    faults.push({ number: faults.length + 1, ...fault });
  }
}

/** A fault in a line of the report. */
export function describeFault({ kind, ms, node, link, late, directions, reader }) {
  const where = [
    node !== undefined && `node ${nodeName(node)}`,
    link && `${nodeName(link.node)}-${link.to}`,
    reader !== undefined && `reader ${reader}`,
    late && `${late} ms late`,
    directions?.join('+'),
    ms > 0 && `for ${ms} ms`,
  ];
  return [kind, ...where.filter(Boolean)].join(' ');
}

/** Nodes are a, b, c as in HAProxy's configuration. */
export function nodeName(index) {
  return 'abc'[index];
}

/** A link's fault takes that link; one between HAProxy and a node takes the node, whose fault would cut it too. */
function someLink(random, { nodes }) {
  const link = { node: random.between(0, nodes - 1), to: random.pick(['redis', 'db', 'haproxy']) };
  return { link, of: [link.to === 'haproxy' ? `node ${link.node}` : `link ${link.node} ${link.to}`] };
}
