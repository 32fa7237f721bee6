//! The one place where bus and hub meet: the first member of a room subscribes this node to it, the last one out ends
//! that; what the bus brings goes to the hub, and what it missed is looked for elsewhere. It knows neither chat nor sockets'
//! protocols.

mod delivered;
mod gap;
mod interest;
mod lapses;

use std::sync::Arc;
use std::time::Instant;

use metrics::{counter, gauge, histogram};
use shared::envelope::Notice;
use shared::{Envelope, Room, Timestamp};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusError, Incoming};
use crate::hub::{Hub, Member, MemberKey};
use crate::telemetry::metrics as names;
pub use delivered::Delivered;
pub use gap::Missed;
use interest::Interest;
use lapses::Lapses;

/// What a node does with a notice.
pub type OnNotice = Box<dyn Fn(Notice) + Send + Sync>;

/// Whom a relay asks, given by the roof.
pub struct Hooks {
    /// What is done with a notice.
    pub on_notice: OnNotice,
    /// Where to find what the bus has missed.
    pub missed: Box<dyn Missed>,
}

/// Joins the sockets of one node to the events of all.
pub struct Relay<M> {
    hub: Arc<Hub<M>>,
    interest: Interest,
    /// What nobody here is to hear again.
    delivered: Delivered,
    /// Whether what the bus missed is being looked for; readiness watches it.
    catching_up: watch::Sender<bool>,
}

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
            catching_up: watch::Sender::new(false),
        });
        let pump = tokio::spawn(relay.clone().pump(incoming, hooks, stop));
        Some((relay, vec![following, pump]))
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
        mut incoming: mpsc::Receiver<Incoming>,
        hooks: Hooks,
        stop: CancellationToken,
    ) {
        let mut lapses = Lapses::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                received = incoming.recv() => match received {
                    Some(Incoming::Envelope(envelope)) => {
                        self.deliver(&envelope, &mut lapses);
                    }
                    Some(Incoming::Notice(notice)) => (hooks.on_notice)(notice),
                    Some(Incoming::Interrupted { since }) => tokio::select! {
                        () = self.fill_gap(since, &*hooks.missed, &mut lapses) => {}
                        () = stop.cancelled() => return,
                    },
                    None => return,
                },
                ended = lapses.next() => {
                    self.hub.deliver(&ended, true);
                }
            }
        }
    }

    /// Delivers what the bus has missed. What it brings meanwhile waits in its queue, so whatever is found comes first; what
    /// both bring is delivered once.
    async fn fill_gap(&self, since: Instant, missed: &dyn Missed, lapses: &mut Lapses) {
        tracing::warn!("the bus has missed something: looking for it in the log");
        self.delivered.hold(true);
        self.tell(true);
        let (sender, mut found) = mpsc::channel(gap::QUEUE);
        let search = missed.find(gap::begins(since), &self.delivered, sender);
        tokio::pin!(search);
        let mut searching = true;
        let mut filled = 0_u64;
        loop {
            tokio::select! {
                () = &mut search, if searching => searching = false,
                envelope = found.recv() => match envelope {
                    Some(envelope) => filled += u64::from(self.deliver(&envelope, lapses)),
                    None => break,
                },
                ended = lapses.next() => {
                    self.hub.deliver(&ended, true);
                }
            }
        }
        self.delivered.hold(false);
        self.tell(false);
        counter!(names::BUS_REPLAYED).increment(filled);
        counter!(names::BUS_GAPS, "filled_by" => "database").increment(1);
        tracing::info!(envelopes = filled, "delivered what the bus had missed");
    }

    fn tell(&self, catching_up: bool) {
        self.catching_up.send_replace(catching_up);
        gauge!(names::BUS_CATCHING_UP).set(if catching_up { 1.0 } else { 0.0 });
    }

    /// False for what was delivered before.
    fn deliver(&self, envelope: &Envelope, lapses: &mut Lapses) -> bool {
        if envelope
            .position
            .is_some_and(|position| !self.delivered.admit(position))
        {
            return false;
        }
        let volatile = envelope.position.is_none();
        let mut reached = 0;
        for delivery in &envelope.deliveries {
            reached += self.hub.deliver(delivery, volatile);
            lapses.note(delivery);
        }
        if !volatile && reached > 0 {
            // Clocks of two nodes may differ: what would be negative is none.
            let millis = u32::try_from(Timestamp::now().unix_millis() - envelope.sent_at)
                .unwrap_or_default();
            histogram!(names::MESSAGE_LATENCY).record(f64::from(millis) / 1000.0);
        }
        if let Some(room) = envelope.closes {
            self.hub.close(room);
            self.interest.left(room);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::value::RawValue;
    use shared::{ConversationId, Delivery, UserId};

    use super::*;
    use crate::bus::Publication;
    use crate::bus::local::LocalBus;
    use crate::realtime::Socket;

    const ROOM: Room = Room::Conversation(ConversationId::new(1));

    /// Somebody whom no event is for, so that it needs no socket.
    struct Deaf;

    impl Member for Deaf {
        fn socket(&self) -> &Socket {
            unreachable!("what is sent here leaves out its owner")
        }

        fn user(&self) -> UserId {
            UserId::new(1)
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
            missed: Box::new(Nothing),
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
    struct Broken(parking_lot::Mutex<Option<mpsc::Receiver<Incoming>>>);

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
        async fn check(&self) -> Result<(), BusError> {
            Ok(())
        }
        async fn close(&self) {}
    }

    #[tokio::test]
    async fn it_is_known_while_what_was_missed_is_looked_for() {
        let (sender, incoming) = mpsc::channel(1);
        let bus: Arc<dyn Bus> = Arc::new(Broken(parking_lot::Mutex::new(Some(incoming))));
        let found = Arc::new(tokio::sync::Notify::new());
        let hooks = Hooks {
            on_notice: Box::new(|_| ()),
            missed: Box::new(Endless(found.clone())),
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
