// The people of a chat: accounts with their REST calls and their sockets.

import axios from 'axios';
import { secret, unique } from './secrets.mjs';
import { Client, PlainClient } from './sockets.mjs';

/** A REST caller: answers as they are, whatever their status. `rest.get('/chat/conversations')` and so on. */
export function restClient(url, token, httpAgent) {
  return axios.create({
    httpAgent,
    baseURL: `${url}/api`,
    headers: token ? { Authorization: `Bearer ${token}` } : {},
    validateStatus: () => true,
    maxRedirects: 0,
    timeout: 40_000,
    proxy: false,
  });
}

/** Somebody who is logged in. */
export class Person {
  constructor(setup, { user, token, password }) {
    this.setup = setup;
    this.user = user;
    this.password = password;
    this.#use(token);
  }

  get id() {
    return this.user.id;
  }

  /** Logs in once more: another session of the same account. */
  async again() {
    return logIn(this.setup, this.user.email, this.password);
  }

  #use(token) {
    this.token = token;
    this.rest = restClient(this.setup.url, token, this.setup.httpAgent);
  }

  /** A default-option Socket.IO connection to the `node`th node. */
  connect(node = 0, options = {}) {
    return this.setup.keep(Client.connect(this.setup.socketUrl(node), { auth: { token: this.token }, ...options }));
  }

  /** A plain WebSocket to the `node`th node. */
  connectPlain(node = 0) {
    return this.setup.keep(PlainClient.connect(this.setup.socketUrl(node), { token: this.token }));
  }

  /** Opens (or finds) a conversation: a client's call. */
  async converse(agent) {
    const answer = await this.rest.post('/chat/conversations', agent ? { agencyId: agent.id } : {});
    if (!answer.data?.success) throw new Error(`no conversation: ${JSON.stringify(answer.data)}`);
    return answer.data.data;
  }
}

/** Makes a client's account by registering. */
export async function registerClient(setup, fields = {}) {
  const password = secret(`client-pass-${unique()}`);
  const body = { email: `client-${unique()}@example.com`, password, firstName: 'Carla', lastName: 'Client', ...fields };
  const answer = await restClient(setup.url, undefined, setup.httpAgent).post('/auth/register', body);
  if (answer.status !== 201) throw new Error(`register: ${answer.status} ${JSON.stringify(answer.data)}`);
  const { token, user } = answer.data.data;
  return new Person(setup, { user, token: secret(token), password: body.password });
}

/** Logs in. */
export async function logIn(setup, email, password) {
  const answer = await restClient(setup.url, undefined, setup.httpAgent).post('/auth/login', { email, password });
  if (answer.status !== 200) throw new Error(`login: ${answer.status} ${JSON.stringify(answer.data)}`);
  const { token, user } = answer.data.data;
  return new Person(setup, { user, token: secret(token), password });
}

/** The refresh cookie that an answer sets: `{value, attributes}`, attributes in lower case; undefined where it sets none. */
export function refreshCookie(answer) {
  for (const line of answer.headers['set-cookie'] ?? []) {
    const [pair, ...attributes] = line.split(/; */);
    const [name, value] = pair.split('=');
    if (name === 'refresh_token') {
      return { value: value && secret(value), attributes: attributes.map((a) => a.toLowerCase()) };
    }
  }
  return undefined;
}
