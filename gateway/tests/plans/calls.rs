//! Every call of the store that requests make, with what each of its statements depends on: first pages and later ones, both
//! roles, one message and many, new things and repeats. What is called decides what is looked at, so a call that is missing here is
//! itself a failure.

use gateway::store::{
    ConversationCursor, MessagePage, NewMessage, NewSession, PagePosition, ProfileChange, ReadMark,
    RefreshRotation, SharedStore, Viewer,
};
use shared::envelope::{Revocation, RevocationScope};
use shared::{ConversationId, EventSeq, Role, SenderType, Seq, Timestamp, UserId};

use crate::crowd::{LONG, LONG_MESSAGES, NEVER, OVER, agent_of, refresh_hash, user_of};
use crate::harness::{admin, anyone, client, new_client, seq};

/// What no request asks for.
const ELSEWHERE: [&str; 7] = [
    "inspect", "optimize", "migrate", "close", "archive", "backup", "restore",
];

/// What the store can be asked.
const STORE: &str = include_str!("../../src/store/mod.rs");
const CALLS: &str = include_str!("calls.rs");

#[test]
fn every_call_of_the_store_is_made() {
    let mut names = Vec::new();
    for (_, rest) in STORE
        .match_indices("async fn ")
        .map(|(at, found)| STORE.split_at(at + found.len()))
    {
        names.push(rest.split(['(', '<']).next().unwrap());
    }
    assert!(names.len() > 30, "{names:?}");
    names.retain(|name| !ELSEWHERE.contains(name));
    names.retain(|name| !CALLS.contains(&format!(".{name}(")));
    assert!(names.is_empty(), "never called: {names:?}");
}

/// Calls everything, in a database as `crowd` fills it.
pub(crate) async fn all(store: &SharedStore) {
    store.check().await.unwrap();
    accounts(store).await;
    sessions(store).await;
    reading(store).await;
    sending(store).await;
    log(store).await;
    changing(store).await;
}

fn at(millis: i64) -> Timestamp {
    Timestamp(chrono::DateTime::from_timestamp_millis(millis).unwrap())
}

const fn id(conversation: i64) -> ConversationId {
    ConversationId::new(conversation)
}

/// The agent and the client of the long conversation.
const fn parties() -> (Viewer, Viewer) {
    (
        admin(UserId::new(agent_of(LONG))),
        client(UserId::new(user_of(LONG))),
    )
}

async fn accounts(store: &SharedStore) {
    let user = UserId::new(user_of(7));
    store.user(user).await.unwrap().unwrap();
    let ids: Vec<UserId> = (5..25).map(UserId::new).collect();
    assert_eq!(store.users(ids[0], &ids).await.unwrap().len(), 20);
    let account = store.credentials("USER30@crowd.test").await.unwrap();
    assert_eq!(account.unwrap().user.id, UserId::new(30));
    store.credentials_of(user).await.unwrap().unwrap();
    let register = async |email| store.register_client(&new_client(email)).await.unwrap();
    register("new@crowd.test").await.unwrap();
    register("user30@crowd.test").await.unwrap_err();
    let account = gateway::store::NewAdmin {
        email: "agent@crowd.test".to_owned(),
        password_hash: "hash".to_owned(),
        first_name: None,
        last_name: None,
        at: at(OVER),
    };
    store.create_admin(&account).await.unwrap().unwrap();
    let change = ProfileChange {
        company: Some(None),
        is_onboarding_completed: Some(true),
        ..ProfileChange::default()
    };
    store.update_profile(user, &change).await.unwrap().unwrap();
}

async fn sessions(store: &SharedStore) {
    let user = UserId::new(user_of(7));
    let session = NewSession {
        id: "new".to_owned(),
        user,
        refresh_hash: [b'n'; 32],
        at: at(OVER),
        expires_at: at(NEVER),
    };
    store.begin_session(&session).await.unwrap();
    let rotate = async |spent, millis, grace_ms| {
        let rotation = RefreshRotation {
            spent,
            fresh: [b'f'; 32],
            at: at(millis),
            grace_ms,
            expires_at: at(NEVER),
        };
        store.rotate_refresh(&rotation).await.unwrap()
    };
    // Rotated, within its grace, reused, unknown.
    rotate(refresh_hash(100), OVER, 10_000).await;
    rotate(refresh_hash(100), OVER + 1, 10_000).await;
    rotate(refresh_hash(100), OVER + 60_000, 10_000).await;
    rotate([b'?'; 32], OVER, 10_000).await;
    store.end_session("new", user, at(OVER)).await.unwrap();
    let change = async |keep| store.change_password(user, "hash", keep, at(OVER)).await;
    change(Some("session27")).await.unwrap();
    change(None).await.unwrap();
    let revocation = Revocation {
        user,
        scope: RevocationScope::Token("00".repeat(32)),
        at: OVER,
    };
    store.revoke(&revocation).await.unwrap();
    // The youngest: those of the crowd are later than these.
    let found = store.revocations_since(at(NEVER + 1_900)).await.unwrap();
    assert!(found.len() >= 100, "{}", found.len());
    store.prune_sessions(at(OVER)).await.unwrap();
}

async fn reading(store: &SharedStore) {
    let (agent, person) = parties();
    // The second is known by its address only.
    store.conversation(id(LONG)).await.unwrap().unwrap();
    store.conversation(id(20)).await.unwrap().unwrap();
    let half = ConversationCursor {
        activity: at(crate::crowd::BEGUN + 1_000 * 60_000),
        id: id(1_000),
    };
    for viewer in [agent, person] {
        for (after, limit) in [(None, 50), (Some(&half), 50)] {
            store.conversations(viewer, after, limit).await.unwrap();
        }
        store.unread(viewer).await.unwrap();
        assert!(!store.counterparts(viewer).await.unwrap().is_empty());
    }
    for position in [
        PagePosition::Latest,
        PagePosition::Before(seq(LONG_MESSAGES)),
        PagePosition::Before(seq(100)),
        PagePosition::After(seq(10)),
        PagePosition::After(seq(LONG_MESSAGES - 100)),
    ] {
        let page = MessagePage {
            position,
            limit: 50,
            as_of: None,
        };
        assert_eq!(store.messages(id(LONG), page).await.unwrap().len(), 50);
    }
}

async fn sending(store: &SharedStore) {
    let message = |conversation: i64, role: Role, name: Option<String>| NewMessage {
        conversation: id(conversation),
        sender: UserId::new(match role {
            Role::Admin => agent_of(conversation),
            Role::User => user_of(conversation),
        }),
        role,
        content: "text".to_owned(),
        client_message_id: name,
        at: at(OVER),
    };
    let append = async |batch: &[NewMessage]| {
        let outcome = store.append(batch, &anyone()).await.unwrap();
        assert!(outcome.results.iter().all(Result::is_ok));
        store.clear_outbox(&outcome.outbox).await.unwrap();
    };
    append(&[message(LONG, Role::User, None)]).await;
    append(&[message(LONG, Role::Admin, Some("new".to_owned()))]).await;
    // A repeat.
    append(&[message(LONG, Role::User, Some("m5".to_owned()))]).await;
    let one: Vec<NewMessage> = (0..64)
        .map(|n| message(LONG, Role::User, Some(format!("one{n}"))))
        .collect();
    append(&one).await;
    let many: Vec<NewMessage> = (0..100)
        .map(|n| message(LONG + n % 50, Role::User, Some(format!("many{n}"))))
        .collect();
    append(&many).await;
}

async fn log(store: &SharedStore) {
    let (agent, person) = parties();
    for after in [0, 10, LONG_MESSAGES - 100] {
        let changes = store.log_after(id(LONG), EventSeq::new(after), 100).await;
        assert_eq!(changes.unwrap().len(), 100);
    }
    // What a node asks whose link to Redis broke for a moment, and how it goes on.
    for after in [0, LONG + 10] {
        store.changed_since(at(OVER), id(after), 200).await.unwrap();
    }
    let some: Vec<ConversationId> = (1..20).chain([9_999]).map(id).collect();
    for ids in [Some(&some[..1]), Some(&some[..]), None] {
        store.heads(agent, ids).await.unwrap();
        store.heads(person, ids).await.unwrap();
    }
    assert!(store.stale_outbox(2_000, 100).await.unwrap().is_empty());
    let first = store.first_unpublished(id(100)).await.unwrap();
    assert_eq!(first, Some(EventSeq::new(1)));
}

async fn changing(store: &SharedStore) {
    let (agent, person) = parties();
    let open = async |user, agent| {
        store
            .open_conversation(user, agent, at(OVER))
            .await
            .unwrap()
    };
    open(person.user, None).await;
    open(person.user, Some(agent.user)).await;
    open(person.user, Some(UserId::new(agent_of(LONG) + 1))).await;
    let newcomer = store.credentials("new@crowd.test").await.unwrap().unwrap();
    open(newcomer.user.id, None).await;
    let read = async |side, up_to: Option<i64>| {
        let mark = ReadMark {
            conversation: id(LONG),
            reader: match side {
                SenderType::Agency => agent.user,
                SenderType::Client => person.user,
            },
            side,
            up_to: up_to.map(Seq::new),
            at: at(OVER + 1),
        };
        store.mark_read(&mark).await.unwrap().unwrap()
    };
    assert_eq!(read(SenderType::Agency, Some(LONG_MESSAGES)).await.count, 1);
    assert!(read(SenderType::Agency, None).await.count > 64);
    read(SenderType::Client, None).await;
    let deleted = store.delete_conversation(id(3), agent.user, at(OVER)).await;
    deleted.unwrap().unwrap();
    store.heads(agent, Some(&[id(3)])).await.unwrap();
}
