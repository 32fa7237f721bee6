// People who have signed in once and stay: a front end on the stock clients, as `examples/chat` shows one. It says things
// until they are acknowledged, listens, calls REST all the time, and renews its token; it never signs in again by itself.

import { restClient, refreshCookie } from '../e2e/harness/people.mjs';
import { pause, within } from '../e2e/harness/processes.mjs';
import { secret, words } from '../e2e/harness/secrets.mjs';
import { agentFrom } from '../e2e/harness/servers.mjs';
import { io } from '../e2e/harness/sockets.mjs';

/** How long it waits for an acknowledgement before it sends again. */
const ACK_MS = 5000;

/** Between two REST calls. */
const CALL_EVERY_MS = 200;

/** What all front ends of a run have met. */
export class Tally {
  /** What the operator is doing. */
  phase = 'before';
  signIns = 0;
  calls = 0;
  renewals = 0;
  reconnects = 0;
  unrecovered = 0;
  /** Messages that were sent again for want of an answer. */
  again = 0;
  /** REST calls that were made again, and why: a fault of the network, or a status from 500. */
  repeated = [];
  /** Tokens that were not taken: `{who, phase, where, code}`. */
  refusals = [];
  /** Sessions that came to an end, and how. */
  ended = [];
}

export class FrontEnd {
  #tally;
  #closed = false;
  #known = false;
  #renewing;
  #count = 0;
  /** Renewals so far: each is another node's. */
  #turn = 0;

  /**
   * `address` is its own; `routes` are those from which the balancer leads to one node each. `renews`: without it a token is kept
   * until it is refused.
   */
  constructor({ url, origin, address, routes, tally, renews = true }) {
    this.url = url;
    this.#tally = tally;
    this.origin = origin;
    this.address = address;
    this.routes = routes.map((route) => restClient(url, undefined, agentFrom(route)));
    for (const rest of this.routes) rest.defaults.headers.common.Origin = origin;
    this.renews = renews;
  }

  /** Signs in: once. */
  async signIn(email, password) {
    this.#tally.signIns++;
    // From its own address, by which sign-ins are limited.
    const rest = restClient(this.url, undefined, agentFrom(this.address));
    const answer = await rest.post('/auth/login', { email, password }, { headers: { Origin: this.origin } });
    if (answer.status !== 200) throw new Error(`${email} can't sign in: ${answer.status} ${answer.data?.error?.code}`);
    if (answer.headers['access-control-allow-origin'] !== this.origin) throw new Error(`a page of ${this.origin} may not read the answer`);
    this.user = answer.data.data.user;
    this.token = this.firstToken = secret(answer.data.data.token);
    this.cookie = refreshCookie(answer).value;
  }

  /** Connects, and hears these conversations for the ledger. */
  async connect(conversations, ledger) {
    this.conversations = conversations;
    this.ledger = ledger;
    const reader = ledger.reader(this.user.email, conversations);
    this.socket = io(this.url, {
      forceNew: true,
      auth: (give) => give({ token: this.token }),
      agent: agentFrom(this.address),
      extraHeaders: { Origin: this.origin },
    });
    for (const event of ['chatMessage', 'messageReceived']) this.socket.on(event, (message) => reader.hear(message));
    this.socket.on('connect', () => this.#connected());
    this.socket.on('connect_error', (error) => void this.#turnedAway(error));
    this.socket.on('disconnect', (reason) => {
      if (reason === 'io server disconnect') this.#tally.ended.push(`${this.user.email}: a socket was sent away in ${this.#tally.phase}`);
    });
    this.socket.on('tokenExpiring', () => void this.renewAll());
    await within(20_000, new Promise((resolve) => this.socket.once('connect', resolve)), () => `${this.user.email} is connected`);
  }

  /**
   * Calls REST until it is closed: by every route with the token that it has, which the other node may have signed, and with that of
   * the first sign-in for as long as that is to be good.
   */
  async live() {
    while (!this.#closed) {
      for (const rest of this.routes) {
        if (this.firstToken) await this.#callWith(rest, this.firstToken, 'with the first token');
        await this.#call(rest);
      }
      if (this.renews) await this.renew();
      await pause(CALL_EVERY_MS);
    }
  }

  /** Says something in one of its conversations, until it is acknowledged. */
  async say() {
    const conversationId = this.conversations[this.#count % this.conversations.length];
    const name = `${this.user.id}-${++this.#count}`;
    const body = { conversationId, message: words(name), clientMessageId: name };
    this.ledger.sent(name);
    while (!this.#closed) {
      const answer = await this.socket.timeout(ACK_MS).emitWithAck('chatMessage', body).catch(() => undefined);
      if (answer?.success) return;
      this.#tally.again++;
      if (answer) await pause(500);
    }
  }

  /** A fresh access token, and whether there was one; one call at a time, as a refresh token is good for one use. */
  renew() {
    this.#renewing ??= this.#renewed().finally(() => (this.#renewing = undefined));
    return this.#renewing;
  }

  /** The same, and the socket goes on with it: what `tokenExpiring` asks for within the hour. */
  async renewAll() {
    await this.renew();
    const answer = await this.socket.timeout(ACK_MS).emitWithAck('authenticate', { token: this.token }).catch(() => undefined);
    return answer?.success === true;
  }

  close() {
    this.#closed = true;
    this.socket?.disconnect();
  }

  async #renewed() {
    const rest = this.routes[this.#turn++ % this.routes.length];
    const answer = await this.#persist(rest, { method: 'post', url: '/auth/refresh', data: {}, headers: { Cookie: `refresh_token=${this.cookie}` } });
    if (answer?.status !== 200) {
      if (answer) this.#tally.ended.push(`${this.user.email}: refresh ${answer.status} ${answer.data?.error?.code} in ${this.#tally.phase}`);
      return false;
    }
    this.#tally.renewals++;
    this.token = secret(answer.data.data.token);
    this.cookie = refreshCookie(answer)?.value ?? this.cookie;
    return true;
  }

  async #call(rest) {
    // Nobody is logged out whose token is refused: the refresh token is good as ever.
    if ((await this.#callWith(rest, this.token, 'by REST')) === 401 && (await this.renew())) {
      await this.#callWith(rest, this.token, 'by REST, fresh');
    }
  }

  async #callWith(rest, token, where) {
    const answer = await this.#persist(rest, { method: 'get', url: '/auth/me', headers: { Authorization: `Bearer ${token}` } });
    if (!answer) return undefined;
    this.#tally.calls++;
    if (answer.status === 401) this.#refused(where, answer.data?.error?.code);
    else if (answer.status !== 200) this.#tally.repeated.push(`${answer.status}, not repeated`);
    return answer.status;
  }

  #refused(where, code) {
    this.#tally.refusals.push({ who: this, phase: this.#tally.phase, where, code });
  }

  /** Tries again what fails for a reason that passes. */
  async #persist(rest, request) {
    while (!this.#closed) {
      const answer = await rest.request(request).catch((error) => ({ status: 599, error }));
      if (answer.status < 500 && answer.status !== 429) return answer;
      this.#tally.repeated.push(`${answer.error?.code ?? `${answer.status} ${answer.data?.error?.message}`} in ${this.#tally.phase}`);
      await pause(200);
    }
    return undefined;
  }

  #connected() {
    if (this.#known) {
      this.#tally.reconnects++;
      if (!this.socket.recovered) this.#tally.unrecovered++;
    }
    this.#known = true;
  }

  async #turnedAway(error) {
    // No network, or a node that goes: the library tries again by itself. Otherwise it was told why.
    if (this.socket.active) return;
    const code = error.data?.code;
    if (code === 'TOKEN_EXPIRED' || code === 'INVALID_TOKEN') {
      this.#refused('by a socket', code);
      if (!(await this.renew())) return;
    } else if (code !== 'SERVICE_UNAVAILABLE') {
      this.#tally.ended.push(`${this.user.email}: ${code ?? error.message} in ${this.#tally.phase}`);
      return;
    }
    await pause(200);
    if (!this.#closed) this.socket.connect();
  }
}
