//! What a tail tells, over a bus that keeps what it is given and counts how often it is read.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::value::RawValue;
use shared::envelope::Notice;
use shared::{Delivery, UserId};
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::bus::{Incoming, Publication, PublishOutcome};
use crate::hub::Share;

/// Keeps what it is given, counts how often it is read, and waits with its answers where it is told to.
#[derive(Default)]
struct Keeps {
    kept: parking_lot::Mutex<Entries>,
    reads: AtomicUsize,
    holds: parking_lot::Mutex<Option<Arc<Notify>>>,
}

#[derive(Default)]
struct Entries {
    epoch: u64,
    /// The offset before the first.
    before: u64,
    all: Vec<Arc<Envelope>>,
}

#[async_trait]
impl Bus for Keeps {
    async fn publish(&self, _: &[Publication]) -> Result<Vec<PublishOutcome>, BusError> {
        Ok(Vec::new())
    }
    async fn announce(&self, _: &Notice) -> Result<(), BusError> {
        Ok(())
    }
    async fn subscribe(&self, _: &[Room]) -> Result<(), BusError> {
        Ok(())
    }
    async fn unsubscribe(&self, _: &[Room]) -> Result<(), BusError> {
        Ok(())
    }
    fn incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
        None
    }
    async fn here(&self) -> Result<Option<Place>, BusError> {
        Ok(None)
    }
    async fn kept_after(&self, place: Place, limit: usize) -> Result<Option<Vec<Kept>>, BusError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let answer = self.kept.lock().after(place, limit);
        let hold = self.holds.lock().clone();
        if let Some(hold) = hold {
            hold.notified().await;
        }
        Ok(answer)
    }
    async fn check(&self) -> Result<(), BusError> {
        Ok(())
    }
    async fn close(&self) {}
}

impl Entries {
    fn after(&self, place: Place, limit: usize) -> Option<Vec<Kept>> {
        if place.epoch != self.epoch || place.offset < self.before {
            return None;
        }
        let from = usize::try_from(place.offset - self.before).ok()?;
        let kept = self.all.get(from..)?.iter().take(limit);
        let kept = kept.zip(place.offset + 1..).map(|(envelope, offset)| Kept {
            offset,
            // One that nobody can read.
            envelope: (!envelope.deliveries.is_empty()).then(|| envelope.clone()),
        });
        Some(kept.collect())
    }
}

impl Keeps {
    /// One more envelope: for each delivery its rooms. Its payload is as long as said.
    fn add(&self, deliveries: &[&[i64]], length: usize) {
        let data = RawValue::from_string("7".repeat(length)).unwrap();
        let delivery = |rooms: &&[i64]| Delivery {
            event: "event".to_owned(),
            rooms: rooms.iter().copied().map(room).collect(),
            data: data.clone(),
            origin: None,
            except_user: None,
            lapse: None,
        };
        self.kept.lock().all.push(Arc::new(Envelope {
            position: None,
            deliveries: deliveries.iter().map(delivery).collect(),
            sent_at: 0,
            closes: None,
            trace: None,
        }));
    }

    /// Forgets the first ones.
    fn trim(&self, count: usize) {
        let mut kept = self.kept.lock();
        kept.all.drain(..count);
        kept.before += count as u64;
    }

    fn reads(&self) -> usize {
        self.reads.swap(0, Ordering::SeqCst)
    }
}

fn room(number: i64) -> Room {
    Room::User(UserId::new(number))
}

fn tail() -> (Arc<Keeps>, Arc<Tail>) {
    let bus = Arc::new(Keeps::default());
    (bus.clone(), Arc::new(Tail::new(bus)))
}

const fn place(epoch: u64, offset: u64) -> Place {
    Place { epoch, offset }
}

/// The marks of what came after one for some rooms, as (offset, delivery), and where it ends.
async fn after(tail: &Tail, mark: Mark, rooms: &[i64]) -> Option<(Vec<(u64, u32)>, u64)> {
    let rooms: Vec<Room> = rooms.iter().copied().map(room).collect();
    let missed = tail.after(mark, &rooms).await.unwrap()?;
    let mark = |event: &Arc<Outgoing>| match event.source() {
        Source::Order(mark) => (mark.place.offset, mark.delivery),
        other => panic!("{other:?}"),
    };
    let marks = missed.events.iter().map(mark).collect();
    Some((marks, missed.reached.offset))
}

async fn offsets(tail: &Tail, from: u64, room: i64) -> Option<Vec<u64>> {
    let (marks, _) = after(tail, Mark::after(place(0, from)), &[room]).await?;
    Some(marks.into_iter().map(|(offset, _)| offset).collect())
}

#[tokio::test]
async fn what_came_after_a_mark_is_told_for_the_rooms_in_order_and_once() {
    let (bus, tail) = tail();
    bus.add(&[&[1], &[2], &[1, 2], &[3]], 1);
    bus.add(&[], 1);
    bus.add(&[&[2, 2], &[1]], 1);
    let told = async |mark, rooms: &[i64]| after(&tail, mark, rooms).await.unwrap().0;
    let start = Mark::after(place(0, 0));
    let all = [(1, 0), (1, 1), (1, 2), (3, 0), (3, 1)];
    assert_eq!(told(start, &[2, 1]).await, all);
    assert_eq!(told(start, &[3]).await, [(1, 3)]);
    assert_eq!(told(start, &[4]).await, []);
    // A client that got some of an envelope's events gets the others.
    let within = |offset, delivery| Mark {
        place: place(0, offset),
        delivery,
    };
    assert_eq!(told(within(1, 0), &[1, 2]).await, all[1..]);
    assert_eq!(told(within(1, 2), &[1, 2]).await, all[3..]);
    assert_eq!(told(within(3, 0), &[1, 2]).await, all[4..]);
    assert_eq!(told(within(3, 9), &[1, 2]).await, []);
    let ended = after(&tail, within(2, 0), &[2]).await.unwrap();
    assert_eq!(ended, (vec![(3, 0)], 3));
    // Nobody has come so far, or was there.
    for mark in [
        within(5, 0),
        Mark::after(place(0, u64::MAX)),
        Mark::after(place(1, 1)),
    ] {
        assert!(after(&tail, mark, &[1]).await.is_none(), "{mark}");
    }
    let share = tail.after(start, &[room(1)]).await.unwrap().unwrap();
    let share = share.events[0].share_of(UserId::new(9), &shared::SocketId::new("x"));
    assert_eq!(share, Share::Common);
}

#[tokio::test]
async fn what_is_new_is_read_and_what_is_older_is_put_before_it() {
    let (bus, tail) = tail();
    for number in 0..5_000 {
        bus.add(&[&[number % 5]], 1);
    }
    assert_eq!(offsets(&tail, 4_990, 0).await, Some(vec![4_991, 4_996]));
    assert_eq!(offsets(&tail, 2_990, 0).await.unwrap().len(), 402);
    bus.reads();
    // All of that is at hand: only what is new is looked for.
    assert_eq!(offsets(&tail, 4_000, 1).await.unwrap().len(), 200);
    assert_eq!(bus.reads(), 1);
    bus.add(&[&[1, 2]], 1);
    assert_eq!(offsets(&tail, 4_995, 1).await, Some(vec![4_997, 5_001]));
    // What is not kept any more can't be put before it; what is at hand is told nevertheless.
    bus.trim(4_000);
    assert_eq!(offsets(&tail, 2_000, 1).await, None);
    assert_eq!(offsets(&tail, 2_995, 1).await.unwrap().len(), 402);
}

#[tokio::test]
async fn a_tail_that_was_left_behind_begins_anew() {
    let (bus, tail) = tail();
    for _ in 0..10 {
        bus.add(&[&[1]], 1);
    }
    assert_eq!(offsets(&tail, 8, 1).await, Some(vec![9, 10]));
    for _ in 0..20 {
        bus.add(&[&[1]], 1);
    }
    // What came right after its end is not kept any more.
    bus.trim(20);
    assert_eq!(offsets(&tail, 8, 1).await, None);
    assert_eq!(offsets(&tail, 28, 1).await, Some(vec![29, 30]));
    // Another epoch: what is at hand means nothing there.
    *bus.kept.lock() = Entries {
        epoch: 1,
        ..Entries::default()
    };
    bus.add(&[&[1]], 1);
    assert_eq!(offsets(&tail, 28, 1).await, None);
    let marks = after(&tail, Mark::after(place(1, 0)), &[1]).await;
    assert_eq!(marks, Some((vec![(1, 0)], 1)));
    assert!(
        after(&tail, Mark::after(place(0, 28)), &[1])
            .await
            .is_none()
    );
}

#[tokio::test]
async fn it_is_bounded_whatever_the_size_of_events() {
    const LENGTH: usize = 1_000_000;
    let (bus, tail) = tail();
    for number in 0..300 {
        bus.add(&[&[number % 2, 2]], LENGTH);
    }
    // It holds the newest; who needs more is not told half of it.
    assert_eq!(offsets(&tail, 0, 1).await, None);
    let last = offsets(&tail, 290, 1).await;
    assert_eq!(last, Some(vec![292, 294, 296, 298, 300]));
    assert_eq!(offsets(&tail, 250, 2).await.unwrap().len(), 50);
    {
        let state = tail.state.lock().await;
        assert!(state.bytes <= MOST_BYTES && state.bytes > MOST_BYTES / 2);
        let bytes: usize = state.entries.iter().map(|entry| entry.bytes).sum();
        assert_eq!(state.bytes, bytes);
        // What was dropped is in no room any more.
        let offsets = state.rooms.values().flatten();
        assert!({ offsets }.all(|offset| *offset > state.before));
        assert_eq!(state.rooms[&room(2)].len(), state.entries.len());
    }
    // Many small ones take more than their payloads.
    let tiny = Keeps::default();
    tiny.add(&[&[1]], 1);
    let entry = Entry::new(place(0, 1), Some(&tiny.kept.lock().all[0]));
    assert!(entry.bytes >= size_of::<Outgoing>() + size_of::<crate::realtime::Event>());
}

#[tokio::test(start_paused = true)]
async fn who_asks_at_the_same_time_shares_a_read() {
    let (bus, tail) = tail();
    for _ in 0..100 {
        bus.add(&[&[1]], 1);
    }
    offsets(&tail, 0, 1).await.unwrap();
    bus.reads();
    let hold = Arc::new(Notify::new());
    *bus.holds.lock() = Some(hold.clone());
    let first = tokio::spawn({
        let tail = tail.clone();
        async move { offsets(&tail, 0, 1).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(bus.reads.load(Ordering::SeqCst), 1, "it reads");
    // What is published now is not in what that one reads, but must be in what these are told.
    bus.add(&[&[1]], 1);
    let others = (0..10_000).map(|_| {
        let tail = tail.clone();
        tokio::spawn(async move { offsets(&tail, 99, 1).await })
    });
    let others = join_all(others.collect::<Vec<_>>());
    tokio::task::yield_now().await;
    *bus.holds.lock() = None;
    hold.notify_waiters();
    assert_eq!(first.await.unwrap().unwrap().len(), 100);
    for told in others.await {
        assert_eq!(told.unwrap(), Some(vec![100, 101]));
    }
    assert_eq!(bus.reads(), 2, "one for the first, one for all the others");
}

#[tokio::test]
async fn who_gives_up_leaves_nothing_half_done() {
    let (bus, tail) = tail();
    for _ in 0..2_000 {
        bus.add(&[&[1]], 1);
    }
    let hold = Arc::new(Notify::new());
    offsets(&tail, 1_500, 1).await.unwrap();
    *bus.holds.lock() = Some(hold.clone());
    // Given up after each of the reads that it takes.
    for given_up_after in 0..6 {
        let asking = tokio::spawn({
            let tail = tail.clone();
            async move { offsets(&tail, 10, 1).await }
        });
        for _ in 0..given_up_after {
            tokio::task::yield_now().await;
            hold.notify_one();
        }
        tokio::task::yield_now().await;
        asking.abort();
        let _ = asking.await;
    }
    *bus.holds.lock() = None;
    hold.notify_waiters();
    assert_eq!(offsets(&tail, 10, 1).await.unwrap().len(), 1_990);
    assert_eq!(offsets(&tail, 1_990, 1).await.unwrap().len(), 10);
}

#[tokio::test]
async fn it_is_let_go_of_when_nobody_asks() {
    let (bus, tail) = tail();
    bus.add(&[&[1]], 1);
    offsets(&tail, 0, 1).await.unwrap();
    tail.tidy().await;
    assert_eq!(tail.state.lock().await.entries.len(), 1, "just used");
    tail.state.lock().await.used = Instant::now().checked_sub(IDLE + Duration::from_secs(1));
    tail.tidy().await;
    assert!(tail.state.lock().await.entries.is_empty());
    assert_eq!(offsets(&tail, 0, 1).await, Some(vec![1]));
}
