//! A user of Redis with the rights that `docs/outside.md` lists, and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use gateway::bus::redis::{Commands, RedisBus, RedisBusSettings, RedisSettings};
use gateway::bus::{Bus, Incoming, Mark, Place, Publication};
use gateway::cluster::redis::{
    RedisConnectionStates, RedisPresence, RedisRateLimiter, StateSettings,
};
use gateway::cluster::{
    ConnectionState, ConnectionStates, Ended, Holder, Presence, PresenceSettings, RateLimiter,
};
use shared::envelope::Position;
use shared::{ConversationId, Delivery, Envelope, EventSeq, Role, Room, SocketId, UserId};
use tokio::sync::mpsc;

use crate::node::{Node, doctor};
use crate::redis_server::RedisServer;

const PASSWORD: &str = "sesame-7f3a";

/// The rules of the page, from its `ACL SETUSER gateway` on.
fn rules() -> Vec<String> {
    let page =
        std::fs::read_to_string(format!("{}/../docs/outside.md", env!("CARGO_MANIFEST_DIR")));
    let page = page.unwrap();
    let rules = page.split("ACL SETUSER gateway").nth(1).unwrap();
    let rules = rules.split("```").next().unwrap().replace('\\', " ");
    let rules = rules.replace("PASSWORD", PASSWORD);
    rules.split_whitespace().map(ToOwned::to_owned).collect()
}

async fn set_user(redis: &RedisServer, rules: &[&str]) {
    let words = [&["ACL", "SETUSER", "gateway"], rules].concat();
    redis.ask::<()>(&words).await;
}

/// A Redis where nobody else may do anything but the test.
async fn with_user() -> RedisServer {
    let redis = RedisServer::start();
    let rules = rules();
    set_user(
        &redis,
        &rules.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;
    redis
}

fn url(redis: &RedisServer) -> String {
    format!("redis://gateway:{PASSWORD}@127.0.0.1:{}/", redis.port())
}

fn commands(redis: &RedisServer) -> Commands {
    Commands::open(&RedisSettings::new(url(redis))).unwrap()
}

fn publication(position: Option<Position>) -> Publication {
    Publication {
        envelope: Arc::new(Envelope {
            trace: None,
            position,
            deliveries: vec![Delivery {
                event: "test".to_owned(),
                rooms: vec![ROOM],
                data: serde_json::value::to_raw_value("x").unwrap(),
                origin: None,
                except_user: None,
                lapse: None,
            }],
            sent_at: 0,
            closes: None,
        }),
        begins_at: None,
    }
}

const PERSON: UserId = UserId::new(7);
const ROOM: Room = Room::User(PERSON);

async fn next(ear: &mut mpsc::Receiver<Incoming>) -> Incoming {
    let next = tokio::time::timeout(Duration::from_secs(10), ear.recv());
    next.await.unwrap().unwrap()
}

/// The bus, with what is in order, what came early, and what is read again.
async fn use_bus(bus: &RedisBus) -> Place {
    let mut ear = bus.incoming().unwrap();
    bus.subscribe(&[ROOM]).await.unwrap();
    for seq in [1, 3, 2] {
        let position = Position {
            conversation: ConversationId::new(1),
            event_seq: EventSeq::new(seq),
        };
        bus.publish(&[publication(Some(position))]).await.unwrap();
    }
    bus.publish(&[publication(None)]).await.unwrap();
    let mut heard = 0;
    while heard < 4 {
        heard += usize::from(matches!(next(&mut ear).await, Incoming::Envelope(..)));
    }
    let here = bus.here().await.unwrap().unwrap();
    let start = Place { offset: 0, ..here };
    assert_eq!(bus.kept_after(start, 10).await.unwrap().unwrap().len(), 3);
    bus.unsubscribe(&[ROOM]).await.unwrap();
    bus.check().await.unwrap();
    here
}

async fn use_presence(commands: &Commands) {
    let settings = PresenceSettings {
        grace: Duration::ZERO,
        lease: Duration::from_millis(1),
    };
    let presence = RedisPresence::new(commands.clone(), "a", settings);
    assert!(presence.arrive(PERSON, Role::User).await.unwrap());
    presence.renew(&[(PERSON, Role::User)]).await.unwrap();
    assert_eq!(presence.online().await.unwrap(), [(PERSON, Role::User)]);
    assert_eq!(presence.online_among(&[PERSON]).await.unwrap().len(), 1);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut gone = presence.sweep().await.unwrap();
    presence.depart(PERSON).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    gone.extend(presence.sweep().await.unwrap());
    assert_eq!(gone, [(PERSON, Role::User)]);
}

async fn use_states(commands: &Commands, place: Place) {
    let states = RedisConnectionStates::new(commands.clone(), "a", StateSettings::default());
    let long = Duration::from_secs(60);
    let holder = Holder {
        state: "0123456789abcdef".into(),
        connection: 1,
        since: long,
    };
    let state = ConnectionState {
        user: PERSON,
        role: Role::User,
        socket: SocketId::new("socket"),
        conversations: vec![ConversationId::new(1)],
        from: Mark::after(place),
    };
    states.beat(None).await.unwrap();
    assert!(states.open(&holder, &state, long, None).await.unwrap());
    states.update(&holder, &[], long).await.unwrap();
    assert!(states.find(&holder.state).await.unwrap().is_some());
    let ended = Ended {
        holder: holder.clone(),
        received: None,
    };
    states.end(&[ended]).await.unwrap();
    assert!(states.find(&holder.state).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_of_the_page_are_enough() {
    let redis = with_user().await;
    let commands = commands(&redis);
    let bus = RedisBus::open(commands.clone(), "a", RedisBusSettings::default());
    let place = use_bus(&bus).await;
    use_presence(&commands).await;
    use_states(&commands, place).await;
    let limiter = RedisRateLimiter::new(commands);
    assert!(limiter.take("x", 1).await.is_ok() && limiter.take("x", 1).await.is_err());
    bus.close().await;
    // Nothing was refused, not even what nobody waits for an answer to.
    let refused: Vec<redis::Value> = redis.ask(&["ACL", "LOG"]).await;
    assert!(refused.is_empty(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_right_is_missed_and_named() {
    let redis = with_user().await;
    let rights: BTreeSet<String> = rules()
        .into_iter()
        .filter_map(|rule| rule.strip_prefix('+').map(ToOwned::to_owned))
        .collect();
    assert!(rights.len() > 30, "{rights:?}");
    for right in rights {
        // What is taken away is the command; of `script|load` the whole.
        let command = right.split('|').next().unwrap();
        set_user(&redis, &[&format!("-{command}")]).await;
        redis.ask::<()>(&["ACL", "LOG", "RESET"]).await;
        redis.ask::<()>(&["SCRIPT", "FLUSH"]).await;
        let mut settings = RedisSettings::new(url(&redis));
        settings.command_timeout = Duration::from_millis(300);
        let commands = Commands::open(&settings).unwrap();
        let bus = RedisBus::open(commands, "a", RedisBusSettings::default());
        let came = bus.subscribe(&[ROOM]).await;
        assert!(came.is_err(), "{right} is not missed");
        let log: Vec<redis::Value> = redis.ask(&["ACL", "LOG"]).await;
        assert!(format!("{log:?}").contains(command), "{right}: {log:?}");
        bus.close().await;
        set_user(&redis, &[&format!("+{right}")]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_right_too_few_is_not_ready_says_which_and_heals() {
    let redis = with_user().await;
    for (taken, given, said) in [
        // By a script that only a message runs.
        (["-xadd"].as_slice(), ["+xadd"].as_slice(), "xadd"),
        (&["-subscribe"], &["+subscribe"], "subscribe"),
        (&["resetkeys", "~other:*"], &["resetkeys", "~chat:*"], "key"),
        (
            &["resetchannels", "&other:*"],
            &["resetchannels", "&chat:*"],
            "channel",
        ),
        (
            &["resetpass", ">other"],
            &["resetpass", ">sesame-7f3a"],
            "WRONGPASS",
        ),
    ] {
        set_user(&redis, taken).await;
        let node = Node::start(&[("REDIS_URL", url(&redis))]);
        node.wants("bus", said).await;
        set_user(&redis, given).await;
        node.is_ready().await;
        assert!(!node.log().contains(PASSWORD), "{}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_asks_for_no_more_rights_than_a_node_has() {
    let redis = with_user().await;
    let (_, said) = doctor(&[("REDIS_URL", url(&redis))]);
    let level = |what: &str| {
        let line = said.lines().find(|line| line[6..].starts_with(what));
        line.map(|line| line[..4].trim_end().to_owned())
    };
    for what in ["redis", "scripts", "eviction", "clock     Redis"] {
        assert_eq!(level(what).as_deref(), Some("ok"), "{what}\n{said}");
    }
    assert!(!said.contains(PASSWORD), "{said}");
    // One right less is told, by its name.
    set_user(&redis, &["-evalsha"]).await;
    let (is_well, said) = doctor(&[("REDIS_URL", url(&redis))]);
    let line = said.lines().find(|line| line.contains("+evalsha"));
    assert!(line.is_some_and(|line| line.starts_with("fail")), "{said}");
    assert!(!is_well);
}
