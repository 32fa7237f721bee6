//! The archive: what moves, what stays, and that nobody who reads can tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gateway::store::{
    ArchiveOrder, ArchiveOutcome, Archived, Change, NewMessage, PagePosition, ReadMark,
    SharedStore, StoreError,
};
use shared::{EventSeq, SenderType};

use crate::harness::{
    Database, Fixture, Kind, Talk, admin, anyone, at, is_new, named, seq, seqs, stored,
};

crate::on_both!(
    the_old_moves_and_every_page_is_as_before,
    a_repeat_of_what_is_archived_is_known,
    reading_reaches_into_the_archive,
    a_dry_run_moves_nothing,
    each_conversation_keeps_its_newest,
    the_highest_id_stays_wherever_it_stands,
    what_waits_to_be_published_stays,
    a_conversation_goes_with_its_archive,
    senders_and_two_runs_at_once,
    old_rows_that_come_later_leave_counts_as_they_are,
);

/// Messages of the fixture, one a second, by turns.
const MESSAGES: i64 = 30;

fn order(before: i64, batch: u32) -> ArchiveOrder {
    ArchiveOrder {
        before: at(before),
        batch,
        dry_run: false,
    }
}

async fn archive(store: &SharedStore, order: ArchiveOrder) -> Archived {
    match store.archive(order).await.unwrap() {
        ArchiveOutcome::Done(archived) => archived,
        other => panic!("{other:?}"),
    }
}

fn message(talk: Talk, nth: i64) -> NewMessage {
    let message = if nth % 2 == 0 {
        talk.by_client(&format!("text {nth}"))
    } else {
        talk.by_agent(&format!("text {nth}"))
    };
    NewMessage {
        at: at(nth),
        ..named(message, &format!("name {nth}"))
    }
}

async fn filled(kind: Kind) -> (Fixture, Talk) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    for nth in 1..=MESSAGES {
        fixture.say(message(talk, nth)).await;
    }
    fixture.database.sql("DELETE FROM Outbox").await;
    (fixture, talk)
}

async fn count(database: &Database, table: &str) -> i64 {
    database
        .number(&format!("SELECT COUNT(*) FROM {table}"))
        .await
}

async fn the_old_moves_and_every_page_is_as_before(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    let pages = async || {
        let mut pages = vec![
            fixture
                .page(talk.conversation, PagePosition::Latest, 100)
                .await,
        ];
        for limit in [1, 7, 50] {
            pages.push(
                fixture
                    .page(talk.conversation, PagePosition::Latest, limit)
                    .await,
            );
            for place in 0..=MESSAGES + 1 {
                for position in [
                    PagePosition::Before(seq(place)),
                    PagePosition::After(seq(place)),
                ] {
                    pages.push(fixture.page(talk.conversation, position, limit).await);
                }
            }
        }
        pages
    };
    let log = async || {
        let mut told = Vec::new();
        for (after, limit) in [(0, 100), (0, 5), (12, 20)] {
            let changes = fixture
                .store
                .log_after(talk.conversation, EventSeq::new(after), limit)
                .await
                .unwrap();
            for logged in changes {
                if let Change::Message { message, .. } = logged.change {
                    told.push((logged.position, message));
                }
            }
        }
        told
    };
    let (before, log_before) = (pages().await, log().await);
    assert_eq!(before[0].len(), 30);
    assert!(log_before.len() > 50);

    // In batches that end anywhere.
    for (old, batch) in [(10, 100), (21, 4), (100, 3)] {
        archive(&fixture.store, order(old, batch)).await;
        let moved = (old - 1).min(MESSAGES - 1);
        assert_eq!(count(&fixture.database, "ArchivedMessages").await, moved);
        assert_eq!(count(&fixture.database, "Messages").await, MESSAGES - moved);
        assert_eq!(pages().await, before, "{moved} archived");
        assert_eq!(log().await, log_before, "{moved} archived");
    }
    // Nothing is left to do.
    let again = archive(&fixture.store, order(100, 3)).await;
    assert_eq!(again, Archived::default());
    // The numbers go on.
    let next = fixture.say(talk.by_client("next")).await;
    assert_eq!(next.seq, seq(MESSAGES + 1));
    fixture.end().await;
}

async fn a_repeat_of_what_is_archived_is_known(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    archive(&fixture.store, order(21, 100)).await;
    let batch: Vec<_> = [5, 25, 31].map(|nth| message(talk, nth)).into();
    let outcome = fixture.store.append(&batch, &anyone()).await.unwrap();
    let new: Vec<_> = outcome.results.iter().map(is_new).collect();
    assert_eq!(new, [false, false, true]);
    let places: Vec<_> = outcome
        .results
        .iter()
        .map(|one| stored(one).seq.get())
        .collect();
    assert_eq!(places, [5, 25, 31]);
    fixture.end().await;
}

async fn reading_reaches_into_the_archive(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    archive(&fixture.store, order(21, 100)).await;
    let read = async |up_to| {
        let mark = ReadMark {
            conversation: talk.conversation,
            reader: talk.agent,
            side: SenderType::Agency,
            up_to,
            at: at(50),
        };
        fixture.store.mark_read(&mark).await.unwrap().unwrap().count
    };
    assert_eq!(read(Some(seq(10))).await, 5);
    let page = fixture
        .page(talk.conversation, PagePosition::Before(seq(13)), 12)
        .await;
    assert!(page.iter().all(|one| one.is_read == (one.seq <= seq(10) && one.sender_type == SenderType::Client)));
    assert_eq!(
        fixture
            .record(talk.conversation)
            .await
            .conversation
            .unread_count,
        10
    );
    assert_eq!(read(None).await, 10);
    let unread = fixture.store.unread(admin(talk.agent)).await.unwrap();
    assert_eq!(unread.all, 0);
    fixture.end().await;
}

async fn a_dry_run_moves_nothing(kind: Kind) {
    let (fixture, _) = filled(kind).await;
    for batch in [3, 100] {
        let dry = ArchiveOrder {
            dry_run: true,
            ..order(21, batch)
        };
        let found = archive(&fixture.store, dry).await;
        assert_eq!(
            found,
            Archived {
                conversations: 1,
                messages: 20
            }
        );
    }
    assert_eq!(count(&fixture.database, "ArchivedMessages").await, 0);
    let moved = archive(&fixture.store, order(21, 3)).await;
    assert_eq!(
        moved,
        Archived {
            conversations: 1,
            messages: 20
        }
    );
    fixture.end().await;
}

async fn each_conversation_keeps_its_newest(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    // Whose newest is also the newest of all, so that nothing else keeps the first one's.
    let other = fixture.client("other@example.com").await;
    let record = fixture.open(other.id, Some(talk.agent)).await;
    let later = Talk {
        client: other.id,
        conversation: record.conversation.id,
        ..talk
    };
    for nth in 1..=3 {
        fixture.say(message(later, nth)).await;
    }
    fixture.database.sql("DELETE FROM Outbox").await;
    let archived = archive(&fixture.store, order(100, 7)).await;
    assert_eq!(
        archived,
        Archived {
            conversations: 2,
            messages: 31
        }
    );
    for (conversation, last) in [(talk.conversation, MESSAGES), (later.conversation, 3)] {
        let stayed = format!("SELECT MIN(seq) FROM Messages WHERE conversationId = {conversation}");
        assert_eq!(fixture.database.number(&stayed).await, last);
    }
    fixture.end().await;
}

/// An adopted table may give the id after its highest: one that moved would come again.
async fn the_highest_id_stays_wherever_it_stands(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    // As the old system may have written it: later, with an earlier time.
    let sql = "UPDATE ConversationEvents SET messageId = 1000 WHERE messageId = (SELECT id FROM Messages WHERE seq = 5); \
               UPDATE Messages SET id = 1000 WHERE seq = 5";
    fixture.database.sql(sql).await;
    assert_eq!(archive(&fixture.store, order(100, 100)).await.messages, 4);
    // With a newer one it is as any other.
    fixture
        .database
        .sql("UPDATE Messages SET id = 1001 WHERE seq = 30")
        .await;
    assert_eq!(archive(&fixture.store, order(100, 100)).await.messages, 25);
    let page = fixture
        .page(talk.conversation, PagePosition::Latest, 100)
        .await;
    assert_eq!(seqs(&page), (1..=MESSAGES).collect::<Vec<_>>());
    fixture.end().await;
}

async fn what_waits_to_be_published_stays(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    // The conversation's beginning is its first change, so message 9 is the tenth.
    let waiting = format!(
        "INSERT INTO Outbox (conversationId, firstEventSeq, lastEventSeq, createdAt) VALUES ({}, 10, 12, 0)",
        talk.conversation
    );
    fixture.database.sql(&waiting).await;
    assert_eq!(archive(&fixture.store, order(100, 100)).await.messages, 8);
    fixture.end().await;
}

async fn a_conversation_goes_with_its_archive(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    archive(&fixture.store, order(21, 100)).await;
    let deleted = fixture
        .store
        .delete_conversation(talk.conversation, talk.agent, at(60))
        .await;
    deleted.unwrap().unwrap();
    assert_eq!(count(&fixture.database, "ArchivedMessages").await, 0);
    fixture.end().await;
}

async fn senders_and_two_runs_at_once(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    let stop = Arc::new(AtomicBool::new(false));
    let sender = {
        let (store, stop) = (fixture.store.clone(), stop.clone());
        tokio::spawn(async move {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                let batch = [talk.by_client("x"), talk.by_agent("y")];
                let outcome = store.append(&batch, &anyone()).await.unwrap();
                assert!(outcome.results.iter().all(is_new));
                sent += 2;
            }
            sent
        })
    };
    let runs: Vec<_> = (0..2)
        .map(|_| {
            let store = fixture.database.store();
            tokio::spawn(async move {
                let outcome = store.archive(order(1_000, 1)).await.unwrap();
                store.close().await;
                outcome
            })
        })
        .collect();
    let mut moved = 0;
    for run in runs {
        match run.await.unwrap() {
            ArchiveOutcome::Done(archived) => moved += archived.messages,
            ArchiveOutcome::Busy => assert_eq!(kind, Kind::MySql),
            other @ ArchiveOutcome::UnknownColumns(_) => panic!("{other:?}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    let sent = sender.await.unwrap();
    assert!(moved >= 29 && sent > 0, "{moved} moved, {sent} sent");
    let (recent, old) = (
        count(&fixture.database, "Messages").await,
        count(&fixture.database, "ArchivedMessages").await,
    );
    assert_eq!((old as u64, recent + old), (moved, MESSAGES + sent));
    let holes = "SELECT COUNT(*) FROM (SELECT seq FROM Messages UNION SELECT seq FROM ArchivedMessages) every_one";
    assert_eq!(fixture.database.number(holes).await, MESSAGES + sent);
    let page = fixture
        .page(talk.conversation, PagePosition::After(seq(0)), 100)
        .await;
    assert_eq!(
        seqs(&page),
        (1..=(MESSAGES + sent).min(100)).collect::<Vec<_>>()
    );
    fixture.end().await;
}

async fn old_rows_that_come_later_leave_counts_as_they_are(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    archive(&fixture.store, order(21, 100)).await;
    let insert = format!(
        "INSERT INTO Messages (conversationId, senderId, receiverId, senderType, content) \
         VALUES ({}, {}, {}, 'client', 'from the old system')",
        talk.conversation, talk.client, talk.agent
    );
    fixture.database.sql(&insert).await;
    let report = fixture.store.migrate().await.unwrap();
    assert_eq!(report.numbered_messages, 1);
    let record = fixture.record(talk.conversation).await;
    // 15 by each side, and the one that came.
    assert_eq!(record.conversation.unread_count, 16);
    assert_eq!(record.client_unread_count, 15);
    assert_eq!(record.conversation.last_seq, seq(MESSAGES + 1));
    let read = "SELECT agencyReadSeq + clientReadSeq FROM Conversations";
    // The agency's first unread is 2, the client's 1.
    assert_eq!(fixture.database.number(read).await, 1);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_that_would_be_lost_stop_it() {
    let (fixture, _) = filled(Kind::MySql).await;
    fixture
        .database
        .sql("ALTER TABLE Messages ADD COLUMN mood VARCHAR(9)")
        .await;
    let outcome = fixture.store.archive(order(100, 100)).await.unwrap();
    assert_eq!(
        outcome,
        ArchiveOutcome::UnknownColumns(vec!["mood".to_owned()])
    );
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_runs_the_second_says_so() {
    use sqlx::Executor as _;
    let (fixture, _) = filled(Kind::MySql).await;
    let mut other = fixture.database.mysql().await;
    other
        .execute("SELECT GET_LOCK(CONCAT('chat-archive-', MD5(DATABASE())), 0)")
        .await
        .unwrap();
    let outcome = fixture.store.archive(order(100, 100)).await.unwrap();
    assert_eq!(outcome, ArchiveOutcome::Busy);
    assert_eq!(count(&fixture.database, "ArchivedMessages").await, 0);
    fixture.end().await;
}

/// Who marks messages as read holds their conversation: what was marked moves as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_that_somebody_holds_is_waited_for_before_anything_moves() {
    use sqlx::Executor as _;
    let (fixture, _) = filled(Kind::MySql).await;
    let mut holder = fixture.database.mysql().await;
    holder
        .execute("BEGIN; SELECT id FROM Conversations FOR UPDATE;")
        .await
        .unwrap();
    let run = {
        let store = fixture.store.clone();
        tokio::spawn(async move { archive(&store, order(21, 100)).await })
    };
    fixture.database.somebody_waits().await;
    holder
        .execute("UPDATE Messages SET isRead = 1; COMMIT;")
        .await
        .unwrap();
    assert_eq!(run.await.unwrap().messages, 20);
    let unread = "SELECT COUNT(*) FROM ArchivedMessages WHERE isRead = 0";
    assert_eq!(fixture.database.number(unread).await, 0);
    fixture.end().await;
}

/// The old system deletes without asking anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_while_it_moves_does_not_come_back() {
    let (fixture, _) = filled(Kind::Sqlite).await;
    // In the middle of the move, which no second connection could reach.
    fixture
        .database
        .sql(
            "CREATE TRIGGER Meanwhile AFTER INSERT ON ArchivedMessages WHEN NEW.seq = 7 \
             BEGIN DELETE FROM Messages WHERE id = NEW.id; END",
        )
        .await;
    let refused = fixture.store.archive(order(21, 100)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
    assert_eq!(count(&fixture.database, "ArchivedMessages").await, 0);
    assert_eq!(count(&fixture.database, "Messages").await, MESSAGES);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_that_are_none_move_as_missing_ones() {
    let (fixture, talk) = filled(Kind::MySql).await;
    fixture
        .database
        .sql("SET sql_mode = ''; UPDATE Messages SET readAt = '0000-00-00', updatedAt = '0000-00-00' WHERE seq = 3")
        .await;
    let before = fixture
        .page(talk.conversation, PagePosition::Latest, 100)
        .await;
    assert_eq!(archive(&fixture.store, order(21, 100)).await.messages, 20);
    let after = fixture
        .page(talk.conversation, PagePosition::Latest, 100)
        .await;
    assert_eq!(after, before);
    let missing = "SELECT COUNT(*) FROM ArchivedMessages WHERE readAt IS NULL AND updatedAt IS NULL AND seq = 3";
    assert_eq!(fixture.database.number(missing).await, 1);
    fixture.end().await;
}
