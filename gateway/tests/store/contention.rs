//! Others in the way: deadlocks, locks that are held on to, and more calls than connections. Each is an answer in bounded
//! time, and nothing is lost or stored twice.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use gateway::store::{StoreError, open};
use sqlx::Executor as _;

use crate::commits::is_sound;
use crate::harness::{Fixture, Kind, anyone, named, stored};
use crate::link::Link;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_victim_of_a_deadlock_tries_again() {
    let fixture = Fixture::new(Kind::MySql).await;
    let talk = fixture.talk().await;
    let other = fixture.client("second@x.y").await.id;
    let second = fixture.open(other, Some(talk.agent)).await.conversation.id;
    let mut by_other = talk.by_client("to the second");
    (by_other.conversation, by_other.sender) = (second, other);

    let mut rival = fixture.database.mysql().await;
    // The one that has written less is the victim: the rival has written a lot.
    let written = "CREATE TABLE weight (id INT PRIMARY KEY AUTO_INCREMENT, x INT);";
    rival.execute(written).await.unwrap();
    let heavy = "BEGIN; INSERT INTO weight (x) SELECT seq FROM seq_1_to_2000;";
    rival.execute(heavy).await.unwrap();
    let lock = format!("SELECT id FROM Conversations WHERE id = {second} FOR UPDATE");
    rival.execute(sqlx::AssertSqlSafe(lock)).await.unwrap();

    let batch = [talk.by_client("to the first"), by_other];
    let sending = tokio::spawn({
        let store = fixture.store.clone();
        async move { store.append(&batch, &anyone()).await }
    });
    // It holds the first and waits for the second; the rival holds the second and asks for the first.
    fixture.database.somebody_waits().await;
    let cross = format!(
        "UPDATE Conversations SET isActive = 1 WHERE id = {}",
        talk.conversation
    );
    rival.execute(sqlx::AssertSqlSafe(cross)).await.unwrap();
    rival.execute("COMMIT").await.unwrap();

    let outcome = sending.await.unwrap().unwrap();
    let seqs = outcome.results.iter().map(|one| stored(one).seq.get());
    assert_eq!(seqs.collect::<Vec<_>>(), [1, 1]);
    is_sound(&fixture.database).await;
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_given_up_late_is_waited_for_again() {
    let fixture = Fixture::new(Kind::MySql).await;
    let talk = fixture.talk().await;
    let mut settings = fixture.database.settings();
    // One wait for a lock is a second then, and a transaction with all of them takes four and a half.
    settings.statement_timeout = 2 * SECOND;
    settings.acquire_timeout = 2 * SECOND;
    let store = open(&settings).unwrap();
    let mut holder = fixture.database.mysql().await;
    let lock = "BEGIN; SELECT id FROM Conversations FOR UPDATE;";
    holder.execute(lock).await.unwrap();

    // Held longer than one wait, and less long than all.
    let begun = Instant::now();
    let batch = [talk.by_client("patient")];
    let anyone = anyone();
    let (outcome, ()) = tokio::join!(store.append(&batch, &anyone), async {
        tokio::time::sleep(SECOND * 3 / 2).await;
        holder.execute("ROLLBACK").await.unwrap();
    });
    assert_eq!(stored(&outcome.unwrap().results[0]).seq.get(), 1);
    assert!(begun.elapsed() < 4 * SECOND);

    // Held for good.
    holder.execute(lock).await.unwrap();
    let begun = Instant::now();
    let refused = store.append(&batch, &anyone).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
    holder.execute("ROLLBACK").await.unwrap();

    let outcome = store.append(&batch, &anyone).await.unwrap();
    assert_eq!(stored(&outcome.results[0]).seq.get(), 2);
    is_sound(&fixture.database).await;
    store.close().await;
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_too_long_is_no_place_to_wait() {
    let fixture = Fixture::new(Kind::MySql).await;
    let talk = fixture.talk().await;
    let link = Link::new(fixture.database.port()).await;
    let mut settings = fixture.database.settings();
    settings.url = fixture.database.url_at("root", link.port);
    settings.pool_size = 2;
    settings.acquire_timeout = SECOND;
    settings.statement_timeout = SECOND;
    let store = open(&settings).unwrap();
    store.conversation(talk.conversation).await.unwrap();
    link.hold(true);

    // Two connections, and 32 that wait for each.
    let begun = Instant::now();
    let calls = join_all((0..200).map(|_| async {
        let answer = store.conversation(talk.conversation).await;
        (answer.unwrap_err(), begun.elapsed())
    }));
    // What sends messages is not in that line.
    let message = [named(talk.by_client("in spite of all"), "n")];
    let anyone = anyone();
    let (answers, sent) = tokio::join!(calls, store.append(&message, &anyone));
    let (full, waited): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|(error, _)| matches!(error, StoreError::Full(_)));
    assert_eq!((full.len(), waited.len()), (200 - 66, 66));
    for (_, after) in full {
        assert!(after < SECOND / 10, "{after:?}");
    }
    for (error, after) in waited {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert!(after < 4 * SECOND, "{after:?}");
    }
    assert!(matches!(sent, Err(StoreError::Unavailable(_))), "{sent:?}");

    link.hold(false);
    let outcome = store.append(&message, &anyone).await.unwrap();
    assert_eq!(stored(&outcome.results[0]).seq.get(), 1);
    let all = join_all((0..66).map(|_| store.conversation(talk.conversation))).await;
    assert!(all.iter().all(Result::is_ok));
    is_sound(&fixture.database).await;
    store.close().await;
    fixture.end().await;
}
