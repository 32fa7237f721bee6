//! Finding in the log what a bus has missed.

use std::sync::Arc;

use gateway::chat::CatchUp;
use gateway::relay::{Delivered, Missed};
use gateway::store::NewMessage;
use shared::envelope::Position;
use shared::{ConversationId, Envelope, EventSeq, Timestamp};
use tokio::sync::mpsc;

use crate::harness::{Fixture, Kind, Talk, at};

crate::on_both!(
    what_changed_is_found_by_its_age,
    all_that_follows_what_was_delivered_is_found_in_order,
    a_long_log_is_read_to_its_end,
);

/// Two conversations: of the first the changes 2 to 4, made at 10, 30 and 20; of the second its creation at 1 alone.
async fn two(fixture: &Fixture) -> (Talk, ConversationId) {
    let talk = fixture.talk().await;
    for seconds in [10, 30, 20] {
        fixture
            .say(NewMessage {
                at: at(seconds),
                ..talk.by_client("x")
            })
            .await;
    }
    let other = fixture.client("d@x.y").await.id;
    let second = fixture.open(other, Some(talk.agent)).await.conversation.id;
    (talk, second)
}

fn place(conversation: ConversationId, seq: i64) -> Position {
    Position {
        conversation,
        event_seq: EventSeq::new(seq),
    }
}

async fn what_changed_is_found_by_its_age(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let (talk, second) = two(&fixture).await;
    let first = talk.conversation;
    let none = ConversationId::new(0);
    let changed = async |since, after, limit| {
        let store = &fixture.store;
        store.changed_since(since, after, limit).await.unwrap()
    };
    let all = changed(at(0), none, 10).await;
    assert_eq!(all, [place(first, 1), place(second, 1)]);
    assert_eq!(changed(at(0), none, 1).await, all[..1]);
    assert_eq!(changed(at(0), first, 10).await, all[1..]);
    assert_eq!(changed(at(15), none, 10).await, [place(first, 3)]);
    assert_eq!(changed(at(30), none, 10).await, [place(first, 3)]);
    assert_eq!(changed(at(31), none, 10).await, []);
    fixture
        .store
        .delete_conversation(second, talk.agent, at(40))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(changed(at(31), none, 10).await, [place(second, 2)]);
    fixture.end().await;
}

/// What a search finds.
async fn found(fixture: &Fixture, since: Timestamp, delivered: &Delivered) -> Vec<Position> {
    let catch_up = CatchUp::new(fixture.store.clone());
    let (sender, mut receiver) = mpsc::channel::<Arc<Envelope>>(1);
    let collect = async {
        let mut positions = Vec::new();
        while let Some(envelope) = receiver.recv().await {
            positions.extend(envelope.position);
        }
        positions
    };
    tokio::join!(catch_up.find(since, delivered, sender), collect).1
}

async fn all_that_follows_what_was_delivered_is_found_in_order(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let (talk, second) = two(&fixture).await;
    let at_first = |seq| place(talk.conversation, seq);
    // Nothing is known: from the first change since then on, the one with an earlier time that follows it included.
    let delivered = Delivered::default();
    let news = found(&fixture, at(25), &delivered).await;
    assert_eq!(news, [at_first(3), at_first(4)]);
    let news = found(&fixture, at(0), &delivered).await;
    assert_eq!(
        news,
        [1, 2, 3, 4]
            .map(at_first)
            .into_iter()
            .chain([place(second, 1)])
            .collect::<Vec<_>>()
    );
    // What was delivered is where it goes on, however long ago the next ones were made.
    assert!(delivered.admit_from_log(at_first(1)));
    let news = found(&fixture, at(25), &delivered).await;
    assert_eq!(news, [2, 3, 4].map(at_first));
    assert!(delivered.admit_from_log(at_first(4)));
    assert_eq!(found(&fixture, at(25), &delivered).await, []);
    // A deletion leaves nothing but itself.
    fixture
        .store
        .delete_conversation(talk.conversation, talk.agent, at(40))
        .await
        .unwrap()
        .unwrap();
    let news = found(&fixture, at(25), &Delivered::default()).await;
    assert_eq!(news, [at_first(5)]);
    fixture.end().await;
}

async fn a_long_log_is_read_to_its_end(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let batch: Vec<_> = (0..450).map(|_| talk.by_client("x")).collect();
    fixture
        .store
        .append(&batch, &crate::harness::anyone())
        .await
        .unwrap();
    let news = found(&fixture, at(5), &Delivered::default()).await;
    let expected: Vec<_> = (2..=451).map(|seq| place(talk.conversation, seq)).collect();
    assert_eq!(news, expected);
    fixture.end().await;
}
