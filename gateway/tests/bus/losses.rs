//! What only a bus over Redis goes through: links that are cut, and a Redis that dies, hangs, or comes back empty. What
//! is made good of it is in `replay.rs`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::bus::redis::{Commands, RedisBus, RedisBusSettings, RedisSettings};
use gateway::bus::{Bus, BusError, Incoming, PublishOutcome};
use shared::Room;
use tokio::sync::mpsc;

use super::address::Address;
use super::redis_server::RedisServer;
use super::{at, envelope, next, outcome, passing, position_of, rooms_of, user, vouched};

/// Long enough for a reconnect on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn open(settings: &RedisSettings) -> (RedisBus, mpsc::Receiver<Incoming>) {
    open_with(settings, RedisBusSettings::default())
}

pub(crate) fn open_with(
    settings: &RedisSettings,
    bus: RedisBusSettings,
) -> (RedisBus, mpsc::Receiver<Incoming>) {
    let commands = Commands::open(settings).expect("good settings");
    let bus = RedisBus::open(commands, "a", bus);
    let ear = bus.incoming().expect("the first to ask");
    (bus, ear)
}

/// Hears until the interruption; what was heard before it.
pub(crate) async fn interruption(ear: &mut mpsc::Receiver<Incoming>) -> Vec<Incoming> {
    let heard = async {
        let mut before = Vec::new();
        loop {
            match ear.recv().await.expect("an open bus") {
                Incoming::Interrupted { .. } => return before,
                Incoming::Reached(_) => {}
                other => before.push(other),
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard)
        .await
        .expect("an interruption")
}

pub(crate) async fn until_check(bus: &RedisBus, works: bool) {
    let begun = Instant::now();
    while bus.check().await.is_ok() != works {
        assert!(begun.elapsed() < PATIENCE, "check never said {works}");
        tokio::task::yield_now().await;
    }
}

fn says(answer: Result<(), BusError>, words: &str) -> bool {
    answer.is_err_and(|error| error.to_string().contains(words))
}

#[tokio::test]
async fn a_link_that_was_cut_comes_back_with_every_room() {
    let redis = RedisServer::start();
    let (bus, mut ear) = open(&redis.settings());
    let rooms: Vec<Room> = (1..=2_000).map(user).collect();
    bus.subscribe(&rooms).await.expect("a bus that works");
    for turn in 1..=3 {
        let cut: u32 = redis.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert_eq!(cut, 1);
        // Heard or replayed: the link is back.
        outcome(&bus, envelope(Some(at(1, turn)), &[user(1)])).await;
        assert_eq!(position_of(&next(&mut ear).await), at(1, turn));
        for part in rooms.chunks(500) {
            let some: Vec<_> = part.iter().map(|&room| passing(&[room])).collect();
            bus.publish(&some).await.expect("a bus that works");
            for room in part {
                assert_eq!(rooms_of(&next(&mut ear).await), [*room]);
            }
        }
        bus.check().await.expect("a bus that works");
    }
}

#[tokio::test]
async fn a_redis_that_came_back_empty_needs_a_voucher() {
    let mut redis = RedisServer::start();
    let (bus, mut ear) = open(&redis.settings());
    bus.subscribe(&[user(1)]).await.expect("a bus that works");
    let of = |seq| envelope(Some(at(1, seq)), &[user(1)]);
    for seq in 1..=3 {
        assert_eq!(outcome(&bus, of(seq)).await, PublishOutcome::Published);
        next(&mut ear).await;
    }
    redis.kill();
    until_check(&bus, false).await;
    redis.restart();
    assert!(interruption(&mut ear).await.is_empty());
    // The first to publish does not find broken what was mended.
    assert_eq!(outcome(&bus, of(4)).await, PublishOutcome::UnknownHead);
    assert_eq!(
        outcome(&bus, vouched(of(4), 4)).await,
        PublishOutcome::Published
    );
    assert_eq!(outcome(&bus, of(5)).await, PublishOutcome::Published);
    for seq in [4, 5] {
        let Incoming::Envelope(heard, _) = next(&mut ear).await else {
            panic!("not an envelope");
        };
        assert_eq!(heard.position, Some(at(1, seq)));
    }
}

#[tokio::test]
async fn a_redis_that_was_emptied_begins_another_epoch() {
    let redis = RedisServer::start();
    let settings = redis.settings();
    let (bus, mut ear) = open(&settings);
    bus.subscribe(&[user(1)]).await.expect("a bus that works");
    let stream = format!("{}stream", settings.prefix);
    let mut epochs = HashSet::new();
    for _ in 0..3 {
        // The first offset again, and yet not the place heard last.
        assert_eq!(
            outcome(&bus, passing(&[user(1)])).await,
            PublishOutcome::Published
        );
        assert_eq!(rooms_of(&next(&mut ear).await), [user(1)]);
        epochs.insert(redis.ask::<String>(&["HGET", &stream, "epoch"]).await);
        redis.ask::<()>(&["FLUSHALL"]).await;
    }
    assert_eq!(epochs.len(), 3);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_sent_again() {
    let redis = RedisServer::start();
    let (bus, mut ear) = open(&redis.settings());
    bus.subscribe(&[user(1)]).await.expect("a bus that works");
    for _ in 0..2 {
        outcome(&bus, passing(&[user(1)])).await;
        next(&mut ear).await;
        redis.ask::<()>(&["SCRIPT", "FLUSH"]).await;
    }
}

#[tokio::test]
async fn a_wish_that_redis_could_not_hear_is_kept() {
    let mut redis = RedisServer::reserve();
    let mut settings = redis.settings();
    settings.command_timeout = Duration::from_millis(200);
    let (bus, mut ear) = open(&settings);
    let begun = Instant::now();
    bus.subscribe(&[user(1)]).await.expect_err("no Redis");
    bus.subscribe(&[user(2)]).await.expect_err("no Redis");
    bus.check().await.expect_err("no Redis");
    bus.unsubscribe(&[user(2)])
        .await
        .expect("nothing to wait for");
    assert!(begun.elapsed() < Duration::from_secs(2), "bounded in time");
    redis.restart();
    // What was wished for then is heard by the time that anything is.
    let begun = Instant::now();
    while bus.subscribe(&[]).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the link never came");
    }
    bus.publish(&[passing(&[user(2)]), passing(&[user(1)])])
        .await
        .expect("a bus that works");
    assert_eq!(rooms_of(&next(&mut ear).await), [user(1)]);
}

#[tokio::test]
async fn a_link_that_was_cut_silently_is_noticed() {
    let redis = RedisServer::start();
    let mut settings = redis.settings();
    settings.command_timeout = Duration::from_millis(200);
    settings.connect_timeout = Duration::from_millis(200);
    let (bus, mut ear) = open_with(
        &settings,
        RedisBusSettings {
            probe_every: Duration::from_millis(50),
            probe_timeout: Duration::from_millis(200),
            ..RedisBusSettings::default()
        },
    );
    bus.subscribe(&[user(1)]).await.expect("a bus that works");
    redis.freeze();
    bus.check().await.expect_err("a Redis that hangs");
    // It is the link's own probe that notices.
    let begun = Instant::now();
    while !says(bus.check().await, "link is down") {
        assert!(begun.elapsed() < PATIENCE, "the link was never missed");
    }
    redis.thaw();
    until_check(&bus, true).await;
    bus.publish(&[passing(&[user(1)])])
        .await
        .expect("a bus that works");
    assert_eq!(rooms_of(&next(&mut ear).await), [user(1)]);
}

#[tokio::test]
async fn a_link_to_what_redis_was_before_a_failover_is_given_up() {
    let (before, after) = (RedisServer::start(), RedisServer::start());
    let address = Address::of(&before).await;
    let mut settings = before.settings();
    settings.url = address.url();
    let (bus, mut ear) = open_with(
        &settings,
        RedisBusSettings {
            probe_every: Duration::from_millis(50),
            probe_timeout: Duration::from_millis(200),
            ..RedisBusSettings::default()
        },
    );
    bus.subscribe(&[user(1)]).await.expect("a bus that works");
    outcome(&bus, passing(&[user(1)])).await;
    assert_eq!(rooms_of(&next(&mut ear).await), [user(1)]);
    // Commands go to the other one from here on; the link is well, and hears nothing of it.
    address.lead_to(&after);
    before
        .ask::<u32>(&["CLIENT", "KILL", "TYPE", "normal"])
        .await;
    interruption(&mut ear).await;
    until_check(&bus, true).await;
    outcome(&bus, passing(&[user(1)])).await;
    assert_eq!(rooms_of(&next(&mut ear).await), [user(1)]);
}

#[tokio::test]
async fn subscribing_while_links_break_leaves_no_room_unheard() {
    let redis = RedisServer::start();
    let (bus, mut ear) = open_with(
        &redis.settings(),
        RedisBusSettings {
            reconnect_min: Duration::from_millis(5),
            reconnect_max: Duration::from_millis(20),
            ..RedisBusSettings::default()
        },
    );
    let bus = Arc::new(bus);
    bus.subscribe(&[]).await.expect("a link to begin with");
    let all: Vec<Room> = (1..=600).map(user).collect();
    let subscriber = {
        let (bus, all) = (Arc::clone(&bus), all.clone());
        tokio::spawn(async move {
            for rooms in all.chunks(3) {
                // Back and forth, so that the last wish differs from the first for a third of them.
                bus.subscribe(rooms).await.expect("a link that comes back");
                bus.unsubscribe(rooms).await.expect("nothing to wait for");
                bus.subscribe(&rooms[1..])
                    .await
                    .expect("a link that comes back");
            }
        })
    };
    while !subscriber.is_finished() {
        redis
            .ask::<u32>(&["CLIENT", "KILL", "TYPE", "pubsub"])
            .await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    subscriber.await.expect("no panic");
    let end = user(i64::MAX);
    bus.subscribe(&[end]).await.expect("a bus that works");
    bus.check().await.expect("a bus that works");
    let mut some: Vec<_> = all.iter().map(|&room| passing(&[room])).collect();
    some.push(passing(&[end]));
    bus.publish(&some).await.expect("a bus that works");
    let mut heard = Vec::new();
    while heard.last() != Some(&end) {
        match next(&mut ear).await {
            Incoming::Interrupted { .. } => panic!("Redis had it all"),
            news => heard.extend(rooms_of(&news)),
        }
    }
    heard.pop();
    let wanted: Vec<Room> = all
        .chunks(3)
        .flat_map(|rooms| rooms[1..].to_vec())
        .collect();
    assert_eq!(heard, wanted);
}

#[tokio::test]
async fn a_relay_that_does_not_keep_up_gets_all_of_it_later() {
    let redis = RedisServer::start();
    let (bus, mut ear) = open_with(
        &redis.settings(),
        RedisBusSettings {
            queue: 1,
            backlog: 8,
            ..RedisBusSettings::default()
        },
    );
    bus.subscribe(&[user(1)]).await.expect("a bus that works");
    let of = |seq| envelope(Some(at(1, seq)), &[user(1)]);
    let all: Vec<_> = (1..=500).map(of).collect();
    bus.publish(&all).await.expect("Redis keeps up");
    for seq in 1..=500 {
        assert_eq!(position_of(&next(&mut ear).await), at(1, seq));
    }
    until_check(&bus, true).await;
    outcome(&bus, of(501)).await;
    assert_eq!(position_of(&next(&mut ear).await), at(1, 501));
}

#[tokio::test]
async fn an_address_that_speaks_no_tls_is_an_error_and_no_more() {
    let redis = RedisServer::start();
    let mut settings = redis.settings();
    settings.url = settings.url.replace("redis://", "rediss://");
    settings.command_timeout = Duration::from_millis(500);
    let (bus, _ear) = open(&settings);
    bus.publish(&[passing(&[user(1)])])
        .await
        .expect_err("no TLS there");
    bus.close().await;
}

#[tokio::test]
async fn a_user_with_a_password_needs_few_rights() {
    let redis = RedisServer::start();
    let mut settings = redis.settings();
    let names = format!("{}*", settings.prefix);
    redis
        .ask::<()>(&[
            "ACL",
            "SETUSER",
            "chat",
            "on",
            ">sesame",
            &format!("~{names}"),
            &format!("&{names}"),
            "+@all",
            "-@admin",
        ])
        .await;
    redis.ask::<()>(&["ACL", "SETUSER", "default", "off"]).await;
    let (refused, _ear) = open(&settings);
    let error = refused
        .publish(&[passing(&[user(1)])])
        .await
        .expect_err("no such user");
    assert!(!error.to_string().is_empty());
    settings.url = settings.url.replace("redis://", "redis://chat:sesame@");
    let (bus, mut ear) = open(&settings);
    bus.subscribe(&[user(1)]).await.expect("a bus that works");
    assert_eq!(
        outcome(&bus, envelope(Some(at(1, 1)), &[user(1)])).await,
        PublishOutcome::Published
    );
    assert_eq!(rooms_of(&next(&mut ear).await), [user(1)]);
    bus.check().await.expect("a bus that works");
}
