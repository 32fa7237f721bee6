// A chat in a terminal: signs in, opens a conversation, sends what you type, shows what you hear.
// It uses the gateway as a front end does: axios for REST, socket.io-client with its default options for the rest.
//
//   node chat.mjs client     signs in as the demo client (or: node chat.mjs EMAIL PASSWORD)
//   node chat.mjs agent      signs in as the demo agent
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import axios from "axios";
import { io } from "socket.io-client";

const URL = process.env.GATEWAY_URL ?? "http://localhost:5000";
const [who = "client", password = "demo-password"] = process.argv.slice(2);
const email = who.includes("@") ? who : `${who}@demo.test`;

const api = axios.create({ baseURL: `${URL}/api` });
const call = async (method, path, body) => {
  try {
    return (await api.request({ method, url: path, data: body })).data.data;
  } catch (error) {
    console.error(`- ${error.response?.data?.error?.message ?? error.message}`);
    process.exit(1);
  }
};

const { token, user } = await call("post", "/auth/login", { email, password });
api.defaults.headers.Authorization = `Bearer ${token}`;
let conversation = await findConversation();

const socket = io(URL, { auth: { token } });
socket.on("connect", async () => {
  console.log(`- connected as ${user.email} (${user.role}). Type a line to send it, Ctrl-D to leave.`);
  if (conversation) await open(conversation);
  else console.log("- no conversation yet: start the client in another terminal");
});
socket.on("disconnect", (reason) => console.log(`- disconnected (${reason})`));
socket.on("connect_error", (error) => console.log(`- ${error.message} ${error.data?.code ?? ""}`));
socket.on("conversationCreated", (event) => open(event.conversation));
socket.on("chatMessage", show);
socket.on("messagesRead", (event) => console.log(`- read up to message ${event.upToSeq}`));
socket.on("typingStatus", (event) => event.isTyping && console.log("- the other side is writing"));
socket.on("userOnline", (event) => console.log(`- user ${event.userId} is here`));
socket.on("userOffline", (event) => console.log(`- user ${event.userId} has left`));

const lines = createInterface({ input: process.stdin });
lines.on("line", async (message) => {
  if (!conversation) return console.log("- no conversation yet");
  // The same clientMessageId would make a second try harmless.
  const payload = { conversationId: conversation.id, message, clientMessageId: randomUUID() };
  const answer = await socket.emitWithAck("chatMessage", payload);
  console.log(answer.success ? `- stored as message ${answer.data.seq}` : `- ${answer.error.message}`);
});
lines.on("close", () => socket.close());

/** A client has one conversation with an agent, opened at need; an agent takes up the latest. */
async function findConversation() {
  if (user.role === "user") return call("post", "/chat/conversations", {});
  return (await call("get", "/chat/conversations?limit=1")).conversations[0];
}

async function open(next) {
  conversation = next;
  await socket.emitWithAck("joinConversation", { conversationId: conversation.id });
  const { messages } = await call("get", `/chat/conversations/${conversation.id}/messages?limit=10`);
  messages.forEach(show);
}

function show(message) {
  const from = message.senderId === user.id ? "me" : message.senderType;
  console.log(`${from}: ${message.content}`);
  if (from !== "me") socket.emit("markAsRead", { conversationId: message.conversationId, upToSeq: message.seq });
}
