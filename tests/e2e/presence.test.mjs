// Who is here and who is writing: online and offline, the grace of a reload, typing and its lapse. These take real
// seconds, because the contract promises seconds; what can wait at the same time does.

import assert from 'node:assert/strict';
import { describe } from 'node:test';
import { assertTime, dataOf } from './harness/assertions.mjs';
import { words } from './harness/secrets.mjs';
import { onBothSetups } from './harness/setups.mjs';

onBothSetups((setup, test) => {
  let agent, colleague;

  test('agents arrive', async () => {
    agent = await setup.admin('Ada', 'Agent');
    colleague = await setup.admin('Cole', 'League');
  });

  const about = (person) => (event) => event.userId === person.id;

  describe('side by side', { concurrency: true }, () => {
    test('coming and going is announced once, a reload not at all', async () => {
      const watcher = await colleague.connect(0);
      const [leaver, reloader, many] = [await setup.client(), await setup.client(), await setup.client()];
      const leaving = await leaver.connect(1);
      const online = await watcher.next('userOnline', about(leaver));
      assertTime(online.at);
      assert.deepEqual(online, { userId: leaver.id, role: 'user', at: online.at });
      const loaded = await reloader.connect(1);
      await watcher.next('userOnline', about(reloader));
      // Several sockets on several nodes are one person.
      const several = [await many.connect(0), await many.connect(1), await many.connect(1)];
      await watcher.next('userOnline', about(many));

      loaded.close();
      several[0].close();
      several[2].close();
      // The reload comes back on another node.
      await reloader.connect(0);
      leaving.close();
      const leftAt = Date.now();
      const offline = await watcher.nextEntry('userOffline', about(leaver), 25_000);
      assert.deepEqual([offline.data.userId, offline.data.role], [leaver.id, 'user']);
      assertTime(offline.data.at);
      const after = offline.at - leftAt;
      assert.ok(after >= 14_900 && after <= 20_500, `offline after ${after} ms`);
      const { users } = await watcher.ask('getOnlineUsers', {});
      const ids = users.map((u) => u.id);
      assert.ok(!ids.includes(leaver.id));
      assert.ok(ids.includes(reloader.id) && ids.includes(many.id) && ids.includes(colleague.id));

      // Somebody who came after all this has been heard of: what should be silent was.
      const late = await setup.client();
      await late.connect(1);
      await watcher.next('userOnline', about(late));
      for (const person of [reloader, many]) {
        watcher.hasNotHeard('userOffline', about(person));
        assert.equal(watcher.all('userOnline', about(person)).length, 1);
      }
      assert.equal(watcher.all('userOnline', about(leaver)).length, 1);
      assert.equal(watcher.all('userOffline', about(leaver)).length, 1);
    });

    test('clients hear of the agents they talk to, and of nobody else', async () => {
      const here = await setup.admin('Here', 'Today');
      const client = await setup.client();
      const stranger = await setup.client();
      await client.converse(here);
      const [clientSocket, strangerSocket] = [await client.connect(0), await stranger.connect(1)];
      assert.deepEqual(await clientSocket.ask('getOnlineUsers', {}), { users: [] });
      assert.deepEqual(await clientSocket.next('onlineUsers'), { users: [] });
      const agentSocket = await here.connect(1);
      const online = await clientSocket.next('userOnline');
      assert.deepEqual([online.userId, online.role], [here.id, 'admin']);
      const expected = [{ id: here.id, role: 'admin', firstName: 'Here', lastName: 'Today' }];
      assert.deepEqual((await clientSocket.ask('getOnlineUsers', {})).users, expected);
      assert.deepEqual((await strangerSocket.ask('getOnlineUsers', {})).users, []);
      agentSocket.close();
      const offline = await clientSocket.next('userOffline', about(here), 25_000);
      assert.equal(offline.role, 'admin');
      assert.deepEqual((await clientSocket.ask('getOnlineUsers', {})).users, []);
      // Other clients coming and going were none of theirs.
      strangerSocket.hasNotHeard('userOnline');
      strangerSocket.hasNotHeard('userOffline');
      clientSocket.hasNotHeard('userOnline', (e) => e.userId !== here.id);
    });

    test('typing is shown to the others in the conversation, and lapses', async () => {
      const client = await setup.client();
      const { id } = await client.converse(agent);
      const [clientSocket, clientOther, agentSocket, outside] = [
        ...[await client.connect(0), await client.connect(1), await agent.connect(1), await colleague.connect(0)],
      ];
      for (const socket of [clientSocket, clientOther, agentSocket]) await socket.ask('joinConversation', { conversationId: id });
      const typing = (isTyping) => ({ conversationId: id, userId: client.id, isTyping });
      const here = (e) => e.conversationId === id;

      await clientSocket.ask('typing', { conversationId: id, isTyping: true });
      assert.deepEqual(await agentSocket.next('typingStatus', here), typing(true));
      clientSocket.send('typing', { conversationId: id, isTyping: false });
      assert.deepEqual(await agentSocket.next('typingStatus', here), typing(false));

      // The last sign counts: after the second of two, ten seconds.
      clientSocket.send('typing', { conversationId: id, isTyping: true });
      await agentSocket.next('typingStatus', here);
      // Whether the second sign is told again or not is the gateway's; only the end is waited for.
      await clientSocket.ask('typing', { conversationId: id, isTyping: true });
      const lastSign = Date.now();
      const lapsed = await agentSocket.nextEntry('typingStatus', (e) => here(e) && !e.isTyping, 15_000);
      const after = lapsed.at - lastSign;
      assert.ok(after >= 9_500 && after <= 12_000, `lapsed after ${after} ms`);
      assert.deepEqual(lapsed.data, typing(false));

      // A socket that goes takes its typing with it.
      const shown = agentSocket.heard.length;
      clientSocket.send('typing', { conversationId: id, isTyping: true });
      await agentSocket.next('typingStatus', (e) => here(e) && e.isTyping && agentSocket.heard.findIndex((h) => h.data === e) >= shown);
      const gone = Date.now();
      clientSocket.close();
      const stopped = await agentSocket.nextEntry('typingStatus', (e) => here(e) && !e.isTyping, 5_000);
      assert.ok(stopped.at - gone < 5_000);

      // Not oneself, and not who has not joined.
      const marker = await clientOther.ask('chatMessage', { conversationId: id, message: words() });
      await outside.next('newMessageNotification', (n) => n.message.id === marker.id);
      for (const socket of [clientOther, clientSocket, outside]) socket.hasNotHeard('typingStatus', here);
      assert.equal(await clientOther.refused('typing', { conversationId: id, isTyping: 'yes' }), 'VALIDATION_ERROR');
      // It left no trace in the log: creation and the marker only.
      assert.equal(marker.eventSeq, 2);
      assert.equal(dataOf(await client.rest.get(`/chat/conversations/${id}`)).lastEventSeq, 2);
    });
  });
});
