//! What a node knows that its clients have received, and how it notes ends.

use async_trait::async_trait;
use shared::envelope::Notice;
use shared::{ConversationId, Envelope, Role, Timestamp, UserId};
use tokio::sync::mpsc;

use super::*;
use crate::bus::local::LocalBus;
use crate::bus::{Bus, Publication};
use crate::hub::Hub;
use crate::relay::{Delivered, Hooks, Missed};

const HEARTBEAT: Heartbeat = Heartbeat {
    interval: Duration::from_secs(25),
    timeout: Duration::from_secs(20),
};

/// Notes what it is told, unless it is away.
#[derive(Default)]
pub(in crate::session) struct Told {
    is_away: std::sync::atomic::AtomicBool,
    pub(in crate::session) ended: Mutex<Vec<Ended>>,
    beats: Mutex<Vec<Option<Received>>>,
}

impl Told {
    fn reach(&self) -> Result<(), BusError> {
        match self.is_away.load(std::sync::atomic::Ordering::SeqCst) {
            true => Err(BusError("away".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl ConnectionStates for Told {
    async fn open(
        &self,
        _: &Holder,
        _: &ConnectionState,
        _: Duration,
        _: Option<u64>,
    ) -> Result<bool, BusError> {
        self.reach().map(|()| true)
    }
    async fn update(&self, _: &Holder, _: &[ConversationId], _: Duration) -> Result<(), BusError> {
        self.reach()
    }
    async fn end(&self, ended: &[Ended]) -> Result<(), BusError> {
        self.reach()?;
        self.ended.lock().extend_from_slice(ended);
        Ok(())
    }
    async fn find(&self, _: &str) -> Result<Option<Found>, BusError> {
        self.reach().map(|()| None)
    }
    async fn beat(&self, received: Option<Received>) -> Result<(), BusError> {
        self.reach()?;
        self.beats.lock().push(received);
        Ok(())
    }
}

/// A bus within the process misses nothing.
struct Nothing;

#[async_trait]
impl Missed for Nothing {
    async fn find(&self, _: Timestamp, _: &Delivered, _: mpsc::Sender<Arc<Envelope>>) {
        unreachable!("nothing is missed")
    }
}

/// With a relay over a bus of its own.
pub(in crate::session) fn recovery() -> (Arc<Recovery>, Arc<Told>, Arc<dyn Bus>) {
    let bus: Arc<dyn Bus> = Arc::new(LocalBus::default());
    let hooks = Hooks {
        on_notice: Box::new(|_: Notice| ()),
        missed: Arc::new(Nothing),
    };
    let hub = Arc::new(Hub::new());
    let (relay, _) =
        Relay::start(hub, &bus, hooks, CancellationToken::new()).expect("the first to ask");
    let told = Arc::new(Told::default());
    let recovery = Recovery::new(told.clone(), relay, HEARTBEAT, 1 << 20);
    (Arc::new(recovery), told, bus)
}

const fn place(offset: u64) -> Place {
    Place { epoch: 1, offset }
}

/// As if so much time had passed since the node started, as far as samples are concerned.
fn sample_at(recovery: &Recovery, secs: u64, offset: u64) {
    recovery.samples.lock().push_back(Received {
        since: Duration::from_secs(secs),
        place: place(offset),
    });
}

fn aged(by: Duration) -> (Recovery, Arc<Told>) {
    let (recovery, told, _) = recovery();
    let mut recovery = Arc::into_inner(recovery).expect("nobody else holds it");
    recovery.started = recovery.started.checked_sub(by).expect("an uptime");
    (recovery, told)
}

fn ended_at(told: &Told) -> Option<Mark> {
    let ended = told.ended.lock().pop().expect("an end");
    ended.received
}

fn holder(since: u64) -> Holder {
    Holder {
        state: "x".into(),
        connection: since,
        since: Duration::from_secs(since),
    }
}

/// The slowest client that a connection puts up with, step by step, for any settings.
#[test]
fn what_is_certain_is_older_than_the_slowest_heartbeat() {
    let settings = [(25_000, 20_000), (1, 1), (100, 60_000), (3_600_000, 10)];
    for (interval, timeout) in
        settings.map(|(i, t)| (Duration::from_millis(i), Duration::from_millis(t)))
    {
        let heartbeat = Heartbeat { interval, timeout };
        // A ping was sent, and answered just in time; after the interval the next one, which is not. Each is counted from
        // when the node came to it, which may be half a timeout late, and once more after a program's work.
        let slowest = timeout + interval + timeout + timeout / 2;
        assert!(heartbeat.certain_after() >= slowest + Duration::from_secs(10));
    }
}

#[tokio::test]
async fn what_was_received_is_certain_only_after_a_while_and_for_who_was_there() {
    let certain = HEARTBEAT.certain_after().as_secs();
    let (recovery, told) = aged(Duration::from_secs(certain + 50));
    for (secs, offset) in [(10, 100), (30, 300), (49, 490), (55, 550), (70, 700)] {
        sample_at(&recovery, secs, offset);
    }
    let received = recovery.received().expect("something");
    assert_eq!(received.place, place(490));
    // It began after that was sent: nobody knows what it got.
    let from = Mark::after(place(5));
    for (since, expected) in [(0, place(490)), (49, place(490)), (50, place(5))] {
        recovery.ended(holder(since), from);
        assert!(recovery.note_ended().await);
        assert_eq!(ended_at(&told), Some(Mark::after(expected)), "{since}");
    }
    // What it began with is later, or of another epoch, which is over.
    recovery.ended(holder(0), Mark::after(place(491)));
    recovery.note_ended().await;
    assert_eq!(ended_at(&told), Some(Mark::after(place(491))));
    let other = Place {
        epoch: 9,
        offset: 1,
    };
    recovery.ended(holder(0), Mark::after(other));
    recovery.note_ended().await;
    assert_eq!(ended_at(&told), Some(Mark::after(place(490))));
    recovery.forget(holder(0));
    recovery.note_ended().await;
    assert_eq!(ended_at(&told), None);
}

#[tokio::test]
async fn samples_are_few_and_the_one_that_is_needed_is_among_them() {
    let certain = HEARTBEAT.certain_after().as_secs();
    let (mut recovery, _) = aged(Duration::ZERO);
    assert_eq!(recovery.received(), None);
    for beat in 0..200 {
        recovery.sample(Some(place(beat)));
        let secs = BEAT_INTERVAL.as_secs();
        let begun = recovery.started.checked_sub(Duration::from_secs(secs));
        recovery.started = begun.expect("an uptime");
        let kept = recovery.samples.lock().len() as u64;
        assert!(kept <= certain / secs + 3, "{kept}");
        let newest = (beat + 1) * secs;
        let due = newest.checked_sub(certain).map(|due| due / secs);
        assert_eq!(
            recovery.received().map(|one| one.place.offset),
            due,
            "{beat}"
        );
    }
    // While nothing is known, what was known stays true.
    let before = recovery.received();
    recovery.sample(None);
    assert_eq!(recovery.received(), before);
}

#[tokio::test(start_paused = true)]
async fn ends_that_can_not_be_noted_are_noted_later_and_the_node_gives_signs_meanwhile() {
    let (recovery, told, _) = recovery();
    let stop = CancellationToken::new();
    told.is_away
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let tending = tokio::spawn(recovery.clone().tend(stop.clone()));
    for since in 0..3 {
        recovery.ended(holder(since), Mark::after(place(since)));
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(told.ended.lock().is_empty());
    told.is_away
        .store(false, std::sync::atomic::Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(12)).await;
    let mut noted: Vec<_> = told
        .ended
        .lock()
        .iter()
        .map(|one| one.holder.connection)
        .collect();
    noted.sort_unstable();
    assert_eq!(noted, [0, 1, 2]);
    assert!(!told.beats.lock().is_empty());
    // What comes right before the end is noted too.
    recovery.ended(holder(4), Mark::after(place(4)));
    stop.cancel();
    tending.await.expect("no panic");
    assert_eq!(told.ended.lock().len(), 4);
}

#[tokio::test]
async fn ends_are_bounded() {
    let (recovery, told, _) = recovery();
    for since in 0..MOST_ENDS as u64 + 10 {
        recovery.forget(holder(since));
    }
    assert!(recovery.note_ended().await);
    assert_eq!(told.ended.lock().len(), MOST_ENDS);
}

#[tokio::test]
async fn a_name_that_no_state_has_is_not_asked_for() {
    let (recovery, told, _) = recovery();
    // Whoever asks the store gets an error.
    told.is_away
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let identity = identity();
    let find = async |pid: &str| {
        let shown = serde_json::json!({ "pid": pid, "offset": 7 });
        let shown: Shown = serde_json::from_value(shown).expect("what a client shows");
        recovery.find(&shown, &identity).await
    };
    let name = state_name();
    for nonsense in [
        "",
        "x",
        &name[1..],
        &format!("{name}0"),
        &"g".repeat(32),
        &"\u{e9}".repeat(16),
    ] {
        assert!(find(nonsense).await.expect("no question").is_none());
    }
    assert!(find(&name).await.is_err(), "this one may be there");
}

pub(in crate::session) fn identity() -> Identity {
    let now = Timestamp::now();
    Identity {
        user: UserId::new(7),
        email: "ann@example.com".into(),
        role: Role::Admin,
        session: None,
        issued_at: now,
        expires_at: Timestamp(now.0 + chrono::TimeDelta::hours(1)),
        token_hash: String::new(),
    }
}

#[tokio::test]
async fn more_than_may_wait_for_a_socket_is_no_recovery() {
    let (recovery, _, bus) = recovery();
    let here = bus.here().await.expect("a local bus").expect("an order");
    let state = ConnectionState {
        user: UserId::new(7),
        role: Role::Admin,
        socket: shared::SocketId::new("s"),
        conversations: Vec::new(),
        from: Mark::after(here),
    };
    let found = Found {
        state,
        connection: 1,
    };
    let rooms = [Room::User(UserId::new(7))];
    let publish = async |seq: i64, length: usize| {
        let data = serde_json::value::to_raw_value(&"-".repeat(length)).expect("JSON");
        let envelope = Envelope {
            position: Some(shared::envelope::Position {
                conversation: ConversationId::new(1),
                event_seq: shared::EventSeq::new(seq),
            }),
            deliveries: vec![shared::Delivery {
                event: "told".to_owned(),
                rooms: rooms.to_vec(),
                data,
                origin: None,
                except_user: None,
                lapse: None,
            }],
            sent_at: 0,
            closes: None,
            trace: None,
        };
        let publication = Publication {
            envelope: Arc::new(envelope),
            begins_at: None,
        };
        bus.publish(&[publication]).await.expect("a local bus");
    };
    while recovery.relay.reached().is_none() {
        tokio::task::yield_now().await;
    }
    let shown = Shown::default();
    publish(1, 500_000).await;
    let recovered = recovery.recover(&shown, found.clone(), &rooms).await;
    let recovered = recovered.expect("a local bus").expect("not too much");
    assert_eq!(recovered.missed.events.len(), 1);
    assert_eq!(
        recovered.from,
        Mark::after(here),
        "nothing of it has been received"
    );
    publish(2, 30_000).await;
    let recovered = recovery.recover(&shown, found, &rooms).await;
    assert!(recovered.expect("a local bus").is_none());
}
