// How much load, in which shape, and what must hold under it. Everything can be set from the environment.

const env = (name, otherwise) => Number(__ENV[name] || otherwise);

/**
 * A profile's shape: `stages` in shares of the full load, `sockets` (users with two sockets each, of either kind) and `rest`
 * (iterations a second) at full load, `p99` (ms) that acknowledgements and deliveries must keep.
 */
const PROFILES = {
  // Does it work at all? Seconds; part of `make test`.
  smoke: { stages: [['1s', 1], ['7s', 1]], sockets: 4, rest: 4, p99: 2000 },
  // A busy day: two minutes at a steady load.
  load: { stages: [['20s', 1], ['80s', 1], ['20s', 0]], sockets: 60, rest: 20, p99: 500 },
  // Where does it bend? Up in steps; the thresholds say at which it no longer held.
  stress: { stages: [['1m', 0.25], ['2m', 0.25], ['1m', 0.5], ['2m', 0.5], ['1m', 1], ['2m', 1], ['1m', 0]], sockets: 600, rest: 100, p99: 1000 },
  // A reconnect storm: everybody at once, all lost at once, all back at once.
  spike: { stages: [['2s', 1], ['20s', 1], ['1s', 0], ['2s', 1], ['30s', 1], ['2s', 0]], sockets: 200, rest: 10, p99: 3000 },
  // Does it last? Under an hour: the life of the tokens that are made at the start.
  soak: { stages: [['1m', 1], ['43m', 1], ['1m', 0]], sockets: 60, rest: 10, p99: 500 },
};

export const PROFILE = __ENV.PROFILE || 'load';
const profile = PROFILES[PROFILE];
if (!profile) throw new Error(`PROFILE is one of ${Object.keys(PROFILES).join(', ')}, not ${PROFILE}`);

/** Where the chat is. */
export const BASE_URL = (__ENV.BASE_URL || 'http://localhost:5000').replace(/\/$/, '');

/** How many clients there are; several users at once may be one of them, in several tabs. */
export const PEOPLE = env('PEOPLE', Math.min(profile.sockets, 60));

/** How long a user stays, and how long between two messages; milliseconds. */
export const SESSION_MS = env('SESSION_MS', PROFILE === 'smoke' ? 3000 : 15_000);
export const THINK_MS = env('THINK_MS', PROFILE === 'smoke' ? 300 : 1000);

const sockets = env('SOCKETS', profile.sockets);
const rest = env('REST_PER_SECOND', profile.rest);
const p99 = env('P99_MS', profile.p99);

const vus = (full) => ({
  executor: 'ramping-vus',
  startVUs: 0,
  stages: profile.stages.map(([duration, share]) => ({ duration, target: Math.ceil(full * share) })),
  // Users who are there end what they are at, but for the storm, where they are cut off.
  gracefulRampDown: PROFILE === 'spike' ? '0s' : `${SESSION_MS + 10_000}ms`,
  gracefulStop: `${SESSION_MS + 10_000}ms`,
});

const arrivals = (full, exec) => ({
  executor: 'ramping-arrival-rate',
  exec,
  startRate: 0,
  timeUnit: '10s',
  stages: profile.stages.map(([duration, share]) => ({ duration, target: Math.ceil(full * 10 * share) })),
  preAllocatedVUs: Math.max(2, Math.ceil(full)),
  maxVUs: Math.max(20, Math.ceil(full * 10)),
});

export const options = {
  setupTimeout: '5m',
  scenarios: {
    plain: { ...vus(Math.ceil(sockets / 2)), exec: 'plain' },
    socketIo: { ...vus(Math.ceil(sockets / 2)), exec: 'socketIo' },
    // A password is a tenth of a second of somebody's CPU, on purpose: few of these.
    login: arrivals(rest / 10, 'login'),
    history: arrivals(rest, 'history'),
  },
  thresholds: {
    // Failures: almost none; losses: none at all.
    checks: ['rate>0.99'],
    http_req_failed: ['rate<0.01'],
    'chat_refused': [PROFILE === 'spike' ? 'count<100' : 'count<5'],
    chat_lost: ['count==0'],
    chat_out_of_order: ['count==0'],
    // Both kinds of socket were really used.
    'chat_acknowledged{kind:plain}': ['count>0'],
    'chat_acknowledged{kind:socket.io}': ['count>0'],
    'chat_ack_ms{kind:plain}': [`p(99)<${p99}`],
    'chat_ack_ms{kind:socket.io}': [`p(99)<${p99}`],
    'chat_delivery_ms{kind:plain}': [`p(99)<${p99}`],
    'chat_delivery_ms{kind:socket.io}': [`p(99)<${p99}`],
    'http_req_duration{call:history}': [`p(99)<${p99}`],
    'http_req_duration{call:login}': [`p(99)<${3 * p99}`],
  },
  summaryTrendStats: ['avg', 'med', 'p(95)', 'p(99)', 'max'],
};
