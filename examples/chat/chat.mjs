// A chat in a terminal: signs in, opens a conversation, sends what you type, shows what you hear.
// It uses the gateway as a front end should: nothing typed is lost or said twice, and what was missed is fetched.
//
//   node chat.mjs client     signs in as the demo client (or: node chat.mjs EMAIL PASSWORD)
//   node chat.mjs agent      signs in as the demo agent
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import axios from "axios";
import { io } from "socket.io-client";

const URL = process.env.GATEWAY_URL ?? "http://localhost:5000";
const [who = "client", password = "demo-password"] = process.argv.slice(2);
if (!/^(client|agent)$|@/.test(who)) leave("AS is client or agent");
const email = who.includes("@") ? who : `${who}@demo.test`;

// The session. A browser asks for no `refreshIn`: its refresh token is then a cookie that scripts can't read.
const api = axios.create({ baseURL: `${URL}/api`, timeout: 10_000 });
const login = api.post("/auth/login", { email, password, refreshIn: "body" });
const session = (await login.catch(leave)).data.data;
let refreshing; // one at a time: a refresh token is good for one use

function refresh() {
  refreshing ??= persist(() => api.post("/auth/refresh", { refreshToken: session.refreshToken }))
    .then((fresh) => Object.assign(session, fresh))
    .finally(() => (refreshing = undefined));
  return refreshing;
}

async function call(method, url, data) {
  const request = () => api.request({ method, url, data, headers: { Authorization: `Bearer ${session.token}` } });
  return persist(request).catch(async (error) => {
    if (!isStale(error.response.data?.error?.code)) throw error;
    await refresh();
    return persist(request);
  });
}

/** Refused for its age, or because the gateway's signing secret was changed: the session goes on with a fresh token. */
function isStale(code) {
  return code === "TOKEN_EXPIRED" || code === "INVALID_TOKEN";
}

/** Tries again what fails for a reason that passes: no network, too many calls, a server that is away. */
async function persist(request) {
  for (;;) {
    try {
      return (await request()).data.data;
    } catch (error) {
      if (error.response && error.response.status < 500 && error.response.status !== 429) throw error;
      await pause(1000);
    }
  }
}

// The conversation. A client has one, opened at need; an agent takes up the latest.
let conversation;
let shown = 0; // the `seq` of the last message shown: they come 1, 2, 3 ... without gaps
let newest = 0; // the last one heard of
let fetching;
const found =
  session.user.role === "user"
    ? await call("post", "/chat/conversations", {}).catch(leave)
    : (await call("get", "/chat/conversations?limit=1").catch(leave)).conversations[0];
if (found) take(found);

function take(next) {
  conversation = next;
  shown = Math.max(0, next.lastSeq - 10);
}

/** Shows a message when its turn has come: a repeat is passed over, and what is missing before it is fetched. */
function hear(message) {
  if (message.conversationId !== conversation?.id) return;
  newest = Math.max(newest, message.seq);
  if (!fetching && message.seq === shown + 1) show([message]);
  else if (message.seq > shown) fetchMissing();
}

function fetchMissing() {
  fetching ??= fetchPages().catch(leave).finally(() => (fetching = undefined));
}

async function fetchPages() {
  for (let more = true; more || shown < newest; ) {
    const page = await call("get", `/chat/conversations/${conversation.id}/messages?afterSeq=${shown}&limit=100`);
    show(page.messages);
    more = page.hasMore;
    if (page.messages.length === 0) await pause(200); // a read from a replica may be late
  }
}

function show(messages) {
  for (const { seq, senderId, senderType, content } of messages) {
    console.log(`[${seq}] ${senderId === session.user.id ? "me" : senderType}: ${content}`);
    shown = seq;
  }
  if (messages.some((message) => message.senderId !== session.user.id)) {
    socket.emit("markAsRead", { conversationId: conversation.id, upToSeq: shown });
  }
}

// The socket. `auth` is a function: each connection is made with the token of its time.
const socket = io(URL, { auth: (give) => give({ token: session.token }) });
socket.on("connect", () => {
  console.log(`- connected as ${session.user.email} (${session.user.role}). Type a line to send it, Ctrl-D to leave.`);
  if (conversation) enter();
  else console.log("- no conversation yet: start the client in another terminal");
});
socket.on("disconnect", (reason) => {
  if (reason === "io server disconnect") leave("signed out"); // after anything else the socket comes back by itself
  console.log(`- disconnected (${reason})`);
});
socket.on("connect_error", async (error) => {
  console.log(`- ${error.message}`);
  if (socket.active) return; // no network: it tries again by itself. Otherwise the gateway said no:
  if (isStale(error.data?.code)) await refresh().catch(leave);
  else if (error.data?.code === "SERVICE_UNAVAILABLE") await pause(1000);
  else leave(error);
  socket.connect();
});
socket.on("tokenExpiring", async () => {
  await refresh().catch(leave);
  socket.emit("authenticate", { token: session.token });
});
socket.on("conversationCreated", (event) => {
  if (conversation) return;
  take(event.conversation);
  enter();
});
socket.on("chatMessage", hear);
socket.on("messagesRead", (event) => console.log(`- read up to message ${event.upToSeq}`));
socket.on("typingStatus", (event) => event.isTyping && console.log("- the other side is writing"));
socket.on("userOnline", (event) => console.log(`- user ${event.userId} is here`));
socket.on("userOffline", (event) => console.log(`- user ${event.userId} has left`));

function enter() {
  socket.emit("joinConversation", { conversationId: conversation.id });
  fetchMissing();
}

/** Sends until it is acknowledged. The same `clientMessageId` makes a repeat harmless: it is stored once. */
async function send(message) {
  if (!conversation) return console.log("- no conversation yet");
  const payload = { conversationId: conversation.id, message, clientMessageId: randomUUID() };
  for (;;) {
    // Rejects when no answer came in time, or the connection broke before it.
    const answer = await socket.timeout(5000).emitWithAck("chatMessage", payload).catch(() => undefined);
    if (answer?.success) return hear(answer.data);
    const code = answer?.error.code ?? "SERVICE_UNAVAILABLE";
    if (!["SERVICE_UNAVAILABLE", "RATE_LIMITED"].includes(code)) return console.log(`- not sent: ${answer.error.message}`);
    await pause(1000);
  }
}

let sending = Promise.resolve(); // one after the other, in the order typed
const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => (sending = sending.then(() => send(line))));
lines.on("close", () => sending.then(() => fetching).then(() => socket.close()));

function leave(why) {
  console.error(`- ${why.response?.data?.error?.message ?? why.message ?? why}`);
  process.exit(1);
}
