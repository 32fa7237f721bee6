//! Opening conversations, and whose clients are.

use gateway::store::{Change, OpenOutcome};
use shared::{ConversationId, EventSeq, Seq};

use crate::harness::{Fixture, Kind, Talk, at, client};

crate::on_both!(
    opening_twice_finds_the_first,
    concurrent_openings_make_one,
    the_agent_with_the_fewest_is_chosen,
    an_account_without_a_client_gets_one,
    a_client_is_found_by_its_address_and_linked,
    inactive_clients_open_nothing_new,
);

async fn opening_twice_finds_the_first(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let (cleo, ada) = (fixture.client("c@x.y").await, fixture.admin("a@x.y").await);
    let opened = fixture
        .store
        .open_conversation(cleo.id, Some(ada.id), at(1))
        .await
        .unwrap();
    let OpenOutcome::Created(record, logged) = opened else {
        panic!("{opened:?}");
    };
    let conversation = &record.conversation;
    assert_eq!(conversation.client.user_id, Some(cleo.id));
    assert_eq!(conversation.client.name, "Cleo Ent");
    assert_eq!(conversation.agency.email, "a@x.y");
    assert_eq!(
        (conversation.last_seq, conversation.last_event_seq),
        (Seq::ZERO, EventSeq::new(1))
    );
    assert_eq!(conversation.created_at, Some(at(1)));
    assert!(conversation.is_active && record.client_active);
    assert_eq!(logged.position.event_seq, EventSeq::new(1));
    assert!(matches!(&logged.change, Change::Created(snapshot) if snapshot == conversation));
    assert!(logged.outbox.is_some());
    let again = fixture
        .store
        .open_conversation(cleo.id, Some(ada.id), at(2))
        .await
        .unwrap();
    assert!(matches!(again, OpenOutcome::Existing(found) if found == record));
    let none = fixture
        .store
        .open_conversation(cleo.id, Some(cleo.id), at(2))
        .await
        .unwrap();
    assert!(matches!(none, OpenOutcome::UnknownAgent));
    assert_eq!(
        fixture
            .store
            .conversation(ConversationId::new(99))
            .await
            .unwrap(),
        None
    );
    fixture.end().await;
}

async fn concurrent_openings_make_one(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let ada = fixture.admin("a@x.y").await.id;
    // An account of the old system, which has no row in Clients yet: that one must not come twice either.
    fixture
        .database
        .sql("INSERT INTO Users (email, password, role) VALUES ('lone@x.y', 'hash', 'user')")
        .await;
    let lone = fixture
        .store
        .credentials("lone@x.y")
        .await
        .unwrap()
        .unwrap()
        .user
        .id;
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let store = fixture.store.clone();
            tokio::spawn(async move {
                store
                    .open_conversation(lone, Some(ada), at(1))
                    .await
                    .unwrap()
            })
        })
        .collect();
    let mut created = 0;
    for run in runs {
        match run.await.unwrap() {
            OpenOutcome::Created(..) => created += 1,
            OpenOutcome::Existing(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(created, 1);
    assert_eq!(
        fixture
            .database
            .number("SELECT COUNT(*) FROM Clients")
            .await,
        1
    );
    assert_eq!(
        fixture
            .database
            .number("SELECT COUNT(*) FROM Conversations")
            .await,
        1
    );
    fixture.end().await;
}

async fn the_agent_with_the_fewest_is_chosen(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let cleo = fixture.client("c@x.y").await.id;
    let none = fixture
        .store
        .open_conversation(cleo, None, at(1))
        .await
        .unwrap();
    assert!(matches!(none, OpenOutcome::NoAgent));
    let (ada, bob) = (
        fixture.admin("a@x.y").await.id,
        fixture.admin("b@x.y").await.id,
    );
    let other = fixture.client("d@x.y").await.id;
    // Of two that have as few, the one who came last.
    assert_eq!(fixture.open(other, None).await.conversation.agency_id, bob);
    let own = fixture.open(cleo, None).await.conversation;
    assert_eq!(own.agency_id, ada);
    // Who has an open one goes on there, whoever else has fewer by then.
    let carl = fixture.admin("z@x.y").await.id;
    let again = fixture.store.open_conversation(cleo, None, at(9)).await;
    assert!(
        matches!(again.unwrap(), OpenOutcome::Existing(record) if record.conversation.id == own.id)
    );
    // Closed ones don't count: now only Carl and Ada have one that is open.
    let third = fixture.client("e@x.y").await.id;
    assert_eq!(fixture.open(third, None).await.conversation.agency_id, carl);
    let close = format!("UPDATE Conversations SET isActive = 0 WHERE agencyId = {bob}");
    fixture.database.sql(&close).await;
    let fourth = fixture.client("f@x.y").await.id;
    assert_eq!(fixture.open(fourth, None).await.conversation.agency_id, bob);
    fixture.end().await;
}

async fn an_account_without_a_client_gets_one(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let ada = fixture.admin("a@x.y").await.id;
    fixture
        .database
        .sql(
            "INSERT INTO Users (email, password, role, firstName) VALUES ('n@x.y', 'h', 'user', 'Nora'); \
             INSERT INTO Users (email, password, role) VALUES ('m@x.y', 'h', 'user');",
        )
        .await;
    for (email, name) in [("n@x.y", "Nora"), ("m@x.y", "m@x.y")] {
        let user = fixture
            .store
            .credentials(email)
            .await
            .unwrap()
            .unwrap()
            .user
            .id;
        let summary = fixture.open(user, Some(ada)).await.conversation.client;
        assert_eq!((summary.name.as_str(), summary.user_id), (name, Some(user)));
    }
    fixture.end().await;
}

/// Rows that the old system writes while this program runs.
async fn a_client_is_found_by_its_address_and_linked(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let ada = fixture.admin("a@x.y").await.id;
    fixture
        .database
        .sql(
            "INSERT INTO Users (email, password, role) VALUES ('late@x.y', 'h', 'user'); \
             INSERT INTO Clients (name, email, country) VALUES ('Late', 'LATE@x.y', 'DE'); \
             INSERT INTO Clients (name, email, country) VALUES ('Nobody', 'nobody@x.y', 'DE'); \
             INSERT INTO Conversations (clientId, agencyId) VALUES (1, 1); \
             INSERT INTO Conversations (clientId, agencyId) VALUES (2, 1);",
        )
        .await;
    let late = fixture
        .store
        .credentials("late@x.y")
        .await
        .unwrap()
        .unwrap()
        .user
        .id;
    let links = "SELECT COUNT(*) FROM Clients WHERE userId IS NOT NULL";
    assert_eq!(fixture.database.number(links).await, 0);
    let record = fixture.record(ConversationId::new(1)).await;
    assert_eq!(record.parties().client_user, Some(late));
    assert_eq!(fixture.database.number(links).await, 1);
    // Without an account there is nobody to receive a message.
    let record = fixture.record(ConversationId::new(2)).await;
    assert_eq!(record.parties().client_user, None);

    fixture
        .database
        .sql("UPDATE Clients SET userId = NULL")
        .await;
    let page = fixture
        .store
        .conversations(client(late), None, 10)
        .await
        .unwrap();
    assert_eq!(page.len(), 1);
    assert_eq!(fixture.database.number(links).await, 1);

    fixture
        .database
        .sql("UPDATE Clients SET userId = NULL")
        .await;
    let talk = Talk {
        client: late,
        agent: ada,
        conversation: ConversationId::new(1),
    };
    assert_eq!(
        fixture
            .say(talk.by_agent("there you are"))
            .await
            .receiver_id,
        late
    );
    assert_eq!(fixture.database.number(links).await, 1);

    fixture
        .database
        .sql("UPDATE Clients SET userId = NULL")
        .await;
    let found = fixture
        .store
        .open_conversation(late, Some(ada), at(3))
        .await
        .unwrap();
    assert!(matches!(found, OpenOutcome::Existing(record) if record.conversation.id.get() == 1));
    assert_eq!(fixture.database.number(links).await, 1);
    fixture.end().await;
}

async fn inactive_clients_open_nothing_new(kind: Kind) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    fixture
        .database
        .sql("UPDATE Clients SET status = 'inactive'")
        .await;
    let bob = fixture.admin("b@x.y").await.id;
    let refused = fixture
        .store
        .open_conversation(talk.client, Some(bob), at(2))
        .await
        .unwrap();
    assert!(matches!(refused, OpenOutcome::ClientInactive));
    let existing = fixture
        .store
        .open_conversation(talk.client, Some(talk.agent), at(2))
        .await
        .unwrap();
    assert!(matches!(existing, OpenOutcome::Existing(_)));
    assert!(!fixture.record(talk.conversation).await.client_active);
    fixture.end().await;
}
