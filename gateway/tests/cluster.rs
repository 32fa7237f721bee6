//! The contracts of `Presence` and `RateLimiter`: one suite for every backend, and what only Redis goes through.

#[expect(dead_code, reason = "what only the bus's suite needs")]
mod redis_server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use gateway::bus::redis::Commands;
use gateway::cluster::local::{LocalPresence, LocalRateLimiter};
use gateway::cluster::redis::{RedisPresence, RedisRateLimiter};
use gateway::cluster::{Presence, PresenceSettings, RateLimiter};
use redis_server::RedisServer;
use shared::{Role, UserId};

const QUICK: PresenceSettings = PresenceSettings {
    grace: Duration::from_millis(150),
    lease: Duration::from_secs(60),
};

/// No grace and no lease ends while a test lasts.
const SLOW: PresenceSettings = PresenceSettings {
    grace: Duration::from_secs(60),
    lease: Duration::from_secs(60),
};

/// Presence as several nodes see it: within a process there is one.
type Nodes = Vec<Arc<dyn Presence>>;

fn local(settings: PresenceSettings) -> Nodes {
    vec![Arc::new(LocalPresence::new(settings))]
}

fn redis(settings: PresenceSettings) -> Nodes {
    let redis = redis_server::shared_redis();
    let commands = Commands::open(&redis).expect("good settings");
    ["a", "b"]
        .map(|node| {
            Arc::new(RedisPresence::new(commands.clone(), node, settings)) as Arc<dyn Presence>
        })
        .to_vec()
}

fn person(id: i64) -> (UserId, Role) {
    let role = if id % 2 == 0 { Role::Admin } else { Role::User };
    (UserId::new(id), role)
}

async fn arrive(node: &Arc<dyn Presence>, id: i64) -> bool {
    let (user, role) = person(id);
    node.arrive(user, role).await.expect("a store that works")
}

async fn depart(node: &Arc<dyn Presence>, id: i64) {
    node.depart(person(id).0).await.expect("a store that works");
}

async fn renew(node: &Arc<dyn Presence>, ids: impl IntoIterator<Item = i64>) {
    let here: Vec<_> = ids.into_iter().map(person).collect();
    node.renew(&here).await.expect("a store that works");
}

fn sorted(people: &[(UserId, Role)]) -> Vec<i64> {
    let named: BTreeMap<UserId, Role> = people.iter().copied().collect();
    assert_eq!(named.len(), people.len(), "somebody is named twice");
    for (user, role) in &named {
        assert_eq!(person(user.get()).1, *role);
    }
    named.keys().map(|user| user.get()).collect()
}

async fn online(node: &Arc<dyn Presence>) -> Vec<i64> {
    sorted(&node.online().await.expect("a store that works"))
}

/// Sweeps with all nodes at once, until as many have left as are waited for.
async fn leavers(nodes: &Nodes, wanted: usize) -> Vec<i64> {
    let begun = Instant::now();
    let mut gone = Vec::new();
    while gone.len() < wanted {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "only {gone:?} left"
        );
        for some in join_all(nodes.iter().map(|node| node.sweep())).await {
            gone.extend(some.expect("a store that works"));
        }
    }
    sorted(&gone)
}

async fn the_first_arrival_turns_a_person_online(make: fn(PresenceSettings) -> Nodes) {
    let nodes = make(SLOW);
    for (turn, node) in nodes.iter().enumerate() {
        assert_eq!(arrive(node, 1).await, turn == 0);
        assert!(!arrive(node, 1).await);
    }
    assert!(arrive(&nodes[0], 2).await);
    for node in &nodes {
        assert_eq!(online(node).await, [1, 2]);
        let among = node.online_among(&[3, 2, 2, 4].map(UserId::new)).await;
        assert_eq!(sorted(&among.expect("a store that works")), [2]);
        assert!(
            node.online_among(&[])
                .await
                .expect("a store that works")
                .is_empty()
        );
    }
}

async fn a_person_leaves_once_when_the_grace_has_ended(make: fn(PresenceSettings) -> Nodes) {
    let nodes = make(QUICK);
    for node in &nodes {
        arrive(node, 1).await;
        arrive(node, 2).await;
        renew(node, [1, 2]).await;
    }
    let begun = Instant::now();
    for node in &nodes {
        depart(node, 1).await;
    }
    // A second departure does not prolong the grace.
    depart(&nodes[0], 1).await;
    assert_eq!(online(&nodes[0]).await, [1, 2]);
    assert_eq!(leavers(&nodes, 1).await, [1]);
    // Redis counts in whole milliseconds.
    assert!(begun.elapsed() + Duration::from_millis(1) >= QUICK.grace);
    assert_eq!(online(&nodes[0]).await, [2]);
    for node in &nodes {
        assert!(node.sweep().await.expect("a store that works").is_empty());
    }
    assert!(arrive(&nodes[0], 1).await, "gone, so this is a turn");
}

async fn whoever_comes_back_within_the_grace_was_never_gone(make: fn(PresenceSettings) -> Nodes) {
    let nodes = make(QUICK);
    for id in [1, 2] {
        assert!(arrive(&nodes[0], id).await);
        depart(&nodes[0], id).await;
    }
    assert!(!arrive(nodes.last().expect("a node"), 1).await);
    // The grace of the one ends after that of the other would have.
    assert_eq!(leavers(&nodes, 1).await, [2]);
    assert_eq!(online(&nodes[0]).await, [1]);
}

async fn a_renewal_makes_good_what_was_lost(make: fn(PresenceSettings) -> Nodes) {
    let nodes = make(QUICK);
    arrive(&nodes[0], 1).await;
    arrive(&nodes[0], 2).await;
    depart(&nodes[0], 2).await;
    // 1 departed and 2 and 3 arrived, and the store heard of none of it.
    renew(&nodes[0], [2, 3]).await;
    assert_eq!(online(&nodes[0]).await, [1, 2, 3]);
    assert!(!arrive(&nodes[0], 3).await, "put back without a turn");
    assert_eq!(leavers(&nodes, 1).await, [1]);
    assert_eq!(online(&nodes[0]).await, [2, 3]);
}

async fn a_full_house_is_counted_whole(make: fn(PresenceSettings) -> Nodes) {
    let nodes = make(QUICK);
    renew(&nodes[0], 1..=2_345).await;
    renew(&nodes[0], 1..=2_345).await;
    assert_eq!(online(&nodes[0]).await, Vec::from_iter(1..=2_345));
    let all: Vec<UserId> = (1_000..=3_000).map(UserId::new).collect();
    let among = nodes[0]
        .online_among(&all)
        .await
        .expect("a store that works");
    assert_eq!(sorted(&among), Vec::from_iter(1_000..=2_345));
    renew(&nodes[0], [7]).await;
    let gone = leavers(&nodes, 2_344).await;
    assert!(gone.into_iter().eq((1..=2_345).filter(|id| *id != 7)));
}

async fn an_allowance_is_taken_and_refills(make: fn() -> Vec<Arc<dyn RateLimiter>>) {
    let nodes = make();
    let take = |turn: usize, key: &'static str, per_minute| {
        let node = Arc::clone(&nodes[turn % nodes.len()]);
        async move { node.take(key, per_minute).await }
    };
    for turn in 0..20 {
        take(turn, "nobody counts", 0).await.expect("no limit");
    }
    // A bucket of 600 gains one in 100 ms.
    for turn in 0..600 {
        take(turn, "one", 600).await.expect("a full bucket");
    }
    let mut refused = None;
    for turn in 0..600 {
        refused = take(turn, "one", 600).await.err();
        if refused.is_some() {
            break;
        }
    }
    let wait = refused.expect("an empty bucket").0;
    assert!(
        wait > Duration::ZERO && wait <= Duration::from_millis(100),
        "{wait:?}"
    );
    take(0, "another", 600).await.expect("a bucket of its own");
    tokio::time::sleep(wait).await;
    take(1, "one", 600).await.expect("it has refilled");
}

fn local_limiters() -> Vec<Arc<dyn RateLimiter>> {
    vec![Arc::new(LocalRateLimiter::new())]
}

fn redis_limiters() -> Vec<Arc<dyn RateLimiter>> {
    let settings = redis_server::shared_redis();
    (0..2)
        .map(|_| {
            let commands = Commands::open(&settings).expect("good settings");
            Arc::new(RedisRateLimiter::new(commands)) as Arc<dyn RateLimiter>
        })
        .collect()
}

macro_rules! contract {
    ($backend:ident, $limiters:ident: $($case:ident),* $(,)?) => {
        mod $backend {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case(super::$backend).await;
                }
            )*

            #[tokio::test]
            async fn an_allowance_is_taken_and_refills() {
                super::an_allowance_is_taken_and_refills(super::$limiters).await;
            }
        }
    };
    ($(($backend:ident, $limiters:ident)),*) => {
        $(contract!($backend, $limiters:
            the_first_arrival_turns_a_person_online,
            a_person_leaves_once_when_the_grace_has_ended,
            whoever_comes_back_within_the_grace_was_never_gone,
            a_renewal_makes_good_what_was_lost,
            a_full_house_is_counted_whole,
        );)*
    };
}

contract!((local, local_limiters), (redis, redis_limiters));

#[tokio::test]
async fn a_dead_node_takes_its_people_with_it() {
    let nodes = redis(PresenceSettings {
        lease: Duration::from_millis(300),
        ..QUICK
    });
    let (dead, alive) = (&nodes[0], &nodes[1]);
    renew(dead, 1..=1_200).await;
    renew(alive, [1, 2, 3]).await;
    let begun = Instant::now();
    let mut gone = Vec::new();
    while gone.len() < 1_197 {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{} left",
            gone.len()
        );
        renew(alive, [1, 2, 3]).await;
        gone.extend(alive.sweep().await.expect("a store that works"));
    }
    assert_eq!(sorted(&gone), Vec::from_iter(4..=1_200));
    assert!(
        begun.elapsed() >= Duration::from_millis(400),
        "lease and grace"
    );
    assert_eq!(online(alive).await, [1, 2, 3]);
}

#[tokio::test]
async fn people_on_two_nodes_leave_with_the_second() {
    let nodes = redis(QUICK);
    for node in &nodes {
        arrive(node, 1).await;
    }
    depart(&nodes[0], 1).await;
    arrive(&nodes[0], 2).await;
    depart(&nodes[0], 2).await;
    assert_eq!(leavers(&nodes, 1).await, [2]);
    depart(&nodes[1], 1).await;
    assert_eq!(leavers(&nodes, 1).await, [1]);
}

#[tokio::test]
async fn a_redis_that_came_back_empty_is_told_again() {
    let mut redis = RedisServer::start();
    let commands = Commands::open(&redis.settings()).expect("good settings");
    let node: Arc<dyn Presence> = Arc::new(RedisPresence::new(commands, "a", QUICK));
    assert!(arrive(&node, 1).await);
    redis.kill();
    node.arrive(UserId::new(2), Role::Admin)
        .await
        .expect_err("no Redis");
    redis.restart();
    assert!(online(&node).await.is_empty());
    renew(&node, [1, 2]).await;
    assert_eq!(online(&node).await, [1, 2]);
    assert!(!arrive(&node, 1).await, "nobody turned online by it");
    depart(&node, 1).await;
    assert_eq!(leavers(&vec![node], 1).await, [1]);
}

#[tokio::test]
async fn a_limit_without_redis_is_the_nodes_own() {
    let mut redis = RedisServer::start();
    let settings = redis.settings();
    let limiter = RedisRateLimiter::new(Commands::open(&settings).expect("good settings"));
    let other = RedisRateLimiter::new(Commands::open(&settings).expect("good settings"));
    limiter.take("key", 1).await.expect("the only one");
    other
        .take("key", 1)
        .await
        .expect_err("taken by another node");
    redis.kill();
    limiter.take("key", 1).await.expect("this node's own count");
    let wait = limiter
        .take("key", 1)
        .await
        .expect_err("this node's own count")
        .0;
    assert!(wait > Duration::from_secs(30) && wait <= Duration::from_secs(60));
    redis.restart();
    let begun = Instant::now();
    while other.take("again", 1).await.is_err() || limiter.take("again", 1).await.is_ok() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "the count was never shared again"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
        redis.ask::<()>(&["FLUSHALL"]).await;
    }
}
