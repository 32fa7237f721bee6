//! What a node over Redis missed while its link was broken, and hears when it is back: nothing lost, nothing twice, in
//! order; and where it is told that the history does not reach back.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::bus::redis::{RedisBus, RedisBusSettings, RedisSettings};
use gateway::bus::{Bus, Incoming, Kept, Place, PublishOutcome};
use proptest::prelude::*;
use shared::Room;
use shared::envelope::Position;
use tokio::sync::mpsc;

use super::address::Address;
use super::losses::{PATIENCE, interruption, open, open_with, until_check};
use super::redis_server::RedisServer;
use super::{at, envelope, next, outcome, passing, position_of, rooms_of, user, vouched};

/// A link that comes back at once, and that notices a hang soon.
fn eager() -> RedisBusSettings {
    RedisBusSettings {
        probe_every: Duration::from_millis(50),
        probe_timeout: Duration::from_millis(200),
        reconnect_min: Duration::from_millis(5),
        reconnect_max: Duration::from_millis(50),
        ..RedisBusSettings::default()
    }
}

/// One node that listens through an address of its own, and one that publishes directly.
struct Pair {
    redis: RedisServer,
    address: Address,
    publisher: RedisBus,
    /// Held: the queue of a bus is bounded, and nobody reads it.
    _deaf: mpsc::Receiver<Incoming>,
    listener: RedisBus,
    ear: mpsc::Receiver<Incoming>,
}

impl Pair {
    async fn new(published: RedisBusSettings, listened: RedisBusSettings) -> Self {
        let redis = RedisServer::start();
        let address = Address::of(&redis).await;
        let settings = redis.settings();
        let (publisher, deaf) = open_with(&settings, published);
        let (listener, ear) = open_with(&through(&settings, &address), listened);
        Self {
            redis,
            address,
            publisher,
            _deaf: deaf,
            listener,
            ear,
        }
    }

    async fn publish(&self, seqs: impl IntoIterator<Item = i64>, rooms: &[Room]) {
        let all: Vec<_> = seqs
            .into_iter()
            .map(|seq| envelope(Some(at(1, seq)), rooms))
            .collect();
        let outcomes = self
            .publisher
            .publish(&all)
            .await
            .expect("a bus that works");
        assert!(outcomes.iter().all(|out| *out == PublishOutcome::Published));
    }

    async fn hears(&mut self, seqs: impl IntoIterator<Item = i64>) {
        for seq in seqs {
            assert_eq!(position_of(&next(&mut self.ear).await), at(1, seq));
        }
    }

    async fn until_down(&self) {
        until_check(&self.listener, false).await;
    }
}

fn through(settings: &RedisSettings, address: &Address) -> RedisSettings {
    let mut settings = settings.clone();
    settings.url = address.url();
    settings.command_timeout = Duration::from_millis(500);
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_while_links_were_killed_is_heard_once_and_in_order() {
    const LAST: i64 = 3_000;
    let redis = RedisServer::start();
    let settings = redis.settings();
    let (listener, mut ear) = open_with(&settings, eager());
    let (publisher, _deaf) = open(&settings);
    listener
        .subscribe(&[user(1), user(2)])
        .await
        .expect("a bus that works");
    let publishing = tokio::spawn(async move {
        for seq in 1..=LAST {
            // Some of it is for others, some for two rooms of the node.
            let rooms = [user(1), user(2), user(3)];
            let rooms = match seq % 3 {
                0 => &rooms[1..2],
                1 => &rooms[..],
                _ => &rooms[2..],
            };
            outcome(&publisher, envelope(Some(at(1, seq)), rooms)).await;
            outcome(&publisher, passing(&[user(1)])).await;
        }
    });
    let mut kills = 0;
    let mut heard = Vec::new();
    let wanted: Vec<i64> = (1..=LAST).filter(|seq| seq % 3 != 2).collect();
    let mut kill = tokio::time::interval(Duration::from_millis(20));
    while heard.len() < wanted.len() {
        tokio::select! {
            _ = kill.tick(), if !publishing.is_finished() => {
                kills += redis.ask::<u32>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
            }
            news = next(&mut ear) => match news {
                Incoming::Envelope(envelope, _) => heard.extend(envelope.position),
                other => panic!("Redis had it all: {other:?}"),
            },
        }
    }
    publishing.await.expect("no panic");
    let seqs: Vec<i64> = heard.iter().map(|at| at.event_seq.get()).collect();
    assert_eq!(seqs, wanted);
    assert!(kills > 10, "{kills} links killed");
    // And no more of it comes.
    until_check(&listener, true).await;
    listener
        .subscribe(&[user(4)])
        .await
        .expect("a bus that works");
    outcome(&listener, passing(&[user(4)])).await;
    loop {
        let Incoming::Envelope(envelope, _) = next(&mut ear).await else {
            panic!("Redis had it all");
        };
        assert_eq!(envelope.position, None);
        if envelope.deliveries[0].rooms == [user(4)] {
            break;
        }
    }
}

#[tokio::test]
async fn what_a_cut_link_missed_comes_before_what_is_newer() {
    let mut pair = Pair::new(RedisBusSettings::default(), eager()).await;
    pair.listener.subscribe(&[user(1)]).await.expect("a link");
    pair.publish(1..=5, &[user(1)]).await;
    pair.hears(1..=5).await;
    for turn in 0..3 {
        let base = 5 + turn * 1_000;
        pair.address.cut();
        pair.until_down().await;
        // Several pages, some of them without anything for this node.
        pair.publish(base + 1..=base + 300, &[user(1)]).await;
        pair.publish(base + 301..=base + 600, &[user(2)]).await;
        pair.publish(base + 601..=base + 700, &[user(2), user(1)])
            .await;
        pair.address.mend();
        pair.publish(base + 701..=base + 1_000, &[user(1)]).await;
        pair.hears((base + 1..=base + 300).chain(base + 601..=base + 1_000))
            .await;
    }
}

#[tokio::test]
async fn a_link_that_is_lost_while_it_replays_goes_on_where_it_was() {
    // A relay that takes one at a time, so that the replay is where the test is.
    let slow = RedisBusSettings {
        queue: 1,
        ..eager()
    };
    let mut pair = Pair::new(RedisBusSettings::default(), slow).await;
    pair.listener.subscribe(&[user(1)]).await.expect("a link");
    pair.publish(1..=3, &[user(1)]).await;
    pair.hears(1..=3).await;
    pair.address.cut();
    pair.until_down().await;
    pair.publish(4..=2_000, &[user(1)]).await;
    pair.address.mend();
    for turn in 0..3 {
        pair.hears(4 + turn * 400..4 + (turn + 1) * 400).await;
        pair.address.cut();
        pair.until_down().await;
        let newer = 2_001 + turn * 10;
        pair.publish(newer..newer + 10, &[user(1)]).await;
        pair.address.mend();
    }
    pair.hears(1_204..=2_030).await;
}

#[tokio::test]
async fn a_link_that_hangs_is_made_anew_and_what_it_missed_is_heard() {
    let mut pair = Pair::new(RedisBusSettings::default(), eager()).await;
    pair.listener.subscribe(&[user(1)]).await.expect("a link");
    pair.publish(1..=3, &[user(1)]).await;
    pair.hears(1..=3).await;
    let begun = Instant::now();
    pair.address.hang();
    pair.publish(4..=400, &[user(1)]).await;
    pair.hears(4..=400).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    pair.publish(401..=402, &[user(1)]).await;
    pair.hears(401..=402).await;
}

#[tokio::test]
async fn a_node_that_heard_nothing_for_long_knows_how_far_that_is_sound() {
    // So little history that only the probe's knowledge saves the link from a gap.
    let tight = RedisBusSettings {
        history_bytes: 20_000,
        ..eager()
    };
    let mut pair = Pair::new(tight, eager()).await;
    pair.listener.subscribe(&[user(1)]).await.expect("a link");
    pair.publish(1..=1_000, &[user(2)]).await;
    // Two probes, the second of which began after all of that.
    tokio::time::sleep(Duration::from_millis(200)).await;
    pair.listener.check().await.expect("a link");
    pair.address.cut();
    pair.until_down().await;
    pair.publish(1_001..=1_010, &[user(1)]).await;
    pair.address.mend();
    pair.hears(1_001..=1_010).await;
}

#[tokio::test]
async fn a_history_that_was_trimmed_is_a_gap() {
    let tight = RedisBusSettings {
        history_bytes: 20_000,
        ..RedisBusSettings::default()
    };
    let mut pair = Pair::new(tight, eager()).await;
    pair.listener.subscribe(&[user(1)]).await.expect("a link");
    pair.publish(1..=3, &[user(1)]).await;
    pair.hears(1..=3).await;
    let sound = Instant::now();
    tokio::time::sleep(Duration::from_millis(300)).await;
    pair.address.cut();
    pair.until_down().await;
    let broken = Instant::now();
    pair.publish(4..=1_000, &[user(1)]).await;
    let kept: u64 = pair
        .redis
        .ask(&["MEMORY", "USAGE", &history(&pair).await, "SAMPLES", "0"])
        .await;
    assert!(kept < 60_000, "{kept} bytes of history");
    pair.address.mend();
    let news = next(&mut pair.ear).await;
    let Incoming::Interrupted { since } = news else {
        panic!("not the news of a gap: {news:?}");
    };
    assert!(sound < since && since < broken, "as of the last probe");
    until_check(&pair.listener, true).await;
    pair.publish(1_001..=1_002, &[user(1)]).await;
    pair.hears(1_001..=1_002).await;
}

/// The name of the history's key.
async fn history(pair: &Pair) -> String {
    let keys: Vec<String> = pair.redis.ask(&["KEYS", "*history"]).await;
    keys.into_iter().next().expect("a history")
}

#[tokio::test]
async fn the_history_is_bounded_in_envelopes_too() {
    let few = RedisBusSettings {
        history: 100,
        ..RedisBusSettings::default()
    };
    let pair = Pair::new(few, eager()).await;
    pair.publish(1..=1_000, &[user(1)]).await;
    let kept: u64 = pair.redis.ask(&["XLEN", &history(&pair).await]).await;
    // Redis trims whole blocks of up to 100.
    assert!((100..=200).contains(&kept), "{kept}");
}

#[tokio::test]
async fn a_room_wished_for_while_the_link_was_down_hears_nothing_older() {
    let mut pair = Pair::new(RedisBusSettings::default(), eager()).await;
    pair.listener
        .subscribe(&[user(1), user(3)])
        .await
        .expect("a link");
    pair.publish(1..=2, &[user(1)]).await;
    pair.hears(1..=2).await;
    pair.address.cut();
    pair.until_down().await;
    pair.publish(3..=5, &[user(2)]).await;
    pair.publish(6..=7, &[user(1)]).await;
    pair.publish(8..=9, &[user(3)]).await;
    pair.listener.unsubscribe(&[user(3)]).await.expect("noted");
    let late = {
        let rooms = [user(2), user(3)];
        let waiting = pair.listener.subscribe(&rooms);
        tokio::join!(waiting, async { pair.address.mend() }).0
    };
    late.expect("a link that came back in time");
    pair.publish(10..=11, &[user(2)]).await;
    pair.publish(12..=13, &[user(3)]).await;
    pair.hears([6, 7, 10, 11, 12, 13]).await;
}

#[tokio::test]
async fn a_replica_that_was_promoted_without_the_last_writes_is_a_gap() {
    let (before, after) = (RedisServer::start(), RedisServer::start());
    // It waits for more replicas otherwise.
    before
        .ask::<()>(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"])
        .await;
    let port = before.port().to_string();
    after.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]).await;
    let begun = Instant::now();
    while !after
        .ask::<String>(&["INFO", "replication"])
        .await
        .contains("master_link_status:up")
    {
        assert!(begun.elapsed() < PATIENCE, "the replica never came up");
        tokio::task::yield_now().await;
    }
    let address = Address::of(&before).await;
    let settings = before.settings();
    let (bus, mut ear) = open_with(&through(&settings, &address), eager());
    bus.subscribe(&[user(1)]).await.expect("a bus that works");
    let of = |seq| envelope(Some(at(1, seq)), &[user(1)]);
    outcome(&bus, of(1)).await;
    let here = bus
        .here()
        .await
        .expect("a bus that works")
        .expect("a place");
    before.ask::<u32>(&["WAIT", "1", "5000"]).await;
    // From here on the replica is on its own, and does not know the next ones.
    after.ask::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    for seq in 2..=4 {
        outcome(&bus, of(seq)).await;
    }
    for seq in 1..=4 {
        assert_eq!(position_of(&next(&mut ear).await), at(1, seq));
    }
    address.cut();
    until_check(&bus, false).await;
    // Somebody publishes other things under the offsets of those.
    let mut elsewhere = settings.clone();
    elsewhere.url = format!("redis://127.0.0.1:{}/", after.port());
    let (other, _deaf) = open(&elsewhere);
    for seq in 1..=6 {
        outcome(&other, vouched(envelope(Some(at(2, seq)), &[user(1)]), 1)).await;
    }
    address.lead_to(&after);
    address.mend();
    assert!(interruption(&mut ear).await.is_empty());
    // No offset names two things: what was told of the old order leads nowhere.
    assert!(kept(&bus, here).await.is_none());
    let now = bus
        .here()
        .await
        .expect("a bus that works")
        .expect("a place");
    assert_ne!(now.epoch, here.epoch);
    assert!(kept(&bus, now).await.is_some());
}

async fn kept(bus: &RedisBus, after: Place) -> Option<Vec<Kept>> {
    bus.kept_after(after, 10).await.expect("a bus that works")
}

/// Whether a Redis is a replica that has all of its master's data.
async fn follows(redis: &RedisServer) -> bool {
    let info = redis.ask::<String>(&["INFO", "replication"]).await;
    info.contains("master_link_status:up")
}

#[tokio::test]
async fn a_link_to_a_redis_that_became_a_replica_is_given_up() {
    let (before, after) = (RedisServer::start(), RedisServer::start());
    let address = Address::of(&before).await;
    // An echo that is not heard is waited for so long that it can't be what ends the link.
    let patient = RedisBusSettings {
        probe_timeout: PATIENCE,
        ..eager()
    };
    let (bus, mut ear) = open_with(&through(&before.settings(), &address), patient);
    bus.subscribe(&[user(1)]).await.expect("a bus that works");
    // Its link stays, and hears what the other one publishes from the end of the resynchronisation on.
    let port = after.port().to_string();
    // It waits for further replicas otherwise, for five seconds.
    let at_once = ["CONFIG", "SET", "repl-diskless-sync-delay", "0"];
    after.ask::<()>(&at_once).await;
    let begun = Instant::now();
    before.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]).await;
    // Only then the way leads to the other one: an echo that is sent there meanwhile is heard by nobody, and waited for.
    while !follows(&before).await {
        assert!(begun.elapsed() < PATIENCE, "never became a replica");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    address.lead_to(&after);
    interruption(&mut ear).await;
    assert!(begun.elapsed() < PATIENCE / 2, "only the echo was missed");
    until_check(&bus, true).await;
    assert_eq!(
        outcome(&bus, envelope(Some(at(1, 1)), &[user(1)])).await,
        PublishOutcome::Published
    );
    assert_eq!(position_of(&next(&mut ear).await), at(1, 1));
}

#[tokio::test]
async fn a_history_that_is_not_the_streams_is_begun_anew() {
    let mut pair = Pair::new(RedisBusSettings::default(), eager()).await;
    pair.listener.subscribe(&[user(1)]).await.expect("a link");
    pair.publish(1..=3, &[user(1)]).await;
    pair.hears(1..=3).await;
    let history = history(&pair).await;
    pair.redis
        .ask::<String>(&["XADD", &history, "1000000-0", "e", "{}", "b", "0"])
        .await;
    pair.publish(4..=5, &[user(1)]).await;
    pair.hears(4..=5).await;
    assert_eq!(pair.redis.ask::<u64>(&["XLEN", &history]).await, 2);
}

#[tokio::test]
async fn what_was_emptied_under_a_link_that_stands_is_no_gap() {
    let mut pair = Pair::new(RedisBusSettings::default(), eager()).await;
    pair.listener.subscribe(&[user(1)]).await.expect("a link");
    pair.publish(1..=3, &[user(1)]).await;
    pair.hears(1..=3).await;
    pair.redis.ask::<()>(&["FLUSHALL"]).await;
    let four = vouched(envelope(Some(at(1, 4)), &[user(1)]), 4);
    outcome(&pair.publisher, four).await;
    pair.hears([4]).await;
    // The offsets begin again, and so does what is replayed.
    pair.address.cut();
    pair.until_down().await;
    pair.publish(5..=6, &[user(1)]).await;
    pair.address.mend();
    pair.hears([5, 6]).await;
}

/// What happens to a node, one after the other.
#[derive(Debug, Clone)]
enum Step {
    /// Somebody publishes for some of the rooms, so many times.
    Publish(HashSet<i64>, i64),
    /// The node wishes for a room, and is told that it is heard.
    Subscribe(i64),
    /// Its link is cut, and mended after what is published meanwhile.
    Break(Vec<HashSet<i64>>),
    /// Its link is killed, and comes back when it likes.
    Kill,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rooms = || proptest::collection::hash_set(1_i64..5, 1..3);
    let step = prop_oneof![
        4 => (rooms(), 1_i64..4).prop_map(|(rooms, times)| Step::Publish(rooms, times)),
        2 => (1_i64..5).prop_map(Step::Subscribe),
        1 => proptest::collection::vec(rooms(), 0..6).prop_map(Step::Break),
        2 => Just(Step::Kill),
    ];
    proptest::collection::vec(step, 1..30)
}

/// The naive model: a node hears what is published for rooms it has subscribed to by then, whatever becomes of its link.
#[test]
fn a_node_hears_what_the_model_says_whatever_becomes_of_its_link() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let redis = RedisServer::start();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&steps(), |steps| {
        let (heard, expected) = runtime.block_on(run(&redis, steps));
        prop_assert_eq!(heard, expected);
        Ok(())
    });
    outcome.expect("the model agrees");
}

/// What a node heard of some steps, and what it should have.
async fn run(redis: &RedisServer, steps: Vec<Step>) -> (Vec<Position>, Vec<Position>) {
    let address = Address::of(redis).await;
    let settings = redis.settings();
    let (publisher, _deaf) = open(&settings);
    let (listener, mut ear) = open_with(&through(&settings, &address), eager());
    let listener = Arc::new(listener);
    let mark = user(i64::MAX);
    listener.subscribe(&[mark]).await.expect("a link");
    let mut subscribed = HashSet::new();
    let mut expected = Vec::new();
    let mut seq = 0;
    let mut publish = async |rooms: &HashSet<i64>, subscribed: &HashSet<i64>| {
        seq += 1;
        let position = at(1, seq);
        let all: Vec<Room> = rooms.iter().copied().map(user).collect();
        outcome(&publisher, envelope(Some(position), &all)).await;
        if !rooms.is_disjoint(subscribed) {
            expected.push(position);
        }
    };
    for step in steps {
        match step {
            Step::Publish(rooms, times) => {
                for _ in 0..times {
                    publish(&rooms, &subscribed).await;
                }
            }
            Step::Subscribe(room) => {
                let begun = Instant::now();
                while listener.subscribe(&[user(room)]).await.is_err() {
                    assert!(begun.elapsed() < PATIENCE, "the link never came back");
                }
                subscribed.insert(room);
            }
            Step::Break(published) => {
                address.cut();
                for rooms in published {
                    publish(&rooms, &subscribed).await;
                }
                address.mend();
            }
            Step::Kill => {
                redis
                    .ask::<u32>(&["CLIENT", "KILL", "TYPE", "pubsub"])
                    .await;
            }
        }
    }
    let end = at(2, 1);
    outcome(&publisher, envelope(Some(end), &[mark])).await;
    let mut heard = Vec::new();
    loop {
        let position = position_of(&next(&mut ear).await);
        if position == end {
            return (heard, expected);
        }
        heard.push(position);
    }
}

#[tokio::test]
async fn what_passes_is_not_kept() {
    let mut pair = Pair::new(RedisBusSettings::default(), eager()).await;
    pair.listener.subscribe(&[user(1)]).await.expect("a link");
    pair.address.cut();
    pair.until_down().await;
    outcome(&pair.publisher, passing(&[user(1)])).await;
    pair.publish([1], &[user(1)]).await;
    pair.address.mend();
    pair.hears([1]).await;
    outcome(&pair.publisher, passing(&[user(1), user(2)])).await;
    assert_eq!(rooms_of(&next(&mut pair.ear).await), [user(1), user(2)]);
}
