// The Node backend that the gateway replaces, as its documents describe it: Express, Socket.IO, Sequelize on MySQL, and
// Socket.IO's Redis adapter where there is more than one process. Only what the load generator measures: connecting with
// a token, joining, messages, notifications, signs of writing. Written as a competent team would, without tricks.
//
// PORT, DATABASE_URL, JWT_SECRET, and REDIS_URL for several processes.

import { createServer } from 'node:http';
import { createAdapter } from '@socket.io/redis-adapter';
import express from 'express';
import jwt from 'jsonwebtoken';
import { createClient } from 'redis';
import { Server } from 'socket.io';
import { connect } from './models.mjs';

const { PORT, DATABASE_URL, JWT_SECRET, REDIS_URL } = process.env;
const { sequelize, User, Client, Conversation, Message } = connect(DATABASE_URL);
await sequelize.authenticate();

const app = express();
app.get('/healthz', (_request, response) => response.sendStatus(200));
const server = createServer(app);
const io = new Server(server, { cors: { origin: '*' } });

if (REDIS_URL) {
  const publisher = createClient({ url: REDIS_URL });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  io.adapter(createAdapter(publisher, subscriber));
}

io.use((socket, next) => {
  try {
    socket.user = jwt.verify(socket.handshake.auth.token, JWT_SECRET, { algorithms: ['HS256'] });
    next();
  } catch {
    const error = new Error('the token is not valid');
    error.data = { code: 'INVALID_TOKEN' };
    next(error);
  }
});

io.on('connection', (socket) => {
  const { user } = socket;
  socket.join([`user_${user.id}`, user.role]);
  socket.to('admin').emit('userOnline', { userId: user.id, role: user.role, at: new Date() });

  on(socket, 'joinConversation', async ({ conversationId }) => {
    const conversation = await visible(user, conversationId);
    await socket.join(`conversation_${conversation.id}`);
    return conversation;
  });

  on(socket, 'chatMessage', async ({ conversationId, message }) => {
    const conversation = await visible(user, conversationId);
    const stored = await store(user, conversation, message);
    socket.emit('messageReceived', stored);
    socket
      .to([`user_${stored.receiverId}`, `user_${user.id}`, `conversation_${conversationId}`])
      .emit('chatMessage', stored);
    if (user.role === 'user') {
      io.to('admin').emit('newMessageNotification', {
        conversationId,
        message: stored,
        client: conversation.client,
        unreadCount: conversation.unreadCount + 1,
      });
    }
    return stored;
  });

  on(socket, 'typing', async ({ conversationId, isTyping }) => {
    const room = `conversation_${conversationId}`;
    if (!socket.rooms.has(room)) await visible(user, conversationId);
    socket.to(room).volatile.emit('typingStatus', { conversationId, userId: user.id, isTyping: Boolean(isTyping) });
    return null;
  });

  socket.on('disconnect', () => {
    socket.to('admin').emit('userOffline', { userId: user.id, role: user.role, at: new Date() });
  });
});

/** Runs an event's handler, and answers as the contract says. */
function on(socket, event, handler) {
  socket.on(event, async (payload, ack) => {
    let answer;
    try {
      answer = { success: true, data: await handler(payload ?? {}) };
    } catch (error) {
      answer = { success: false, error: { code: error.code ?? 'INTERNAL_ERROR', message: error.message } };
    }
    if (typeof ack === 'function') ack(answer);
    else if (!answer.success) socket.emit('error', { ...answer, event });
  });
}

/** A conversation that this user may see. */
async function visible(user, conversationId) {
  const conversation = await Conversation.findByPk(conversationId, { include: { model: Client, as: 'client' } });
  if (!conversation) throw Object.assign(new Error('there is no such conversation'), { code: 'CONVERSATION_NOT_FOUND' });
  if (user.role !== 'admin' && conversation.client.email !== user.email) {
    throw Object.assign(new Error('this conversation is not yours'), { code: 'FORBIDDEN' });
  }
  return conversation;
}

// An account's address does not change, so it is looked up once.
const accounts = new Map();

async function accountOf(client) {
  let id = accounts.get(client.email);
  if (id === undefined) {
    const account = await User.findOne({ where: { email: client.email }, attributes: ['id'] });
    if (!account) throw Object.assign(new Error('the client has no account'), { code: 'CLIENT_HAS_NO_ACCOUNT' });
    id = account.id;
    accounts.set(client.email, id);
  }
  return id;
}

async function store(user, conversation, content) {
  if (typeof content !== 'string' || content.trim() === '' || content.length > 5000) {
    throw Object.assign(new Error('a message has 1 to 5,000 characters'), { code: 'VALIDATION_ERROR' });
  }
  const fromClient = user.role === 'user';
  const receiverId = fromClient ? conversation.agencyId : await accountOf(conversation.client);
  const message = await Message.create({
    conversationId: conversation.id,
    senderId: user.id,
    receiverId,
    senderType: fromClient ? 'client' : 'agency',
    content,
  });
  await conversation.update({
    lastMessage: content,
    lastMessageTime: message.createdAt,
    ...(fromClient && { unreadCount: sequelize.literal('unreadCount + 1') }),
  });
  return message.toJSON();
}

server.listen({ port: Number(PORT), host: '127.0.0.1', backlog: 4096 });
