//! Adopting a database of the old system, in place.

use gateway::store::{Change, LogHead, OpenOutcome, PagePosition, SchemaState, StoreError};
use shared::{ConversationId, EventSeq, SenderType, UserId};

use crate::harness::{
    Database, Fixture, Kind, Talk, admin, anyone, at, client, contents, is_new, named, seq, seqs,
    stored,
};

crate::on_both!(
    old_messages_page_in_order,
    conversations_say_what_their_messages_say,
    clients_are_linked_by_address_without_case,
    rows_that_came_later_are_taken_in,
    adopting_twice_changes_nothing,
    what_is_acknowledged_is_what_the_old_columns_hold,
    what_an_old_column_can_not_hold_is_refused,
    ids_of_deleted_conversations_stay_unused,
    many_conversations_take_several_batches,
);

/// A database as the old system left it.
async fn left_behind(kind: Kind) -> Database {
    let database = Database::new(kind).await;
    database
        .sql(match kind {
            Kind::Sqlite => include_str!("../fixtures/old_system_sqlite.sql"),
            Kind::MySql => include_str!("../fixtures/old_system_mysql.sql"),
        })
        .await;
    database
}

/// The same, adopted.
async fn old(kind: Kind) -> Fixture {
    let database = left_behind(kind).await;
    let store = database.store();
    assert_eq!(store.check().await.unwrap(), SchemaState::Outdated);
    let report = store.migrate().await.unwrap();
    assert!(report.adopted);
    assert_eq!((report.numbered_messages, report.linked_clients), (7, 2));
    assert_eq!(store.check().await.unwrap(), SchemaState::Current);
    Fixture { database, store }
}

const FIRST: ConversationId = ConversationId::new(1);
const AGENT: UserId = UserId::new(1);
const CARLA: UserId = UserId::new(2);
const TALK: Talk = Talk {
    client: CARLA,
    agent: AGENT,
    conversation: FIRST,
};
const ORDER: [&str; 6] = ["first", "second", "third", "fourth", "fifth", "sixth"];

async fn old_messages_page_in_order(kind: Kind) {
    let fixture = old(kind).await;
    let page = fixture.page(FIRST, PagePosition::Latest, 50).await;
    assert_eq!(contents(&page), ORDER);
    assert_eq!(seqs(&page), [1, 2, 3, 4, 5, 6]);
    assert!(
        page.iter()
            .all(|message| message.event_seq.get() == message.seq.get())
    );
    assert_eq!(
        page[0].created_at.unwrap().to_string(),
        "2023-02-01T10:00:01.000Z"
    );
    assert_eq!(page[4].created_at, None);
    assert!(page[0].is_read && !page[3].is_read);
    let log = fixture
        .store
        .log_after(FIRST, EventSeq::ZERO, 50)
        .await
        .unwrap();
    let logged: Vec<_> = log
        .iter()
        .map(|logged| match &logged.change {
            Change::Message { message, .. } => message.content.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(logged, ORDER);
    // What lies there since years is not news.
    assert!(fixture.store.stale_outbox(0, 10).await.unwrap().is_empty());
    fixture.end().await;
}

async fn conversations_say_what_their_messages_say(kind: Kind) {
    let fixture = old(kind).await;
    let record = fixture.record(FIRST).await;
    assert_eq!(record.conversation.last_message.as_deref(), Some("sixth"));
    assert_eq!(
        record.conversation.last_message_time.unwrap().to_string(),
        "2023-02-01T10:00:05.000Z"
    );
    // 7 was wrong: three of the client's are unread, and two of the agency's.
    assert_eq!(
        (record.conversation.unread_count, record.client_unread_count),
        (3, 2)
    );
    assert_eq!(
        (
            record.conversation.last_seq,
            record.conversation.last_event_seq
        ),
        (seq(6), EventSeq::new(6))
    );
    assert_eq!(record.conversation.client.company.as_deref(), Some("Café"));
    let second = fixture.record(ConversationId::new(2)).await.conversation;
    assert_eq!(
        (
            second.last_message.as_deref(),
            second.unread_count,
            second.last_seq
        ),
        (Some("kept"), 0, seq(1))
    );
    let empty = fixture.record(ConversationId::new(5)).await;
    assert_eq!(
        (empty.conversation.last_seq, empty.conversation.last_message),
        (seq(0), None)
    );
    assert!(empty.conversation.is_active && !empty.client_active);
    let page = fixture
        .store
        .conversations(admin(AGENT), None, 10)
        .await
        .unwrap();
    let ids: Vec<_> = page
        .iter()
        .map(|record| record.conversation.id.get())
        .collect();
    assert_eq!(ids, [2, 1, 5]);
    // Reading goes on where the old system's flags leave off.
    let mark = gateway::store::ReadMark {
        conversation: FIRST,
        reader: AGENT,
        side: SenderType::Agency,
        up_to: Some(seq(4)),
        at: at(0),
    };
    assert_eq!(
        fixture.store.mark_read(&mark).await.unwrap().unwrap().count,
        2
    );
    assert_eq!(fixture.record(FIRST).await.conversation.unread_count, 1);
    fixture.end().await;
}

async fn clients_are_linked_by_address_without_case(kind: Kind) {
    let fixture = old(kind).await;
    assert_eq!(
        fixture.record(FIRST).await.parties().client_user,
        Some(CARLA)
    );
    assert_eq!(
        fixture
            .record(ConversationId::new(2))
            .await
            .parties()
            .client_user,
        None
    );
    assert_eq!(
        fixture
            .store
            .conversations(client(CARLA), None, 10)
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        fixture
            .database
            .number("SELECT COUNT(*) FROM Clients WHERE userId IS NULL")
            .await,
        2
    );
    for (email, prefix) in [
        ("AGENT@example.com", "$2b$"),
        ("carla@example.com", "$2a$"),
        ("dora@example.com", "$2y$"),
    ] {
        let found = fixture.store.credentials(email).await.unwrap().unwrap();
        assert!(found.password_hash.starts_with(prefix));
    }
    for email in ["NOBODY@example.com", "carla@EXAMPLE.com"] {
        let taken = fixture
            .store
            .register_client(&crate::harness::new_client(email))
            .await
            .unwrap();
        assert!(taken.is_err(), "{email}");
    }
    fixture.end().await;
}

async fn rows_that_came_later_are_taken_in(kind: Kind) {
    let fixture = old(kind).await;
    fixture.say(TALK.by_client("seventh")).await;
    // The old system goes on for a while, knowing nothing of the added columns.
    fixture
        .database
        .sql(
            "INSERT INTO Users (email, password, role) VALUES ('nobody@EXAMPLE.com', 'h', 'user'); \
             INSERT INTO Messages (conversationId, senderId, receiverId, senderType, content, createdAt) \
             VALUES (1, 2, 1, 'client', 'eighth', '2099-01-01 00:00:00'), (5, 4, 3, 'agency', 'one', NULL); \
             INSERT INTO Conversations (clientId, agencyId) VALUES (4, 4);",
        )
        .await;
    assert_eq!(fixture.page(FIRST, PagePosition::Latest, 50).await.len(), 7);
    let report = fixture.store.migrate().await.unwrap();
    assert_eq!(
        (
            report.adopted,
            report.numbered_messages,
            report.linked_clients
        ),
        (false, 2, 1)
    );
    let page = fixture.page(FIRST, PagePosition::Latest, 2).await;
    assert_eq!(contents(&page), ["seventh", "eighth"]);
    assert_eq!(seqs(&page), [7, 8]);
    let record = fixture.record(FIRST).await.conversation;
    assert_eq!(
        (record.last_message.as_deref(), record.unread_count),
        (Some("eighth"), 5)
    );
    assert_eq!(
        (record.last_seq, record.last_event_seq),
        (seq(8), EventSeq::new(8))
    );
    let fifth = fixture.record(ConversationId::new(5)).await;
    assert_eq!(
        (
            fifth.conversation.last_message.as_deref(),
            fifth.client_unread_count
        ),
        (Some("one"), 1)
    );
    // Who follows the first conversation waits for its eighth change.
    let entries = fixture.store.stale_outbox(0, 10).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(
        (entries[0].first, entries[0].last),
        (EventSeq::new(8), EventSeq::new(8))
    );
    assert_eq!(fixture.say(TALK.by_client("ninth")).await.seq, seq(9));
    fixture.end().await;
}

async fn adopting_twice_changes_nothing(kind: Kind) {
    let fixture = old(kind).await;
    let before = fixture.page(FIRST, PagePosition::Latest, 50).await;
    let heads: Vec<LogHead> = fixture.store.heads(admin(AGENT), None).await.unwrap();
    let again = fixture.store.migrate().await.unwrap();
    assert_eq!(again, gateway::store::MigrationReport::default());
    assert_eq!(fixture.page(FIRST, PagePosition::Latest, 50).await, before);
    assert_eq!(
        fixture.store.heads(admin(AGENT), None).await.unwrap(),
        heads
    );
    fixture.end().await;
}

async fn what_is_acknowledged_is_what_the_old_columns_hold(kind: Kind) {
    let fixture = old(kind).await;
    let batch = [named(TALK.by_agent("名 🦀 ’"), "x"), TALK.by_client("ok")];
    let outcome = fixture.store.append(&batch, &anyone()).await.unwrap();
    let told: Vec<_> = outcome.results.iter().map(stored).collect();
    assert_eq!(fixture.page(FIRST, PagePosition::Latest, 2).await, told);
    let again = fixture.store.append(&batch[..1], &anyone()).await.unwrap();
    assert!(!is_new(&again.results[0]));
    assert_eq!(stored(&again.results[0]), told[0]);
    let mut account = crate::harness::new_client("new@example.com");
    account.at = at(3);
    let user = fixture
        .store
        .register_client(&account)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        fixture.store.user(user.id).await.unwrap(),
        Some(user.clone())
    );
    let opened = fixture
        .store
        .open_conversation(user.id, Some(AGENT), at(4))
        .await
        .unwrap();
    let OpenOutcome::Created(record, logged) = opened else {
        panic!("{opened:?}")
    };
    assert_eq!(fixture.record(record.conversation.id).await, record);
    assert!(matches!(logged.change, Change::Created(told) if told == record.conversation));
    fixture.end().await;
}

async fn what_an_old_column_can_not_hold_is_refused(kind: Kind) {
    let fixture = old(kind).await;
    let mut account = crate::harness::new_client("crab@example.com");
    account.company = Some("名 🦀".to_owned());
    let outcome = fixture.store.register_client(&account).await;
    match kind {
        // Its `Clients` has the character set of an older day. Nothing is replaced by question marks.
        Kind::MySql => {
            assert!(
                matches!(outcome, Err(StoreError::Unstorable(_))),
                "{outcome:?}"
            );
            let made = fixture.store.credentials("crab@example.com").await.unwrap();
            assert!(made.is_none());
        }
        Kind::Sqlite => assert!(outcome.unwrap().is_ok()),
    }
    fixture.end().await;
}

async fn ids_of_deleted_conversations_stay_unused(kind: Kind) {
    let fixture = old(kind).await;
    // The highest id there is.
    let highest = ConversationId::new(5);
    fixture
        .store
        .delete_conversation(highest, AGENT, at(0))
        .await
        .unwrap()
        .unwrap();
    let opened = fixture
        .store
        .open_conversation(CARLA, Some(UserId::new(4)), at(1))
        .await
        .unwrap();
    let OpenOutcome::Created(record, _) = opened else {
        panic!("{opened:?}")
    };
    assert!(record.conversation.id > highest);
    fixture.end().await;
}

async fn many_conversations_take_several_batches(kind: Kind) {
    const CONVERSATIONS: i64 = 1100;
    let database = left_behind(kind).await;
    let mut sql = String::new();
    for id in 0..CONVERSATIONS {
        let (client, conversation) = (100 + id, 1000 + id);
        sql += &format!(
            "INSERT INTO Clients (id, name, email, country) VALUES ({client}, 'n', 'c{id}@x.y', 'DE');\
             INSERT INTO Conversations (id, clientId, agencyId) VALUES ({conversation}, {client}, 1);\
             INSERT INTO Messages (conversationId, senderId, receiverId, senderType, content, createdAt) VALUES \
             ({conversation}, 1, 1, 'agency', 'b', '2023-01-01 00:00:02'), \
             ({conversation}, 1, 1, 'agency', 'a', '2023-01-01 00:00:01');"
        );
    }
    database.sql(&format!("BEGIN; {sql} COMMIT;")).await;
    let store = database.store();
    let report = store.migrate().await.unwrap();
    assert_eq!(
        report.numbered_messages,
        7 + 2 * CONVERSATIONS.cast_unsigned()
    );
    let right = "SELECT COUNT(*) FROM Messages m JOIN ConversationEvents e ON e.messageId = m.id \
                 AND e.conversationId = m.conversationId AND e.eventSeq = m.eventSeq \
                 WHERE (m.content = 'a' AND m.seq = 1) OR (m.content = 'b' AND m.seq = 2)";
    assert_eq!(database.number(right).await, 2 * CONVERSATIONS);
    let counted = "SELECT COUNT(*) FROM Conversations WHERE id >= 1000 AND lastSeq = 2 AND lastEventSeq = 2 \
                   AND clientUnreadCount = 2 AND lastMessage = 'b'";
    assert_eq!(database.number(counted).await, CONVERSATIONS);
    store.close().await;
    database.drop().await;
}
