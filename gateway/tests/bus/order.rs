//! The one order of everything that a bus keeps: where it has come to, what it tells of it afterwards, and how a node hears of
//! it. On every backend; what Redis can lose of it is below.

use std::collections::HashSet;

use gateway::bus::redis::{RedisBus, RedisBusSettings};
use gateway::bus::{Bus, Incoming, Kept, Place, PublishOutcome};
use shared::{Envelope, Room};
use tokio::sync::mpsc;

use super::losses::{open, open_with};
use super::redis_server::RedisServer;
use super::{House, at, envelope, outcome, passing, user};

async fn here(bus: &dyn Bus) -> Place {
    let here = bus.here().await.expect("a bus that works");
    here.expect("an order")
}

async fn kept(bus: &dyn Bus, after: Place, limit: usize) -> Option<Vec<Kept>> {
    let kept = bus.kept_after(after, limit).await;
    kept.expect("a bus that works")
}

/// The offsets of what is kept, and the `event_seq` of each, after an offset.
async fn seqs(bus: &dyn Bus, after: Place, limit: usize) -> Option<Vec<(u64, i64)>> {
    let kept = kept(bus, after, limit).await?;
    let read = |envelope: &Envelope| envelope.position.expect("a change").event_seq.get();
    let each = |one: Kept| (one.offset, one.envelope.as_deref().map_or(0, read));
    Some(kept.into_iter().map(each).collect())
}

fn back(place: Place, by: u64) -> Place {
    let offset = place.offset - by;
    Place { offset, ..place }
}

pub(crate) async fn what_is_kept_is_told_in_order_without_a_hole(house: House) {
    let start = {
        outcome(house.first(), envelope(Some(at(1, 1)), &[user(1)])).await;
        here(house.first()).await
    };
    // Early ones have the place of their release, repeats none, and what passes none. Nobody need be in the rooms.
    let of = |seq| envelope(Some(at(1, seq)), &[user(seq)]);
    for (seq, became) in [
        (3, PublishOutcome::Parked),
        (2, PublishOutcome::Published),
        (2, PublishOutcome::Repeat),
        (4, PublishOutcome::Published),
    ] {
        assert_eq!(outcome(house.last(), of(seq)).await, became);
        outcome(house.first(), passing(&[user(1)])).await;
    }
    let all: Vec<_> = (1..=3).map(|step| start.offset + step).zip(2..).collect();
    for node in &house.nodes {
        let node = &**node;
        let end = here(node).await;
        assert_eq!((end.epoch, end.offset), (start.epoch, start.offset + 3));
        assert_eq!(seqs(node, start, 9).await, Some(all.clone()));
        assert_eq!(seqs(node, start, 2).await, Some(all[..2].to_vec()));
        assert_eq!(seqs(node, back(end, 1), 9).await, Some(all[2..].to_vec()));
        assert_eq!(seqs(node, end, 9).await, Some(vec![]));
        // Nobody has come so far yet.
        let future = |offset| Place { offset, ..end };
        assert_eq!(seqs(node, future(end.offset + 1), 9).await, None);
        assert_eq!(seqs(node, future(u64::MAX), 9).await, None);
        let other = Place {
            epoch: end.epoch ^ 1,
            ..start
        };
        assert_eq!(seqs(node, other, 9).await, None);
    }
}

/// What a node hears up to a place: the places of envelopes, and those it is said to have reached.
async fn heard_up_to(ear: &mut mpsc::Receiver<Incoming>, end: Place) -> (Vec<u64>, Vec<u64>) {
    let (mut envelopes, mut reached) = (Vec::new(), Vec::new());
    let hear = async {
        loop {
            let (place, into) = match ear.recv().await.expect("an open bus") {
                Incoming::Envelope(_, None) => continue,
                Incoming::Envelope(_, Some(place)) => (place, &mut envelopes),
                Incoming::Reached(place) => (place, &mut reached),
                other => panic!("nothing else happened: {other:?}"),
            };
            assert_eq!(place.epoch, end.epoch);
            into.push(place.offset);
            if place.offset >= end.offset {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(super::losses::PATIENCE, hear);
    in_time.await.expect("the end of it");
    (envelopes, reached)
}

pub(crate) async fn a_node_hears_the_place_of_each_and_how_far_it_has_got(mut house: House) {
    house.subscribe(&[user(1)]).await;
    let rooms: [&[Room]; 6] = [
        &[user(1)],
        &[user(2)],
        &[user(1), user(2)],
        &[user(1)],
        &[user(2)],
        &[user(3)],
    ];
    let mut own = HashSet::new();
    for (seq, rooms) in (1..).zip(rooms) {
        outcome(house.first(), envelope(Some(at(1, seq)), rooms)).await;
        if rooms.contains(&user(1)) {
            own.insert(here(house.first()).await.offset);
        }
        outcome(house.first(), passing(rooms)).await;
    }
    // The last is for nobody here: it is heard of nevertheless.
    let end = here(house.first()).await;
    for ear in &mut house.ears {
        let (envelopes, reached) = heard_up_to(ear, end).await;
        assert!(envelopes.is_sorted() && reached.is_sorted());
        let envelopes: HashSet<u64> = envelopes.into_iter().collect();
        assert_eq!(envelopes, own);
        assert_eq!(reached.last(), Some(&end.offset));
    }
}

pub(crate) async fn a_node_knows_where_it_is_before_anything_was_published(mut house: House) {
    for (node, ear) in house.nodes.iter().zip(&mut house.ears) {
        let hear = async {
            match ear.recv().await {
                Some(Incoming::Reached(place)) => place,
                other => panic!("nothing else happened: {other:?}"),
            }
        };
        let reached = tokio::time::timeout(super::losses::PATIENCE, hear).await;
        assert_eq!(reached.expect("its place"), here(&**node).await);
    }
}

/// A bus over a Redis of its own, with three envelopes in its history, and the place before them.
async fn three(redis: &RedisServer, settings: RedisBusSettings) -> (RedisBus, Place, String) {
    let redis_settings = redis.settings();
    let (bus, _ear) = open_with(&redis_settings, settings);
    bus.subscribe(&[]).await.expect("a link");
    let start = here(&bus).await;
    for seq in 1..=3 {
        outcome(&bus, envelope(Some(at(1, seq)), &[user(1)])).await;
    }
    (bus, start, redis_settings.prefix)
}

#[tokio::test]
async fn what_was_trimmed_is_told_by_nobody() {
    let redis = RedisServer::start();
    let (bus, start, prefix) = three(&redis, RedisBusSettings::default()).await;
    let history = format!("{prefix}history");
    redis.ask::<u32>(&["XTRIM", &history, "MAXLEN", "2"]).await;
    let next = |by| Place {
        offset: start.offset + by,
        ..start
    };
    assert_eq!(seqs(&bus, start, 9).await, None);
    let rest = [(start.offset + 2, 2), (start.offset + 3, 3)];
    assert_eq!(seqs(&bus, next(1), 9).await, Some(rest.to_vec()));
    // A hole in the middle, which only somebody at a prompt could make.
    let second = format!("{}-0", start.offset + 2);
    outcome(&bus, envelope(Some(at(1, 4)), &[user(1)])).await;
    redis.ask::<u32>(&["XDEL", &history, &second]).await;
    assert_eq!(seqs(&bus, next(1), 9).await, None);
    redis.ask::<u32>(&["DEL", &history]).await;
    assert_eq!(seqs(&bus, next(3), 9).await, None);
    assert_eq!(seqs(&bus, next(4), 9).await, Some(vec![]));
}

#[tokio::test]
async fn an_entry_that_nobody_can_read_is_no_hole() {
    let redis = RedisServer::start();
    let (bus, start, prefix) = three(&redis, RedisBusSettings::default()).await;
    let stream = format!("{prefix}stream");
    let garbled = start.offset + 4;
    let id = format!("{garbled}-0");
    let history = format!("{prefix}history");
    redis.ask::<u64>(&["HINCRBY", &stream, "offset", "1"]).await;
    redis
        .ask::<String>(&[
            "XADD",
            &history,
            &id,
            "e",
            "{\"not\": an envelope",
            "b",
            "0",
        ])
        .await;
    let kept = kept(&bus, start, 9).await.expect("no hole");
    let read: Vec<_> = kept
        .iter()
        .map(|one| (one.offset - start.offset, one.envelope.is_some()))
        .collect();
    assert_eq!(read, [(1, true), (2, true), (3, true), (4, false)]);
}

#[tokio::test]
async fn a_redis_that_was_emptied_has_no_order_until_something_is_published() {
    let redis = RedisServer::start();
    let (bus, start, _) = three(&redis, RedisBusSettings::default()).await;
    redis.ask::<()>(&["FLUSHALL"]).await;
    assert_eq!(bus.here().await.expect("a bus that works"), None);
    assert_eq!(seqs(&bus, start, 9).await, None);
    for seq in 1..=5 {
        outcome(&bus, envelope(Some(at(2, seq)), &[user(1)])).await;
    }
    let now = here(&bus).await;
    assert_ne!(now.epoch, start.epoch);
    assert_eq!(seqs(&bus, start, 9).await, None, "of another epoch");
    assert_eq!(
        seqs(&bus, back(now, 5), 9).await.map(|all| all.len()),
        Some(5)
    );
}

#[tokio::test]
async fn an_order_that_began_on_another_redis_is_told_by_nobody() {
    let redis = RedisServer::start();
    let (bus, start, prefix) = three(&redis, RedisBusSettings::default()).await;
    assert!(seqs(&bus, start, 9).await.is_some());
    // As a replica looks that was promoted, before any link has come to it: it has lost what the offsets named.
    let stream = format!("{prefix}stream");
    redis
        .ask::<u32>(&["HSET", &stream, "home", "another/one"])
        .await;
    assert_eq!(seqs(&bus, start, 9).await, None);
    // The next link begins an order of its own.
    let mut settings = redis.settings();
    settings.prefix = prefix;
    let (other, _ear) = open(&settings);
    other.subscribe(&[]).await.expect("a link");
    let now = here(&bus).await;
    assert_ne!(now.epoch, start.epoch);
    assert_eq!(seqs(&bus, now, 9).await, Some(vec![]));
}
