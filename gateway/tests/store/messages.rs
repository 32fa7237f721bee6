//! Messages: numbering, repeats, admission, pages, and many writers at once.

use std::collections::HashSet;

use gateway::store::{AppendOutcome, Appended, Change, NewMessage, PagePosition, Rejection};
use shared::{ConversationId, EventSeq, SenderType, UserId};

use crate::harness::{Fixture, Kind, Talk, anyone, at, contents, is_new, named, seq, seqs, stored};

crate::on_both!(
    a_batch_is_numbered_in_its_order,
    what_is_acknowledged_is_what_is_read,
    repeats_are_stored_once,
    names_are_compared_byte_for_byte,
    admission_decides_over_each,
    many_writers_leave_no_gap,
    concurrent_repeats_are_stored_once,
    a_large_batch_over_many_conversations,
    pages_go_both_ways,
);

async fn append(fixture: &Fixture, batch: &[NewMessage]) -> AppendOutcome {
    fixture.store.append(batch, &anyone()).await.unwrap()
}

async fn a_batch_is_numbered_in_its_order(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let other = fixture.client("d@x.y").await.id;
    let second = Talk {
        client: other,
        agent: talk.agent,
        conversation: fixture.open(other, Some(talk.agent)).await.conversation.id,
    };
    let batch = [
        talk.by_client("a"),
        second.by_client("b"),
        talk.by_agent("c"),
        talk.by_client("d"),
    ];
    let outcome = append(&fixture, &batch).await;
    assert!(outcome.results.iter().all(is_new));
    let messages: Vec<_> = outcome.results.iter().map(stored).collect();
    assert_eq!(seqs(&messages), [1, 1, 2, 3]);
    let events: Vec<_> = messages
        .iter()
        .map(|message| message.event_seq.get())
        .collect();
    assert_eq!(events, [2, 2, 3, 4]);
    let ids: HashSet<_> = messages.iter().map(|message| message.id).collect();
    assert_eq!(ids.len(), 4);
    let mut unread = Vec::new();
    for result in &outcome.results {
        let Ok(Appended::New(logged)) = result else {
            panic!("{result:?}")
        };
        let Change::Message {
            client,
            unread_count,
            ..
        } = &logged.change
        else {
            panic!("{logged:?}")
        };
        assert_eq!(client.user_id, logged.parties.client_user);
        unread.push(*unread_count);
    }
    assert_eq!(unread, [1, 1, 1, 2]);
    assert_eq!(messages[2].sender_type, SenderType::Agency);
    assert_eq!(messages[2].receiver_id, talk.client);
    assert_eq!(messages[3].receiver_id, talk.agent);
    assert_eq!(outcome.outbox.len(), 2);

    let record = fixture.record(talk.conversation).await;
    assert_eq!(record.conversation.last_message.as_deref(), Some("d"));
    assert_eq!(record.conversation.last_message_time, Some(at(10)));
    assert_eq!(
        (record.conversation.unread_count, record.client_unread_count),
        (2, 1)
    );
    assert_eq!(
        (
            record.conversation.last_seq,
            record.conversation.last_event_seq
        ),
        (seq(3), EventSeq::new(4))
    );
    let empty = append(&fixture, &[]).await;
    assert!(empty.results.is_empty() && empty.outbox.is_empty());
    fixture.end().await;
}

async fn what_is_acknowledged_is_what_is_read(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let long = "🦀".repeat(5000);
    let texts = [
        "  outer space \n",
        "<b>&amp;'\"\\",
        "\u{0}nul",
        "naïve 名 🦀",
        long.as_str(),
    ];
    let batch: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| named(talk.by_client(text), &format!("n{index}")))
        .collect();
    let outcome = append(&fixture, &batch).await;
    let acknowledged: Vec<_> = outcome.results.iter().map(stored).collect();
    let read = fixture
        .page(talk.conversation, PagePosition::Latest, 10)
        .await;
    assert_eq!(acknowledged, read);
    assert_eq!(contents(&read), texts);
    assert_eq!(read[0].client_message_id.as_deref(), Some("n0"));
    fixture.end().await;
}

async fn repeats_are_stored_once(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let outcome = append(
        &fixture,
        &[
            named(talk.by_client("first"), "x"),
            named(talk.by_client("other"), "y"),
            named(talk.by_client("again"), "x"),
        ],
    )
    .await;
    assert_eq!(
        outcome.results.iter().map(is_new).collect::<Vec<_>>(),
        [true, true, false]
    );
    assert_eq!(stored(&outcome.results[2]), stored(&outcome.results[0]));
    // Later, beside a new one; another sender's name is another name.
    let outcome = append(
        &fixture,
        &[
            named(talk.by_client("late"), "x"),
            named(talk.by_agent("mine"), "x"),
            talk.by_client("new"),
        ],
    )
    .await;
    assert_eq!(
        outcome.results.iter().map(is_new).collect::<Vec<_>>(),
        [false, true, true]
    );
    assert_eq!(stored(&outcome.results[0]).content, "first");
    assert_eq!(stored(&outcome.results[0]).seq, seq(1));
    // Only repeats: nothing to publish.
    let outcome = append(&fixture, &[named(talk.by_client("late"), "x")]).await;
    assert!(outcome.outbox.is_empty());
    let page = fixture
        .page(talk.conversation, PagePosition::Latest, 10)
        .await;
    assert_eq!(contents(&page), ["first", "other", "mine", "new"]);
    assert_eq!(seqs(&page), [1, 2, 3, 4]);
    fixture.end().await;
}

async fn names_are_compared_byte_for_byte(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let longest = "名".repeat(64);
    let names = ["a", "A", "á", "a ", " a", longest.as_str()];
    let batch: Vec<_> = names
        .iter()
        .map(|name| named(talk.by_client(name), name))
        .collect();
    let outcome = append(&fixture, &batch).await;
    assert!(outcome.results.iter().all(is_new));
    let outcome = append(&fixture, &batch).await;
    assert!(!outcome.results.iter().any(is_new));
    for (result, name) in outcome.results.iter().zip(names) {
        assert_eq!(stored(result).content, name);
    }
    fixture.end().await;
}

async fn admission_decides_over_each(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    fixture
        .database
        .sql("UPDATE Clients SET status = 'inactive'")
        .await;
    let nowhere = NewMessage {
        conversation: ConversationId::new(99),
        ..talk.by_client("nowhere")
    };
    let stranger = NewMessage {
        sender: UserId::new(77),
        ..talk.by_client("stranger")
    };
    let batch = [
        nowhere,
        stranger,
        named(talk.by_client("inactive"), "x"),
        talk.by_agent("welcome"),
    ];
    let admit = Box::new(
        move |message: &NewMessage, parties: &gateway::store::Parties| {
            assert_eq!(
                message.conversation, talk.conversation,
                "asked about no conversation"
            );
            assert_eq!(parties.agency, talk.agent);
            match message.role {
                shared::Role::Admin => parties.client_user.ok_or(Rejection::ClientHasNoAccount),
                _ if parties.client_user != Some(message.sender) => Err(Rejection::NotAParticipant),
                _ if !parties.client_active => Err(Rejection::ClientInactive),
                _ => Ok(parties.agency),
            }
        },
    );
    let outcome = fixture.store.append(&batch, &*admit).await.unwrap();
    let rejections: Vec<_> = outcome
        .results
        .iter()
        .map(|result| result.as_ref().err().copied())
        .collect();
    assert_eq!(
        rejections,
        [
            Some(Rejection::ConversationNotFound),
            Some(Rejection::NotAParticipant),
            Some(Rejection::ClientInactive),
            None
        ]
    );
    assert_eq!(stored(&outcome.results[3]).seq, seq(1));
    // The admission is asked for repeats as well.
    let outcome = fixture.store.append(&batch[2..3], &*admit).await.unwrap();
    assert!(matches!(outcome.results[0], Err(Rejection::ClientInactive)));
    assert_eq!(
        fixture
            .database
            .number("SELECT COUNT(*) FROM Messages")
            .await,
        1
    );
    fixture.end().await;
}

async fn many_writers_leave_no_gap(kind: Kind) {
    const WRITERS: i64 = 8;
    const BATCHES: i64 = 6;
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let other = fixture.client("d@x.y").await.id;
    let second = Talk {
        client: other,
        agent: talk.agent,
        conversation: fixture.open(other, Some(talk.agent)).await.conversation.id,
    };
    // A store of its own for each half: what holds between tasks must hold between nodes.
    let stores = [fixture.store.clone(), fixture.database.store()];
    let runs: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = stores[usize::try_from(writer).unwrap() % 2].clone();
            tokio::spawn(async move {
                for _ in 0..BATCHES {
                    // In either order: the store locks by id.
                    let mut batch = vec![
                        talk.by_client("a"),
                        second.by_client("b"),
                        talk.by_agent("c"),
                    ];
                    if writer % 2 == 0 {
                        batch.reverse();
                    }
                    let outcome = store.append(&batch, &anyone()).await.unwrap();
                    assert!(outcome.results.iter().all(is_new));
                }
            })
        })
        .collect();
    for run in runs {
        run.await.unwrap();
    }
    for (conversation, each) in [(talk.conversation, 2), (second.conversation, 1)] {
        let total = WRITERS * BATCHES * each;
        let page = fixture
            .page(conversation, PagePosition::After(seq(0)), 1000)
            .await;
        assert_eq!(seqs(&page), (1..=total).collect::<Vec<_>>());
        let log = fixture
            .store
            .log_after(conversation, EventSeq::ZERO, 1000)
            .await
            .unwrap();
        let events: Vec<_> = log
            .iter()
            .map(|logged| logged.position.event_seq.get())
            .collect();
        assert_eq!(events, (1..=total + 1).collect::<Vec<_>>());
        // The log and the message agree on its place: ids went to the right rows.
        for logged in &log {
            if let Change::Message { message, .. } = &logged.change {
                assert_eq!(message.event_seq, logged.position.event_seq);
            }
        }
        let record = fixture.record(conversation).await;
        assert_eq!(record.conversation.last_seq, seq(total));
        assert_eq!(record.conversation.unread_count, WRITERS * BATCHES);
    }
    stores[1].close().await;
    fixture.end().await;
}

async fn concurrent_repeats_are_stored_once(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let store = fixture.store.clone();
            tokio::spawn(async move {
                let outcome = store
                    .append(&[named(talk.by_client("once"), "x")], &anyone())
                    .await
                    .unwrap();
                (is_new(&outcome.results[0]), stored(&outcome.results[0]))
            })
        })
        .collect();
    let mut new = 0;
    let mut messages = HashSet::new();
    for run in runs {
        let (is_new, message) = run.await.unwrap();
        new += i32::from(is_new);
        messages.insert(message.id);
    }
    assert_eq!((new, messages.len()), (1, 1));
    fixture.end().await;
}

async fn a_large_batch_over_many_conversations(kind: Kind) {
    const CONVERSATIONS: usize = 70;
    let fixture = Fixture::new(kind).await;
    let agent = fixture.admin("a@x.y").await.id;
    let mut talks = Vec::new();
    for index in 0..CONVERSATIONS {
        let client = fixture.client(&format!("c{index}@x.y")).await.id;
        let conversation = fixture.open(client, Some(agent)).await.conversation.id;
        talks.push(Talk {
            client,
            agent,
            conversation,
        });
    }
    let batch: Vec<_> = (0..5)
        .flat_map(|round| {
            talks.iter().map(move |talk| {
                named(
                    talk.by_client(&format!("{}/{round}", talk.conversation)),
                    &format!("r{round}"),
                )
            })
        })
        .collect();
    let outcome = append(&fixture, &batch).await;
    assert!(outcome.results.iter().all(is_new));
    assert_eq!(outcome.outbox.len(), CONVERSATIONS);
    for talk in &talks {
        let page = fixture
            .page(talk.conversation, PagePosition::Latest, 10)
            .await;
        let expected: Vec<_> = outcome
            .results
            .iter()
            .map(stored)
            .filter(|message| message.conversation_id == talk.conversation)
            .collect();
        assert_eq!(page, expected);
        assert_eq!(seqs(&page), [1, 2, 3, 4, 5]);
        let last = fixture
            .record(talk.conversation)
            .await
            .conversation
            .last_message;
        assert_eq!(
            last.as_deref(),
            Some(format!("{}/4", talk.conversation).as_str())
        );
    }
    let outcome = append(&fixture, &batch).await;
    assert!(!outcome.results.iter().any(is_new));
    fixture.end().await;
}

async fn pages_go_both_ways(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    let batch: Vec<_> = (1..=9)
        .map(|index| talk.by_client(&index.to_string()))
        .collect();
    append(&fixture, &batch).await;
    let page = |position, limit| {
        let fixture = &fixture;
        async move { seqs(&fixture.page(talk.conversation, position, limit).await) }
    };
    assert_eq!(page(PagePosition::Latest, 3).await, [7, 8, 9]);
    assert_eq!(page(PagePosition::Before(seq(7)), 3).await, [4, 5, 6]);
    assert_eq!(page(PagePosition::Before(seq(3)), 3).await, [1, 2]);
    assert!(page(PagePosition::Before(seq(1)), 3).await.is_empty());
    assert_eq!(page(PagePosition::After(seq(0)), 2).await, [1, 2]);
    assert_eq!(page(PagePosition::After(seq(7)), 5).await, [8, 9]);
    assert!(page(PagePosition::After(seq(9)), 5).await.is_empty());

    // The same pages through a replica, here the database itself: whole pages come from there.
    let mut settings = fixture.database.settings();
    settings.replica_url = Some(fixture.database.url.clone());
    let store = gateway::store::open(&settings).unwrap();
    let request = gateway::store::MessagePage {
        position: PagePosition::Before(seq(7)),
        limit: 3,
        as_of: Some(EventSeq::new(9)),
    };
    assert_eq!(
        seqs(&store.messages(talk.conversation, request).await.unwrap()),
        [4, 5, 6]
    );
    store.close().await;
    fixture.end().await;
}

/// A replica that has nothing yet, and one that is not there, must not show.
#[tokio::test]
async fn a_replica_that_lags_or_fails_is_passed_over() {
    let fixture = Fixture::new(Kind::Sqlite).await;
    let talk = fixture.talk().await;
    let batch: Vec<_> = (1..=5)
        .map(|index| talk.by_client(&index.to_string()))
        .collect();
    append(&fixture, &batch).await;
    let lagging = Fixture::new(Kind::Sqlite).await;
    for replica in [
        lagging.database.url.clone(),
        "mysql://root@127.0.0.1:1/none".to_owned(),
    ] {
        let mut settings = fixture.database.settings();
        settings.replica_url = Some(replica);
        settings.acquire_timeout = std::time::Duration::from_millis(300);
        let store = gateway::store::open(&settings).unwrap();
        let request = gateway::store::MessagePage {
            position: PagePosition::Before(seq(5)),
            limit: 3,
            as_of: Some(EventSeq::new(5)),
        };
        assert_eq!(
            seqs(&store.messages(talk.conversation, request).await.unwrap()),
            [2, 3, 4]
        );
        store.close().await;
    }
    lagging.end().await;
    fixture.end().await;
}
