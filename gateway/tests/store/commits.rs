//! Connections to MySQL that are lost while a transaction is under way, at every place of it: whatever was or was not
//! carried out, the change is there once, the caller is told so, and no number is missing.

use gateway::store::{
    AppendOutcome, ArchiveOrder, ArchiveOutcome, Archived, NewSession, OpenOutcome, ReadMark,
    RefreshRotation, RotationOutcome, Settings, SharedStore, open,
};
use shared::{EventSeq, SenderType};

use crate::harness::{
    Database, Fixture, Kind, Talk, anyone, at, is_new, named, new_client, stored,
};
use crate::link::{At, Cut, Link};

/// More packets than any transaction here has.
const MOST_PACKETS: usize = 40;

/// A store that reaches its database over a link that breaks; the fixture's own is sound.
struct Over {
    fixture: Fixture,
    link: Link,
    store: SharedStore,
    talk: Talk,
}

impl Over {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let fixture = Fixture::new(Kind::MySql).await;
        let talk = fixture.talk().await;
        let link = Link::new(fixture.database.port()).await;
        let mut settings = fixture.database.settings();
        settings.url = fixture.database.url_at("root", link.port);
        change(&mut settings);
        let store = open(&settings).unwrap();
        // What is looked up once is looked up now.
        store
            .append(&[talk.by_agent("first")], &anyone())
            .await
            .unwrap();
        Self {
            fixture,
            link,
            store,
            talk,
        }
    }

    /// Nothing is there twice, and no number is missing: of messages, of changes, and against what conversations say of
    /// themselves.
    async fn is_sound(&self, messages: i64) {
        let database = &self.fixture.database;
        let count = "SELECT COUNT(*) FROM Messages";
        assert_eq!(database.number(count).await, messages);
        is_sound(database).await;
    }

    /// Messages are told with the ids that they have.
    async fn has_their_ids(&self, outcome: &AppendOutcome) {
        for result in &outcome.results {
            let message = stored(result);
            let id = format!(
                "SELECT id FROM Messages WHERE conversationId = {} AND seq = {}",
                message.conversation_id, message.seq
            );
            assert_eq!(self.fixture.database.number(&id).await, message.id.get());
        }
    }

    async fn end(self) {
        self.store.close().await;
        self.fixture.end().await;
    }
}

/// See [`Over::is_sound`].
pub(crate) async fn is_sound(database: &Database) {
    for (what, sql) in [
        (
            "holes in seq",
            "SELECT COUNT(*) FROM (SELECT cv.id FROM Conversations cv LEFT JOIN Messages m ON m.conversationId = cv.id \
             GROUP BY cv.id HAVING COUNT(m.id) <> MAX(cv.lastSeq) OR COUNT(DISTINCT m.seq) <> MAX(cv.lastSeq) \
             OR COALESCE(MAX(m.seq), 0) <> MAX(cv.lastSeq)) holes",
        ),
        (
            "holes in eventSeq",
            "SELECT COUNT(*) FROM (SELECT cv.id FROM Conversations cv LEFT JOIN ConversationEvents e \
             ON e.conversationId = cv.id GROUP BY cv.id HAVING COUNT(e.eventSeq) <> MAX(cv.lastEventSeq) \
             OR COALESCE(MAX(e.eventSeq), 0) <> MAX(cv.lastEventSeq)) holes",
        ),
        (
            "messages without their change",
            "SELECT COUNT(*) FROM Messages m LEFT JOIN ConversationEvents e ON e.messageId = m.id \
             AND e.eventSeq = m.eventSeq AND e.conversationId = m.conversationId WHERE e.eventSeq IS NULL",
        ),
    ] {
        assert_eq!(database.number(sql).await, 0, "{what}");
    }
}

/// Both ways a packet and its connection can be lost.
const LOST: [Cut; 2] = [Cut::Before, Cut::After];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_stored_once_wherever_its_connection_is_lost() {
    let over = Over::new().await;
    let mut messages = 1;
    for name in [None, Some("n")] {
        for cut in LOST {
            let mut place = 0;
            let places = (0..MOST_PACKETS).map(At::Packet).chain([At::Commit]);
            for at in places {
                over.link.arm(at, cut);
                let message = over.talk.by_client("once");
                let message = match name {
                    Some(name) => named(message, &format!("{name}{messages}")),
                    None => message,
                };
                let outcome = over.store.append(&[message], &anyone()).await.unwrap();
                if over.link.has_cut() {
                    place += 1;
                }
                messages += 1;
                assert!(is_new(&outcome.results[0]), "{at:?} {cut:?}");
                assert_eq!(
                    stored(&outcome.results[0]).seq.get(),
                    messages,
                    "{at:?} {cut:?}"
                );
                over.has_their_ids(&outcome).await;
                over.is_sound(messages).await;
            }
            // What it reads, and what it writes with its commit.
            assert_eq!(place, 2, "packets of one message's transaction");
        }
    }
    over.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_whose_commit_is_lost_moves_and_counts_everything_once() {
    let over = Over::new().await;
    let mut messages = 1;
    for cut in LOST {
        for _ in 0..10 {
            over.fixture.say(over.talk.by_client("old")).await;
        }
        messages += 10;
        over.fixture.database.sql("DELETE FROM Outbox").await;
        let old = "SELECT COUNT(*) FROM ArchivedMessages";
        let before = over.fixture.database.number(old).await;
        over.link.arm(At::Commit, cut);
        let order = ArchiveOrder {
            before: at(100),
            batch: 4,
            dry_run: false,
        };
        let outcome = over.store.archive(order).await.unwrap();
        assert!(over.link.has_cut());
        let moved = over.fixture.database.number(old).await - before;
        assert_eq!(before + moved, messages - 1, "all but the newest, {cut:?}");
        let told = Archived {
            conversations: 1,
            messages: moved.unsigned_abs(),
        };
        assert_eq!(outcome, ArchiveOutcome::Done(told), "{cut:?}");
    }
    over.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_commit_is_lost_is_stored_once() {
    let over = Over::new().await;
    let mut messages = 1;
    // One that is written with its commit, and one that is not.
    for size in [3, 100] {
        for cut in LOST {
            over.link.arm(At::Commit, cut);
            let batch: Vec<_> = (0..size).map(|_| over.talk.by_client("many")).collect();
            let outcome = over.store.append(&batch, &anyone()).await.unwrap();
            assert!(over.link.has_cut());
            let seqs: Vec<_> = outcome
                .results
                .iter()
                .map(|one| stored(one).seq.get())
                .collect();
            let first = messages + 1;
            assert_eq!(seqs, (first..first + size).collect::<Vec<_>>());
            messages += size;
            over.has_their_ids(&outcome).await;
            over.is_sound(messages).await;
        }
    }
    over.end().await;
}

/// What is written with its commit and refused is taken back, on a connection that is of use afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_before_its_commit_is_not_stored() {
    let over = Over::with(|settings| settings.pool_size = 1).await;
    let connections = over.link.connections();
    let conversations =
        "ALTER TABLE Conversations ADD CONSTRAINT short CHECK (CHAR_LENGTH(lastMessage) < 10)";
    over.fixture.database.sql(conversations).await;
    let admit = anyone();
    let refused = over.talk.by_client("far too long");
    over.store.append(&[refused], &admit).await.unwrap_err();
    let taken = over.talk.by_client("short");
    let outcome = over.store.append(&[taken], &admit).await.unwrap();
    assert_eq!(stored(&outcome.results[0]).seq.get(), 2);
    over.has_their_ids(&outcome).await;
    over.is_sound(2).await;
    assert_eq!(over.link.connections(), connections);
    over.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_arrives_late_is_waited_for() {
    let over = Over::new().await;
    over.link.arm(At::Commit, Cut::Late);
    let sending = tokio::spawn({
        let (store, message) = (over.store.clone(), over.talk.by_client("late"));
        async move { store.append(&[message], &anyone()).await }
    });
    // The second attempt waits for what the first one has locked.
    over.fixture.database.somebody_waits().await;
    over.link.release();
    let outcome = sending.await.unwrap().unwrap();
    assert_eq!(stored(&outcome.results[0]).seq.get(), 2);
    over.is_sound(2).await;
    over.end().await;
}

/// A number that was given back with its transaction goes to somebody else, whose message is not taken for the lost one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anothers_message_is_not_taken_for_the_lost_one() {
    let over = Over::new().await;
    over.link.arm(At::Commit, Cut::Outage);
    // Alike in all that can be seen of them.
    let message = over.talk.by_client("the same");
    let sending = tokio::spawn({
        let (store, message) = (over.store.clone(), message.clone());
        async move { store.append(&[message], &anyone()).await }
    });
    over.link.is_out().await;
    let other = over.fixture.say(message).await;
    over.link.hold(false);
    let outcome = sending.await.unwrap().unwrap();
    let own = stored(&outcome.results[0]);
    assert_eq!((other.seq.get(), own.seq.get()), (2, 3));
    over.is_sound(3).await;
    over.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_vanished_holds_nothing_for_long() {
    let second = std::time::Duration::from_secs(1);
    let over = Over::with(|settings| {
        settings.statement_timeout = second;
        settings.acquire_timeout = second;
    })
    .await;
    over.link.arm(At::Commit, Cut::Silent);
    let message = over.talk.by_client("lost");
    let (store, admit) = (over.store.clone(), anyone());
    let vanishing = store.append(std::slice::from_ref(&message), &admit);
    let vanished = tokio::time::timeout(second / 2, vanishing).await;
    assert!(vanished.is_err() && over.link.has_cut());
    // Its transaction holds the conversation, and the server's end of its link is open for good.
    let begun = std::time::Instant::now();
    let outcome = over
        .fixture
        .store
        .append(&[message], &anyone())
        .await
        .unwrap();
    assert!(begun.elapsed() > second / 2, "nobody was in the way");
    assert!(begun.elapsed() < second * 5, "{:?}", begun.elapsed());
    assert_eq!(stored(&outcome.results[0]).seq.get(), 2);
    over.is_sound(2).await;
    over.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_is_marked_once_wherever_its_connection_is_lost() {
    let over = Over::new().await;
    let mut messages = 1;
    for cut in LOST {
        for at in (0..MOST_PACKETS / 2).map(At::Packet).chain([At::Commit]) {
            over.fixture.say(over.talk.by_client("unread")).await;
            messages += 1;
            over.link.arm(at, cut);
            let mark = ReadMark {
                conversation: over.talk.conversation,
                reader: over.talk.agent,
                side: SenderType::Agency,
                up_to: None,
                at: at_of(messages),
            };
            let outcome = over.store.mark_read(&mark).await.unwrap().unwrap();
            over.link.has_cut();
            assert_eq!(
                (outcome.up_to.get(), outcome.count),
                (messages, 1),
                "{at:?} {cut:?}"
            );
            assert!(outcome.logged.is_some(), "{at:?} {cut:?}");
            over.is_sound(messages).await;
        }
    }
    over.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_comes_and_goes_once_wherever_its_connection_is_lost() {
    let over = Over::new().await;
    let database = &over.fixture.database;
    let mut round = 0;
    for cut in LOST {
        for at in (0..MOST_PACKETS / 2).map(At::Packet).chain([At::Commit]) {
            round += 1;
            let client = over.fixture.client(&format!("c{round}@x.y")).await.id;
            over.link.arm(at, cut);
            let opened = over
                .store
                .open_conversation(client, Some(over.talk.agent), at_of(round))
                .await;
            let opened_cut = over.link.has_cut();
            let OpenOutcome::Created(record, logged) = opened.unwrap() else {
                panic!("it is new: {at:?} {cut:?}")
            };
            let id = record.conversation.id;
            assert!(logged.outbox.is_some());
            let found = database.number("SELECT COUNT(*) FROM Conversations").await;
            assert_eq!(found, 2, "{at:?} {cut:?} {opened_cut}");
            over.is_sound(1).await;

            over.link.arm(at, cut);
            let deleted = over
                .store
                .delete_conversation(id, over.talk.agent, at_of(round))
                .await;
            over.link.has_cut();
            let deleted = deleted.unwrap().expect("it was there");
            assert_eq!(deleted.position.event_seq, EventSeq::new(2));
            let log =
                format!("SELECT COUNT(*) FROM ConversationEvents WHERE conversationId = {id}");
            assert_eq!(database.number(&log).await, 1, "{at:?} {cut:?}");
        }
    }
    over.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_and_a_session_are_made_once_wherever_their_connection_is_lost() {
    let over = Over::new().await;
    let mut round = 0;
    for cut in LOST {
        for at in (0..MOST_PACKETS / 4).map(At::Packet).chain([At::Commit]) {
            round += 1;
            over.link.arm(at, cut);
            let account = over
                .store
                .register_client(&new_client(&format!("r{round}@x.y")))
                .await;
            over.link.has_cut();
            let user = account.unwrap().expect("nobody else has the address");

            let hash = |half: u8| {
                [half, u8::try_from(round).unwrap()]
                    .repeat(16)
                    .try_into()
                    .unwrap()
            };
            let session = NewSession {
                id: format!("s{round}"),
                user: user.id,
                refresh_hash: hash(1),
                at: at_of(0),
                expires_at: at_of(1000),
            };
            over.link.arm(at, cut);
            over.store.begin_session(&session).await.unwrap();
            over.link.arm(at, cut);
            let rotation = RefreshRotation {
                spent: hash(1),
                fresh: hash(2),
                at: at_of(1),
                expires_at: at_of(1001),
                grace_ms: 10_000,
            };
            let outcome = over.store.rotate_refresh(&rotation).await.unwrap();
            over.link.has_cut();
            // In `Grace` nobody would ever hear of the fresh token, and the family would end with the next use of the old.
            assert!(
                matches!(outcome, RotationOutcome::Rotated { .. }),
                "{at:?} {cut:?}"
            );
        }
    }
    let tokens = over
        .fixture
        .database
        .number("SELECT COUNT(*) FROM RefreshTokens")
        .await;
    assert_eq!(tokens, 2 * round);
    over.end().await;
}

/// A time that each round has for itself.
fn at_of(round: i64) -> shared::Timestamp {
    at(100 + round)
}
