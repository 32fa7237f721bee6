//! The one place where bus and hub meet: the first member of a room subscribes this node to it, the last one out ends
//! that; what the bus brings goes to the hub, and what it missed is looked for elsewhere. It knows neither chat nor sockets'
//! protocols.

mod delivered;
mod gap;
mod interest;
mod lapses;
mod pump;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use shared::Room;
use shared::envelope::Notice;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusError, Incoming, Mark, Place};
use crate::hub::{Hub, Member, MemberKey};
use crate::realtime::Unsent;
use crate::telemetry::metrics as names;
pub use delivered::Delivered;
pub use gap::Missed;
use interest::Interest;
use lapses::Lapses;
use parking_lot::Mutex;
use pump::{Measures, Pump};
pub use tail::Missed as MissedEvents;
use tail::Tail;

/// What a node does with a notice.
pub type OnNotice = Box<dyn Fn(Notice) + Send + Sync>;

/// Whom a relay asks, given by the roof.
pub struct Hooks {
    /// What is done with a notice.
    pub on_notice: OnNotice,
    /// Where to find what the bus has missed.
    pub missed: Arc<dyn Missed>,
}

/// Joins the sockets of one node to the events of all.
pub struct Relay<M> {
    hub: Arc<Hub<M>>,
    interest: Interest,
    /// What nobody here is to hear again.
    delivered: Delivered,
    /// For sockets that come back.
    tail: Tail,
    /// How far the sockets here were sent everything for their rooms; `None` before the bus has said, and while a gap is
    /// filled. Written by the pump.
    reached: Mutex<Option<Place>>,
    /// Whether what the bus missed is being looked for; readiness watches it.
    catching_up: watch::Sender<bool>,
}

/// How often what nobody needs any more is looked for.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);

impl<M: Member> Relay<M> {
    /// Starts to hand on what the bus brings. `None` where something else has taken the bus's incoming side.
    pub fn start(
        hub: Arc<Hub<M>>,
        bus: &Arc<dyn Bus>,
        hooks: Hooks,
        stop: CancellationToken,
    ) -> Option<(Arc<Self>, Vec<JoinHandle<()>>)> {
        let incoming = bus.incoming()?;
        let is_wanted = {
            let hub = hub.clone();
            Box::new(move |room| hub.has_members(room))
        };
        let (interest, following) = Interest::start(is_wanted, bus.clone(), stop.clone());
        let relay = Arc::new(Self {
            hub,
            interest,
            delivered: Delivered::default(),
            tail: Tail::new(bus.clone()),
            reached: Mutex::default(),
            catching_up: watch::Sender::new(false),
        });
        let tidying = tokio::spawn(relay.clone().tidy(stop.clone()));
        let pump = tokio::spawn(relay.clone().pump(incoming, hooks, stop));
        Some((relay, vec![following, tidying, pump]))
    }

    /// Puts a member into a room. When this returns, what is published to the room from now on reaches the member.
    /// On an error it is not in the room. Where this future is dropped half way, the member may be in: `leave` takes it out.
    pub async fn join(&self, room: Room, key: MemberKey, member: &Arc<M>) -> Result<(), BusError> {
        self.hub.join(room, key, member);
        let joined = self.interest.ready(room).await;
        if joined.is_err() {
            self.leave(room, key);
        }
        joined
    }

    /// Takes a member out of a room. Being out is no error.
    pub fn leave(&self, room: Room, key: MemberKey) {
        if self.hub.leave(room, key) {
            self.interest.left(room);
        }
    }

    /// How far the sockets here were sent everything for their rooms; `None` where that is not known just now.
    pub fn reached(&self) -> Option<Place> {
        *self.reached.lock()
    }

    /// Where the bus's order has come to: what is published after this was called has a later place. `None` where there is
    /// no order yet.
    pub async fn here(&self) -> Result<Option<Place>, BusError> {
        self.tail.here().await
    }

    /// Every event of the rooms after the latest of some marks, until this was called at least. A member that is in them
    /// when it calls this misses nothing. `None` where nobody can tell any more what came since, or just now.
    pub async fn missed(
        &self,
        since: &[Mark],
        rooms: &[Room],
    ) -> Result<Option<MissedEvents>, BusError> {
        let Some(epoch) = self.reached().map(|place| place.epoch) else {
            return Ok(None);
        };
        match Mark::latest(since.iter().copied(), epoch) {
            Some(mark) => self.tail.after(mark, rooms).await,
            None => Ok(None),
        }
    }

    /// Whether this node's sockets wait for what the bus missed: what is published meanwhile reaches them late.
    pub fn catching_up(&self) -> watch::Receiver<bool> {
        self.catching_up.subscribe()
    }

    /// This node's rooms.
    pub fn hub(&self) -> &Hub<M> {
        &self.hub
    }

    async fn pump(
        self: Arc<Self>,
        incoming: mpsc::Receiver<Incoming>,
        hooks: Hooks,
        stop: CancellationToken,
    ) {
        let pump = Pump {
            relay: self,
            hooks,
            lapses: Lapses::new(),
            unsent: Unsent::default(),
            measures: Measures::new(),
        };
        pump.run(incoming, stop).await;
    }

    fn tell(&self, catching_up: bool) {
        self.catching_up.send_replace(catching_up);
        gauge!(names::BUS_CATCHING_UP).set(if catching_up { 1.0 } else { 0.0 });
    }

    async fn tidy(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TIDY_INTERVAL);
        loop {
            tokio::select! {
                _ = tick.tick() => self.tail.tidy().await,
                () = stop.cancelled() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::value::RawValue;
    use shared::{ConversationId, Delivery, Envelope, Timestamp, UserId};

    use super::*;
    use crate::bus::local::LocalBus;
    use crate::bus::{Kept, Publication};
    use crate::hub::{Outgoing, Share};

    const ROOM: Room = Room::Conversation(ConversationId::new(1));

    /// Somebody whom no event is for, so that it needs no socket.
    struct Deaf;

    impl Member for Deaf {
        fn deliver(&self, _: &Arc<Outgoing>, _: &mut Unsent) -> Share {
            Share::Nothing
        }
    }

    /// A bus within the process misses nothing.
    struct Nothing;

    #[async_trait::async_trait]
    impl Missed for Nothing {
        async fn find(&self, _: Timestamp, _: &Delivered, _: mpsc::Sender<Arc<Envelope>>) {
            unreachable!("nothing is missed")
        }
    }

    fn hooks() -> Hooks {
        Hooks {
            on_notice: Box::new(|_| ()),
            missed: Arc::new(Nothing),
        }
    }

    /// The end of the room.
    fn closing() -> Publication {
        Publication {
            envelope: Arc::new(Envelope {
                position: None,
                deliveries: vec![Delivery {
                    event: "gone".to_owned(),
                    rooms: vec![ROOM],
                    data: RawValue::NULL.to_owned(),
                    origin: None,
                    except_user: Some(UserId::new(1)),
                    lapse: None,
                }],
                sent_at: 0,
                closes: Some(ROOM),
                trace: None,
            }),
            begins_at: None,
        }
    }

    /// Looks for as long as it is not told to stop.
    struct Endless(Arc<tokio::sync::Notify>);

    #[async_trait::async_trait]
    impl Missed for Endless {
        async fn find(&self, _: Timestamp, _: &Delivered, _: mpsc::Sender<Arc<Envelope>>) {
            self.0.notified().await;
        }
    }

    /// A bus that has missed something, as soon as it is listened to.
    struct Broken(Mutex<Option<mpsc::Receiver<Incoming>>>);

    #[async_trait::async_trait]
    impl Bus for Broken {
        async fn publish(
            &self,
            _: &[Publication],
        ) -> Result<Vec<crate::bus::PublishOutcome>, BusError> {
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
            self.0.lock().take()
        }
        async fn here(&self) -> Result<Option<Place>, BusError> {
            Ok(None)
        }

        async fn kept_after(&self, _: Place, _: usize) -> Result<Option<Vec<Kept>>, BusError> {
            Ok(None)
        }

        async fn check(&self) -> Result<(), BusError> {
            Ok(())
        }
        async fn close(&self) {}
    }

    #[tokio::test]
    async fn it_is_known_while_what_was_missed_is_looked_for() {
        let (sender, incoming) = mpsc::channel(1);
        let bus: Arc<dyn Bus> = Arc::new(Broken(Mutex::new(Some(incoming))));
        let found = Arc::new(tokio::sync::Notify::new());
        let hooks = Hooks {
            on_notice: Box::new(|_| ()),
            missed: Arc::new(Endless(found.clone())),
        };
        let stop = CancellationToken::new();
        let hub = Arc::new(Hub::<Deaf>::new());
        let (relay, _tasks) =
            Relay::start(hub, &bus, hooks, stop.clone()).expect("the first to ask");
        let mut catching_up = relay.catching_up();
        assert!(!*catching_up.borrow());
        let since = Instant::now();
        let interrupted = Incoming::Interrupted { since };
        sender.send(interrupted).await.expect("a relay");
        assert!(catching_up.wait_for(|it| *it).await.is_ok());
        found.notify_one();
        assert!(catching_up.wait_for(|it| !it).await.is_ok());
        stop.cancel();
    }

    #[tokio::test]
    async fn what_the_sockets_here_were_sent_is_known() {
        let bus: Arc<dyn Bus> = Arc::new(LocalBus::default());
        let (relay, _tasks) = Relay::start(
            Arc::new(Hub::new()),
            &bus,
            hooks(),
            CancellationToken::new(),
        )
        .expect("the first to ask");
        let key = relay.hub().key();
        relay.join(ROOM, key, &Arc::new(Deaf)).await.unwrap();
        for seq in 1..=3 {
            let mut told = closing();
            let envelope = Arc::make_mut(&mut told.envelope);
            envelope.closes = None;
            envelope.position = Some(shared::envelope::Position {
                conversation: ConversationId::new(1),
                event_seq: shared::EventSeq::new(seq),
            });
            bus.publish(&[told]).await.unwrap();
            let here = bus.here().await.unwrap();
            let reached = async {
                while relay.reached() != here {
                    tokio::task::yield_now().await;
                }
            };
            let in_time = tokio::time::timeout(Duration::from_secs(10), reached).await;
            in_time.expect("it was sent");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_room_that_closes_while_others_come_and_go_is_let_go() {
        let bus: Arc<dyn Bus> = Arc::new(LocalBus::default());
        let stop = CancellationToken::new();
        let (relay, _tasks) = Relay::start(Arc::new(Hub::new()), &bus, hooks(), stop.clone())
            .expect("the first to ask");
        let people = (0..3).map(|_| {
            let relay = relay.clone();
            tokio::spawn(async move {
                let (key, member) = (relay.hub().key(), Arc::new(Deaf));
                for _ in 0..2_000 {
                    relay.join(ROOM, key, &member).await.expect("a local bus");
                    relay.leave(ROOM, key);
                }
            })
        });
        let people = futures_util::future::join_all(people);
        tokio::pin!(people);
        loop {
            tokio::select! {
                biased;
                () = tokio::task::yield_now() => {}
                all = &mut people => {
                    assert!(all.iter().all(Result::is_ok));
                    break;
                }
            }
            // Fails where the relay has not caught up: then there are enough of them.
            let _ = bus.publish(&[closing()]).await;
        }
        let let_go = async {
            while !relay.interest.is_idle() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), let_go).await;
        in_time.expect("somebody is still counted");
        stop.cancel();
    }
}
