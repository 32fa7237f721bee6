//! The contract of `ConnectionStates`: one suite for every backend, and what only Redis goes through.

#[expect(dead_code, reason = "what only the bus's suite needs")]
mod redis_server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::bus::redis::Commands;
use gateway::bus::{Mark, Place};
use gateway::cluster::local::LocalConnectionStates;
use gateway::cluster::redis::{RedisConnectionStates, StateSettings};
use gateway::cluster::{ConnectionState, ConnectionStates, Ended, Found, Holder, Received};
use redis_server::RedisServer;
use shared::{ConversationId, Role, SocketId, UserId};

const LONG: Duration = Duration::from_secs(60);

/// Longer than a test takes.
const SLOW: StateSettings = StateSettings {
    away: LONG,
    node_away: LONG,
};

const SOON: Duration = Duration::from_millis(150);

/// States as several nodes see them: within a process there is one. Each has given a sign of life.
type Nodes = Vec<Arc<dyn ConnectionStates>>;

async fn local(settings: StateSettings) -> Nodes {
    let nodes: Nodes = vec![Arc::new(LocalConnectionStates::new(settings.away))];
    beat(&nodes[0], None).await;
    nodes
}

async fn redis(settings: StateSettings) -> Nodes {
    let commands = Commands::open(&redis_server::shared_redis()).expect("good settings");
    let nodes = ["a", "b"].map(|node| {
        let states = RedisConnectionStates::new(commands.clone(), node, settings);
        Arc::new(states) as Arc<dyn ConnectionStates>
    });
    for node in &nodes {
        beat(node, None).await;
    }
    nodes.to_vec()
}

fn ids(numbers: impl IntoIterator<Item = i64>) -> Vec<ConversationId> {
    numbers.into_iter().map(ConversationId::new).collect()
}

const fn place(epoch: u64, offset: u64) -> Place {
    Place { epoch, offset }
}

fn mark(epoch: u64, offset: u64) -> Mark {
    Mark::after(place(epoch, offset))
}

fn holder(connection: u64, since: u64) -> Holder {
    Holder {
        state: "0123456789abcdef0123456789abcdef".into(),
        connection,
        since: Duration::from_millis(since),
    }
}

fn state(from: Mark) -> ConnectionState {
    ConnectionState {
        user: UserId::new(7),
        role: Role::Admin,
        socket: SocketId::new("socket"),
        conversations: ids([3, 1, 2]),
        from,
    }
}

async fn open(node: &Arc<dyn ConnectionStates>, holder: &Holder, instead_of: Option<u64>) -> bool {
    let noted = node
        .open(holder, &state(mark(1, 5)), LONG, instead_of)
        .await;
    noted.expect("a store that works")
}

async fn find(node: &Arc<dyn ConnectionStates>) -> Option<Found> {
    let found = node.find(&holder(0, 0).state).await;
    found.expect("a store that works")
}

/// From where every node says that the state is to be picked up.
async fn from(nodes: &Nodes) -> Option<Mark> {
    let mut all = Vec::new();
    for node in nodes {
        all.push(find(node).await.map(|found| found.state.from));
    }
    assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    all[0]
}

async fn update(node: &Arc<dyn ConnectionStates>, holder: &Holder, open: &[ConversationId]) {
    let noted = node.update(holder, open, LONG).await;
    noted.expect("a store that works");
}

async fn end(node: &Arc<dyn ConnectionStates>, holder: &Holder, received: Option<Mark>) {
    let ended = Ended {
        holder: holder.clone(),
        received,
    };
    node.end(&[ended]).await.expect("a store that works");
}

async fn beat(node: &Arc<dyn ConnectionStates>, received: Option<Received>) {
    node.beat(received).await.expect("a store that works");
}

fn received(since: u64, place: Place) -> Option<Received> {
    Some(Received {
        since: Duration::from_millis(since),
        place,
    })
}

async fn until_forgotten(nodes: &Nodes, begun: Instant) {
    while find(&nodes[0]).await.is_some() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never forgotten");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(from(nodes).await, None);
}

async fn a_state_is_found_as_it_was_noted(nodes: Nodes) {
    let last = nodes.last().expect("a node");
    assert_eq!(find(last).await, None);
    // The largest numbers that there are.
    let first = holder(u64::MAX, 10);
    let partial = Mark {
        place: place(u64::MAX, u64::MAX),
        delivery: 2,
    };
    let noted = nodes[0].open(&first, &state(partial), LONG, None).await;
    assert!(noted.expect("a store that works"));
    let found = find(last).await.expect("a state");
    assert_eq!(found.state, state(partial));
    assert_eq!(found.connection, u64::MAX);
    let many = ids(1..=1_000);
    update(&nodes[0], &first, &many).await;
    assert_eq!(find(last).await.expect("a state").state.conversations, many);
    update(&nodes[0], &first, &[]).await;
    let found = find(last).await.expect("a state");
    assert!(found.state.conversations.is_empty());
    assert_eq!(last.find("another").await.expect("a store").map(drop), None);
}

async fn what_a_former_holder_says_is_not_heard(nodes: Nodes) {
    let (first, second) = (holder(1, 10), holder(2, 20));
    let (one, other) = (&nodes[0], nodes.last().expect("a node"));
    open(one, &first, None).await;
    assert!(open(other, &second, Some(1)).await);
    update(one, &first, &ids([9])).await;
    end(one, &first, Some(mark(1, 99))).await;
    end(one, &first, None).await;
    let found = find(one).await.expect("the second holds it");
    assert_eq!(found.connection, 2);
    assert_eq!(found.state, state(mark(1, 5)));
}

async fn a_state_passes_only_from_the_connection_that_was_found(nodes: Nodes) {
    let (one, other) = (&nodes[0], nodes.last().expect("a node"));
    assert!(!open(one, &holder(2, 0), Some(1)).await, "there is none");
    assert_eq!(find(one).await, None);
    open(one, &holder(1, 0), None).await;
    assert!(open(other, &holder(2, 0), Some(1)).await);
    assert!(!open(one, &holder(3, 0), Some(1)).await, "2 has it");
    assert_eq!(find(one).await.expect("a state").connection, 2);
    end(other, &holder(2, 0), Some(mark(1, 8))).await;
    assert!(open(one, &holder(3, 0), Some(2)).await, "it ended");
    assert_eq!(from(&nodes).await, Some(mark(1, 5)));
}

async fn what_was_ended_for_good_is_gone(nodes: Nodes) {
    open(&nodes[0], &holder(1, 0), None).await;
    end(&nodes[0], &holder(1, 0), None).await;
    assert_eq!(from(&nodes).await, None);
    update(&nodes[0], &holder(1, 0), &ids([1])).await;
    end(&nodes[0], &holder(1, 0), Some(mark(1, 1))).await;
    assert_eq!(from(&nodes).await, None, "nobody brings it back");
}

async fn what_a_node_says_counts_for_connections_that_began_early_enough(nodes: Nodes) {
    open(&nodes[0], &holder(1, 1_000), None).await;
    beat(&nodes[0], received(999, place(1, 9))).await;
    assert_eq!(from(&nodes).await, Some(mark(1, 5)));
    beat(&nodes[0], received(1_000, place(1, 9))).await;
    assert_eq!(from(&nodes).await, Some(mark(1, 9)));
    // It does not take anything back, and the epoch that goes on is the node's.
    beat(&nodes[0], received(1_000, place(1, 4))).await;
    assert_eq!(from(&nodes).await, Some(mark(1, 5)));
    beat(&nodes[0], received(1_000, place(2, 1))).await;
    assert_eq!(from(&nodes).await, Some(mark(2, 1)));
    beat(&nodes[0], None).await;
    assert_eq!(from(&nodes).await, Some(mark(1, 5)));
    // What was received by the end is what counts after it.
    beat(&nodes[0], received(1_000, place(1, 9))).await;
    end(&nodes[0], &holder(1, 1_000), Some(mark(1, 7))).await;
    assert_eq!(from(&nodes).await, Some(mark(1, 7)));
}

async fn a_state_is_kept_for_so_long_after_its_end(nodes: Nodes) {
    open(&nodes[0], &holder(1, 0), None).await;
    tokio::time::sleep(2 * SOON).await;
    beat(&nodes[0], None).await;
    assert!(find(&nodes[0]).await.is_some(), "it is open");
    let begun = Instant::now();
    end(&nodes[0], &holder(1, 0), Some(mark(1, 5))).await;
    assert!(find(&nodes[0]).await.is_some());
    // What the connection had still to say comes late: it changes nothing, and prolongs nothing.
    update(&nodes[0], &holder(1, 0), &ids([9])).await;
    if let Some(found) = find(&nodes[0]).await {
        assert_eq!(found.state, state(mark(1, 5)));
    }
    // Its node lives on, and says so.
    until_forgotten(&nodes, begun).await;
    beat(&nodes[0], None).await;
    assert!(begun.elapsed() + Duration::from_millis(1) >= SOON);
    assert!(!open(&nodes[0], &holder(2, 0), Some(1)).await);
}

async fn many_ends_are_noted_at_once(nodes: Nodes) {
    let named = |number: u64| Holder {
        state: format!("state-{number}").into(),
        connection: number,
        since: Duration::ZERO,
    };
    const ALL: u64 = 1_201;
    for number in 0..ALL {
        let noted = nodes[0]
            .open(&named(number), &state(mark(1, 0)), LONG, None)
            .await;
        assert!(noted.expect("a store that works"));
    }
    let ended: Vec<_> = (0..ALL)
        .map(|number| Ended {
            holder: named(number),
            received: (number % 3 > 0).then(|| mark(1, number)),
        })
        .collect();
    nodes[0].end(&ended).await.expect("a store that works");
    for number in 0..ALL {
        let found = nodes[0].find(&named(number).state).await;
        let from = found.expect("a store").map(|found| found.state.from);
        assert_eq!(from, (number % 3 > 0).then(|| mark(1, number)));
    }
}

macro_rules! contract {
    ($backend:ident: $($case:ident($settings:expr)),* $(,)?) => {
        mod $backend {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(super::$backend($settings).await).await;
                }
            )*
        }
    };
    ($($backend:ident),*) => {
        $(contract!($backend:
            a_state_is_found_as_it_was_noted(super::SLOW),
            what_a_former_holder_says_is_not_heard(super::SLOW),
            a_state_passes_only_from_the_connection_that_was_found(super::SLOW),
            what_was_ended_for_good_is_gone(super::SLOW),
            what_a_node_says_counts_for_connections_that_began_early_enough(super::SLOW),
            a_state_is_kept_for_so_long_after_its_end(super::StateSettings {
                away: super::SOON,
                ..super::SLOW
            }),
            many_ends_are_noted_at_once(super::SLOW),
        );)*
    };
}

contract!(local, redis);

#[tokio::test]
async fn the_states_of_a_node_that_died_are_kept_for_so_long() {
    let nodes = redis(StateSettings {
        node_away: SOON,
        ..SLOW
    })
    .await;
    let (dead, alive) = (&nodes[0], &nodes[1]);
    open(dead, &holder(1, 0), None).await;
    let begun = Instant::now();
    beat(dead, received(0, place(1, 6))).await;
    assert_eq!(from(&nodes).await, Some(mark(1, 6)));
    until_forgotten(&nodes, begun).await;
    assert!(begun.elapsed() + Duration::from_millis(1) >= SOON);
    // One that was only late is heard again.
    beat(dead, received(0, place(1, 6))).await;
    assert_eq!(from(&nodes).await, Some(mark(1, 6)));
    // What was picked up elsewhere does not end with it.
    assert!(open(alive, &holder(2, 0), Some(1)).await);
    tokio::time::sleep(2 * SOON).await;
    beat(alive, None).await;
    assert_eq!(from(&nodes).await, Some(mark(1, 5)));
}

#[tokio::test]
async fn an_open_state_is_kept_for_its_life_and_an_update_prolongs_it() {
    let nodes = redis(SLOW).await;
    let first = holder(1, 0);
    let state = state(mark(1, 5));
    let short = || nodes[0].open(&first, &state, SOON, None);
    assert!(short().await.expect("a store that works"));
    update(&nodes[0], &first, &ids([1])).await;
    tokio::time::sleep(2 * SOON).await;
    assert!(find(&nodes[0]).await.is_some(), "its token was renewed");
    let begun = Instant::now();
    assert!(short().await.expect("a store that works"));
    until_forgotten(&nodes, begun).await;
}

#[tokio::test]
async fn a_redis_that_was_emptied_has_forgotten_them() {
    let redis = RedisServer::start();
    let commands = Commands::open(&redis.settings()).expect("good settings");
    let states = RedisConnectionStates::new(commands, "a", SLOW);
    let nodes: Nodes = vec![Arc::new(states)];
    beat(&nodes[0], None).await;
    open(&nodes[0], &holder(1, 0), None).await;
    redis.ask::<()>(&["FLUSHALL"]).await;
    assert_eq!(find(&nodes[0]).await, None);
    // Nothing that is said of it makes half a state.
    update(&nodes[0], &holder(1, 0), &ids([1])).await;
    end(&nodes[0], &holder(1, 0), Some(mark(1, 5))).await;
    assert!(!open(&nodes[0], &holder(2, 0), Some(1)).await);
    assert_eq!(redis.ask::<u64>(&["DBSIZE"]).await, 0);
}
