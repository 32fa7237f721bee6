//! What reaches a socket, and when: before, while and after its client comes back.

use serde_json::value::RawValue;
use shared::envelope::Origin;
use shared::{Delivery, SocketId, UserId};

use super::super::recovery::tests::{Told, identity, recovery};
use super::*;
use crate::cluster::Found;
use crate::realtime::Loose;
use crate::relay::MissedEvents;

struct Somebody {
    participant: Participant,
    loose: Loose,
    told: Arc<Told>,
}

fn somebody(comes_back: bool) -> Somebody {
    let (recovery, told, _) = recovery();
    let loose = Loose::new(1 << 20);
    let identity = identity();
    let participant = Participant {
        key: crate::hub::Hub::<Participant>::new().key(),
        socket: loose.socket.clone(),
        viewer: identity.viewer(),
        identity: Mutex::new(Arc::new(identity)),
        warned: AtomicBool::new(false),
        comeback: comes_back.then(|| Mutex::new(Comeback::Waiting(Vec::new()))),
        state: OnceLock::new(),
        unplaced: AtomicBool::new(false),
        recovery,
    };
    let holder = participant.recovery.holder("x".into());
    let _ = participant.state.set((holder, mark(1, 0)));
    Somebody {
        participant,
        loose,
        told,
    }
}

impl Somebody {
    fn hears(&self, number: u64, source: Source) -> Share {
        self.participant
            .deliver(&event(number, source), &mut Unsent::default())
    }

    /// The numbers that it was sent; why it was closed.
    fn heard(&self) -> Result<Vec<u64>, CloseKind> {
        self.loose.let_in();
        let number = |packet: String| {
            let (_, data) = packet.split_once(',').expect("a payload");
            let digits = data.split([',', ']']).next().expect("a number");
            digits.parse().expect("a number")
        };
        Ok(self.loose.sent()?.into_iter().map(number).collect())
    }

    fn settle(&self, missed: &[(u64, u64)], reached: u64) {
        let order = |(number, offset): &(u64, u64)| event(*number, Source::Order(mark(1, *offset)));
        let state = ConnectionState {
            user: UserId::new(7),
            role: shared::Role::Admin,
            socket: SocketId::new("before"),
            conversations: Vec::new(),
            from: mark(1, 0),
        };
        assert!(self.participant.socket.resume(&state.socket));
        self.participant.settle(Some(&Recovered {
            found: Found {
                state,
                connection: 1,
            },
            from: mark(1, 0),
            missed: MissedEvents {
                events: missed.iter().map(order).collect(),
                reached: place(1, reached),
            },
        }));
    }

    /// Whether its client must begin anew when it comes back, as the store was told.
    async fn is_forgotten(&self) -> bool {
        let stop = tokio_util::sync::CancellationToken::new();
        stop.cancel();
        self.participant.recovery.clone().tend(stop).await;
        let ended = self.told.ended.lock();
        ended.iter().any(|one| one.received.is_none())
    }
}

const fn place(epoch: u64, offset: u64) -> Place {
    Place { epoch, offset }
}

const fn mark(epoch: u64, offset: u64) -> Mark {
    Mark::after(place(epoch, offset))
}

fn event(number: u64, source: Source) -> Arc<Outgoing> {
    event_from(number, source, None)
}

fn event_from(number: u64, source: Source, origin: Option<Origin>) -> Arc<Outgoing> {
    let delivery = Delivery {
        event: "told".to_owned(),
        rooms: Vec::new(),
        data: RawValue::from_string(number.to_string()).expect("JSON"),
        origin,
        except_user: None,
        lapse: None,
    };
    Arc::new(Outgoing::new(&delivery, source))
}

fn order(offset: u64) -> Source {
    Source::Order(mark(1, offset))
}

#[tokio::test]
async fn what_was_missed_comes_first_then_what_waited_then_what_is_new_each_once() {
    let one = somebody(true);
    // The pump is behind what is read, and ahead of it.
    for offset in 8..=12 {
        one.hears(offset, order(offset));
    }
    one.hears(100, Source::Passing);
    assert_eq!(one.loose.sent(), Ok(vec![]));
    one.settle(&[(7, 7), (8, 8), (10, 10)], 10);
    assert_eq!(one.hears(9, order(9)), Share::Nothing);
    assert_eq!(one.hears(13, order(13)), Share::Common);
    assert_eq!(one.heard(), Ok(vec![7, 8, 10, 11, 12, 100, 13]));
    // Another epoch has places of its own.
    one.hears(1, Source::Order(mark(2, 1)));
    assert_eq!(one.heard(), Ok(vec![1]));
    assert!(!one.is_forgotten().await);
}

#[tokio::test]
async fn its_own_events_are_its_own_under_the_id_that_it_had() {
    let one = somebody(true);
    let origin = |name: Option<&str>| {
        let origin = Origin {
            socket: SocketId::new("before"),
            event: name.map(str::to_owned),
        };
        Some(origin)
    };
    let waits = event_from(5, order(5), origin(Some("own")));
    one.participant.deliver(&waits, &mut Unsent::default());
    one.settle(&[], 4);
    let silent = event_from(6, order(6), origin(None));
    assert_eq!(
        one.participant.deliver(&silent, &mut Unsent::default()),
        Share::Nothing
    );
    one.loose.let_in();
    let sent = one.loose.sent().expect("an open socket");
    assert_eq!(sent, [r#"42["own",5,"0000000000000001:5"]"#]);
}

#[tokio::test]
async fn who_begins_anew_hears_nothing_from_before() {
    let one = somebody(true);
    one.hears(1, order(1));
    one.hears(2, Source::Passing);
    one.participant.settle(None);
    one.hears(3, order(3));
    assert_eq!(one.heard(), Ok(vec![3]));
}

#[tokio::test]
async fn too_much_at_once_ends_the_connection_and_not_the_memory() {
    let one = somebody(true);
    for offset in 0..=MOST_WAITING as u64 {
        one.hears(offset, order(offset));
    }
    let Comeback::Waiting(waiting) = &*one.participant.comeback.as_ref().expect("it waits").lock()
    else {
        panic!("nobody settled it");
    };
    assert_eq!(waiting.len(), MOST_WAITING);
    assert_eq!(one.heard(), Err(CloseKind::TooSlow));
}

#[tokio::test]
async fn what_the_log_told_before_is_for_those_who_came_back_since() {
    let told = Instant::now();
    let (stayed, came_back) = (somebody(false), somebody(true));
    came_back.settle(&[], 10);
    for one in [&stayed, &came_back] {
        one.hears(10, Source::Again(mark(1, 10), told));
        one.hears(11, Source::Again(mark(1, 11), told));
        one.hears(12, Source::Again(mark(1, 12), Instant::now()));
    }
    assert_eq!(stayed.heard(), Ok(vec![]));
    assert_eq!(
        came_back.heard(),
        Ok(vec![11]),
        "10 was among what it missed"
    );
}

#[tokio::test]
async fn who_hears_from_the_log_begins_anew_and_who_may_have_heard_it_is_sent_away() {
    let before = Instant::now();
    let (stayed, came_back) = (somebody(false), somebody(true));
    came_back.settle(&[], 10);
    assert_eq!(stayed.hears(1, Source::Log(before)), Share::Common);
    assert_eq!(came_back.hears(1, Source::Log(before)), Share::Nothing);
    assert_eq!(stayed.heard(), Ok(vec![1]));
    assert_eq!(came_back.heard(), Err(CloseKind::Resync));
    for one in [&stayed, &came_back] {
        assert!(one.is_forgotten().await);
    }
    // Who came back before what the log tells of is told.
    let early = somebody(true);
    early.settle(&[], 10);
    assert_eq!(early.hears(1, Source::Log(Instant::now())), Share::Common);
    assert_eq!(early.heard(), Ok(vec![1]));
    // While it waits, it is not known yet: it is sent away once it is.
    let waits = somebody(true);
    waits.hears(1, Source::Log(before));
    waits.settle(&[], 10);
    assert_eq!(waits.heard(), Err(CloseKind::Resync));
}
