//! Conversations: listing, reading, counting, deleting.

use gateway::store::{Change, PagePosition, ReadMark, UnreadTotals};
use shared::{ConversationId, EventSeq, Role, SenderType, Seq, UserId};

use crate::harness::{Fixture, Kind, Talk, admin, at, client, seq};

crate::on_both!(
    pages_go_by_latest_activity,
    reading_marks_the_other_side_up_to_a_place,
    counts_are_per_side,
    a_deleted_conversation_leaves_its_tombstone,
    counterparts_are_those_who_share,
);

async fn pages_go_by_latest_activity(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let ada = fixture.admin("a@x.y").await.id;
    let mut talks = Vec::new();
    for index in 0..7 {
        let user = fixture.client(&format!("c{index}@x.y")).await.id;
        let conversation = fixture.open(user, Some(ada)).await.conversation.id;
        talks.push(Talk {
            client: user,
            agent: ada,
            conversation,
        });
    }
    for (nth, talk) in [3, 0, 5].into_iter().map(|index| talks[index]).enumerate() {
        let mut message = talk.by_client("hello");
        message.at = at(100 + i64::try_from(nth).unwrap());
        fixture.say(message).await;
    }
    // A row of the old system without any time comes last.
    fixture
        .database
        .sql("UPDATE Conversations SET createdAt = NULL WHERE id = 7")
        .await;
    let mut ids = Vec::new();
    let mut cursor = None;
    loop {
        let page = fixture
            .store
            .conversations(admin(ada), cursor.as_ref(), 2)
            .await
            .unwrap();
        ids.extend(page.iter().map(|record| record.conversation.id.get()));
        match page.last() {
            Some(last) if page.len() == 2 => cursor = Some(last.cursor()),
            _ => break,
        }
    }
    assert_eq!(ids, [6, 1, 4, 5, 3, 2, 7]);
    let own = fixture
        .store
        .conversations(client(talks[2].client), None, 10)
        .await
        .unwrap();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].conversation.id, talks[2].conversation);
    // Somebody without any client sees nothing.
    let none = fixture
        .store
        .conversations(client(UserId::new(999)), None, 10)
        .await
        .unwrap();
    assert!(none.is_empty());
    fixture.end().await;
}

async fn reading_marks_the_other_side_up_to_a_place(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    for content in ["1", "2", "3"] {
        fixture.say(talk.by_client(content)).await;
    }
    fixture.say(talk.by_agent("4")).await;
    let mark = |up_to: Option<i64>| ReadMark {
        conversation: talk.conversation,
        reader: talk.agent,
        side: SenderType::Agency,
        up_to: up_to.map(Seq::new),
        at: at(20),
    };
    let outcome = fixture
        .store
        .mark_read(&mark(Some(2)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((outcome.up_to, outcome.count), (seq(2), 2));
    let logged = outcome.logged.unwrap();
    // The creation and four messages came before.
    assert_eq!(logged.position.event_seq, EventSeq::new(6));
    assert_eq!((logged.actor, logged.at), (talk.agent, at(20)));
    assert!(logged.outbox.is_some());
    let record = fixture.record(talk.conversation).await;
    assert_eq!(
        (record.conversation.unread_count, record.client_unread_count),
        (1, 1)
    );
    assert_eq!(record.conversation.last_event_seq, EventSeq::new(6));
    let page = fixture
        .page(talk.conversation, PagePosition::Latest, 10)
        .await;
    let read: Vec<_> = page
        .iter()
        .map(|message| (message.is_read, message.read_at))
        .collect();
    assert_eq!(
        read,
        [
            (true, Some(at(20))),
            (true, Some(at(20))),
            (false, None),
            (false, None)
        ]
    );

    // Again, and further back: nothing turns read, nothing is logged.
    for up_to in [Some(2), Some(1)] {
        let outcome = fixture
            .store
            .mark_read(&mark(up_to))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(outcome.count, 0);
        assert!(outcome.logged.is_none());
    }
    // Beyond the end means the end, and so does nothing.
    let outcome = fixture
        .store
        .mark_read(&mark(Some(1000)))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((outcome.up_to, outcome.count), (seq(4), 1));
    fixture.say(talk.by_client("5")).await;
    let outcome = fixture.store.mark_read(&mark(None)).await.unwrap().unwrap();
    assert_eq!((outcome.up_to, outcome.count), (seq(5), 1));
    assert_eq!(
        fixture
            .record(talk.conversation)
            .await
            .conversation
            .unread_count,
        0
    );
    let missing = ReadMark {
        conversation: ConversationId::new(99),
        ..mark(None)
    };
    assert!(fixture.store.mark_read(&missing).await.unwrap().is_none());
    fixture.end().await;
}

async fn counts_are_per_side(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let bob = fixture.admin("b@x.y").await.id;
    let other = fixture.client("d@x.y").await.id;
    let others = Talk {
        client: other,
        agent: bob,
        conversation: fixture.open(other, Some(bob)).await.conversation.id,
    };
    for message in [
        talk.by_client("1"),
        talk.by_client("2"),
        talk.by_agent("3"),
        others.by_client("4"),
    ] {
        fixture.say(message).await;
    }
    let unread = |viewer| {
        let store = fixture.store.clone();
        async move { store.unread(viewer).await.unwrap() }
    };
    assert_eq!(
        unread(admin(talk.agent)).await,
        UnreadTotals { all: 3, mine: 2 }
    );
    assert_eq!(unread(admin(bob)).await, UnreadTotals { all: 3, mine: 1 });
    assert_eq!(
        unread(client(talk.client)).await,
        UnreadTotals { all: 1, mine: 1 }
    );
    assert_eq!(unread(client(other)).await, UnreadTotals::default());
    assert_eq!(
        unread(client(UserId::new(999))).await,
        UnreadTotals::default()
    );
    let record = fixture.record(talk.conversation).await;
    assert_eq!(record.seen_by(Role::Admin).unread_count, 2);
    assert_eq!(record.seen_by(Role::User).unread_count, 1);
    fixture.end().await;
}

async fn a_deleted_conversation_leaves_its_tombstone(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    fixture.say(talk.by_client("1")).await;
    let deleted = fixture
        .store
        .delete_conversation(talk.conversation, talk.agent, at(30))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(deleted.position.event_seq, EventSeq::new(3));
    assert_eq!(deleted.parties.client_user, Some(talk.client));
    assert!(matches!(deleted.change, Change::Deleted));
    let again = fixture
        .store
        .delete_conversation(talk.conversation, talk.agent, at(31))
        .await
        .unwrap();
    assert!(again.is_none());

    assert_eq!(
        fixture.store.conversation(talk.conversation).await.unwrap(),
        None
    );
    assert!(
        fixture
            .page(talk.conversation, PagePosition::Latest, 10)
            .await
            .is_empty()
    );
    let log = fixture
        .store
        .log_after(talk.conversation, EventSeq::ZERO, 10)
        .await
        .unwrap();
    assert_eq!(log.len(), 1);
    assert!(matches!(log[0].change, Change::Deleted));
    assert_eq!(
        (log[0].position, log[0].actor, log[0].at),
        (deleted.position, talk.agent, at(30))
    );
    assert_eq!(log[0].parties.agency, talk.agent);
    let ids = [talk.conversation, ConversationId::new(99)];
    let heads = fixture
        .store
        .heads(admin(talk.agent), Some(&ids))
        .await
        .unwrap();
    assert_eq!(heads.len(), 1);
    assert!(heads[0].gone);
    assert_eq!(
        (heads[0].last_seq, heads[0].last_event_seq),
        (seq(1), EventSeq::new(3))
    );
    assert_eq!(heads[0].parties.client_user, Some(talk.client));
    assert!(
        fixture
            .store
            .heads(admin(talk.agent), None)
            .await
            .unwrap()
            .is_empty()
    );

    // The id is never given again, even though it was the highest.
    let anew = fixture
        .open(talk.client, Some(talk.agent))
        .await
        .conversation;
    assert!(anew.id > talk.conversation);
    assert_eq!(anew.last_event_seq, EventSeq::new(1));
    fixture.end().await;
}

async fn counterparts_are_those_who_share(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let other = fixture.client("d@x.y").await.id;
    fixture.open(other, Some(talk.agent)).await;
    let bob = fixture.admin("b@x.y").await.id;
    let mut people = fixture.store.counterparts(admin(talk.agent)).await.unwrap();
    people.sort();
    assert_eq!(people, [talk.client, other]);
    assert_eq!(
        fixture
            .store
            .counterparts(client(talk.client))
            .await
            .unwrap(),
        [talk.agent]
    );
    assert!(
        fixture
            .store
            .counterparts(admin(bob))
            .await
            .unwrap()
            .is_empty()
    );
    fixture.end().await;
}
