//! Giving back the room of deleted rows.

use crate::harness::{Fixture, Kind};

crate::on_both!(what_was_deleted_takes_no_room_afterwards);

/// Rows of 20,000 bytes: some megabytes, in a number that every server counts up to in one statement.
const ROWS: i64 = 500;

async fn what_was_deleted_takes_no_room_afterwards(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let message = fixture.say(talk.by_client("stays")).await;
    let (text, count) = match kind {
        Kind::MySql => ("REPEAT('x', 20000)", "ANALYZE TABLE ConversationEvents"),
        Kind::Sqlite => ("hex(zeroblob(10000))", "SELECT 1"),
    };
    let fill = format!(
        "INSERT INTO ConversationEvents (conversationId, eventSeq, kind, actorId, payload, createdAt) \
         WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS}) \
         SELECT 1000000, n, 'x', 1, {text}, 0 FROM numbers"
    );
    fixture.database.sql(&fill).await;
    // Else it may tell how large the table was before.
    fixture.database.sql(count).await;
    fixture
        .database
        .sql("DELETE FROM ConversationEvents WHERE conversationId = 1000000")
        .await;
    let sizes = fixture.store.optimize().await.unwrap();
    let name = match kind {
        Kind::MySql => "ConversationEvents",
        Kind::Sqlite => "the file",
    };
    let size = sizes.iter().find(|size| size.name == name).unwrap();
    assert!(size.before > ROWS * 20_000, "{} bytes before", size.before);
    assert!(
        size.after < size.before / 4,
        "{} bytes of {}",
        size.after,
        size.before
    );
    let head = fixture.record(talk.conversation).await;
    assert_eq!(head.conversation.last_event_seq, message.event_seq);
    fixture.end().await;
}
