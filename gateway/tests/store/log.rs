//! The log of changes and the outbox.

use gateway::store::{Change, OutboxEntry, ReadMark};
use shared::{ConversationId, EventSeq, SenderType, UserId};

use crate::harness::{Fixture, Kind, admin, anyone, at, client, seq};

crate::on_both!(
    the_log_tells_what_was_told_live,
    what_was_taken_out_by_hand_is_passed_over,
    heads_are_those_a_viewer_may_see,
    the_outbox_holds_what_was_not_struck,
);

async fn the_log_tells_what_was_told_live(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let live = fixture
        .store
        .append(
            &[talk.by_client("hello"), talk.by_client("there")],
            &anyone(),
        )
        .await
        .unwrap();
    let mark = ReadMark {
        conversation: talk.conversation,
        reader: talk.agent,
        side: SenderType::Agency,
        up_to: Some(seq(1)),
        at: at(20),
    };
    fixture.store.mark_read(&mark).await.unwrap();
    let log = fixture
        .store
        .log_after(talk.conversation, EventSeq::ZERO, 10)
        .await
        .unwrap();
    assert_eq!(log.len(), 4);
    match &log[0].change {
        Change::Created(conversation) => {
            assert_eq!(conversation.id, talk.conversation);
            assert_eq!(conversation.last_event_seq, EventSeq::new(1));
        }
        other => panic!("{other:?}"),
    }
    for (logged, result) in log[1..3].iter().zip(&live.results) {
        let Ok(gateway::store::Appended::New(live)) = result else {
            panic!("{result:?}")
        };
        assert_eq!(
            (logged.position, logged.actor, logged.at),
            (live.position, live.actor, live.at)
        );
        assert_eq!(logged.parties, live.parties);
        match (&logged.change, &live.change) {
            (
                Change::Message {
                    message,
                    client,
                    unread_count,
                },
                Change::Message {
                    message: said,
                    client: by,
                    unread_count: unread,
                },
            ) => {
                // As it was written, though the first was read since.
                assert_eq!((message, client, unread_count), (said, by, unread));
            }
            other => panic!("{other:?}"),
        }
    }
    match &log[3].change {
        Change::Read { side, up_to, count } => {
            assert_eq!((*side, *up_to, *count), (SenderType::Agency, seq(1), 1));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((log[3].actor, log[3].at), (talk.agent, at(20)));
    let page = fixture
        .store
        .log_after(talk.conversation, EventSeq::new(1), 2)
        .await
        .unwrap();
    let events: Vec<_> = page
        .iter()
        .map(|logged| logged.position.event_seq.get())
        .collect();
    assert_eq!(events, [2, 3]);
    let none = fixture
        .store
        .log_after(ConversationId::new(99), EventSeq::ZERO, 10)
        .await
        .unwrap();
    assert!(none.is_empty());
    fixture.end().await;
}

async fn what_was_taken_out_by_hand_is_passed_over(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let batch = [
        talk.by_client("1"),
        talk.by_client("2"),
        talk.by_client("3"),
    ];
    fixture.store.append(&batch, &anyone()).await.unwrap();
    fixture
        .database
        .sql("DELETE FROM Messages WHERE seq = 2")
        .await;
    let log = fixture
        .store
        .log_after(talk.conversation, EventSeq::ZERO, 10)
        .await
        .unwrap();
    let events: Vec<_> = log
        .iter()
        .map(|logged| logged.position.event_seq.get())
        .collect();
    assert_eq!(events, [1, 2, 4]);
    fixture.end().await;
}

async fn heads_are_those_a_viewer_may_see(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    fixture.say(talk.by_client("1")).await;
    let other = fixture.client("d@x.y").await.id;
    let second = fixture.open(other, Some(talk.agent)).await.conversation.id;
    let all = fixture.store.heads(admin(talk.agent), None).await.unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(
        (all[0].conversation, all[0].last_seq, all[0].last_event_seq),
        (talk.conversation, seq(1), EventSeq::new(2))
    );
    assert_eq!(all[0].parties.client_user, Some(talk.client));
    let own = fixture.store.heads(client(other), None).await.unwrap();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].conversation, second);
    let asked = fixture
        .store
        .heads(client(other), Some(&[second, ConversationId::new(99)]))
        .await
        .unwrap();
    assert_eq!(asked, own);
    assert!(
        fixture
            .store
            .heads(client(other), Some(&[]))
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        fixture
            .store
            .heads(client(UserId::new(999)), None)
            .await
            .unwrap()
            .is_empty()
    );
    fixture.end().await;
}

async fn the_outbox_holds_what_was_not_struck(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let batch = [talk.by_client("1"), talk.by_client("2")];
    let outcome = fixture.store.append(&batch, &anyone()).await.unwrap();
    let entries = fixture.store.stale_outbox(0, 10).await.unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(
        (entries[0].first, entries[0].last),
        (EventSeq::new(1), EventSeq::new(1))
    );
    let expected = OutboxEntry {
        id: outcome.outbox[0],
        conversation: talk.conversation,
        first: EventSeq::new(2),
        last: EventSeq::new(3),
    };
    assert_eq!(entries[1], expected);
    assert_eq!(
        fixture.store.stale_outbox(0, 1).await.unwrap(),
        entries[..1]
    );
    // None is an hour old.
    assert!(
        fixture
            .store
            .stale_outbox(3_600_000, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        fixture
            .store
            .stale_outbox(u64::MAX, 10)
            .await
            .unwrap()
            .is_empty()
    );
    let first = fixture
        .store
        .first_unpublished(talk.conversation)
        .await
        .unwrap();
    assert_eq!(first, Some(EventSeq::new(1)));
    fixture.store.clear_outbox(&[entries[0].id]).await.unwrap();
    let first = fixture
        .store
        .first_unpublished(talk.conversation)
        .await
        .unwrap();
    assert_eq!(first, Some(EventSeq::new(2)));
    fixture.store.clear_outbox(&outcome.outbox).await.unwrap();
    fixture.store.clear_outbox(&outcome.outbox).await.unwrap();
    assert_eq!(
        fixture
            .store
            .first_unpublished(talk.conversation)
            .await
            .unwrap(),
        None
    );
    assert!(fixture.store.stale_outbox(0, 10).await.unwrap().is_empty());

    let deleted = fixture
        .store
        .delete_conversation(talk.conversation, talk.agent, at(5))
        .await
        .unwrap()
        .unwrap();
    let entries = fixture.store.stale_outbox(0, 10).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(Some(entries[0].id), deleted.outbox);
    fixture.end().await;
}
