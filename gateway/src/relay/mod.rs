//! The one place where bus and hub meet: the first member of a room subscribes this node to it, the last one out ends
//! that; what the bus brings goes to the hub. It knows neither chat nor sockets' protocols.

mod interest;
mod lapses;

use std::sync::Arc;

use metrics::histogram;
use shared::envelope::Notice;
use shared::{Envelope, Room, Timestamp};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusError, Incoming};
use crate::hub::{Hub, Member, MemberKey};
use crate::telemetry::metrics as names;
use interest::Interest;
use lapses::Lapses;

/// What a node does with a notice.
pub type OnNotice = Box<dyn Fn(Notice) + Send + Sync>;

/// Joins the sockets of one node to the events of all.
pub struct Relay<M> {
    hub: Arc<Hub<M>>,
    interest: Interest,
}

impl<M: Member> Relay<M> {
    /// Starts to hand on what the bus brings. `None` where something else has taken the bus's incoming side.
    pub fn start(
        hub: Arc<Hub<M>>,
        bus: &Arc<dyn Bus>,
        on_notice: OnNotice,
        stop: CancellationToken,
    ) -> Option<(Arc<Self>, Vec<JoinHandle<()>>)> {
        let incoming = bus.incoming()?;
        let (interest, following) = Interest::start(bus.clone(), stop.clone());
        let relay = Arc::new(Self { hub, interest });
        let pump = tokio::spawn(relay.clone().pump(incoming, on_notice, stop));
        Some((relay, vec![following, pump]))
    }

    /// Puts a member into a room. When this returns, what is published to the room from now on reaches the member.
    /// On an error it is not in the room.
    pub async fn join(&self, room: Room, key: MemberKey, member: &Arc<M>) -> Result<(), BusError> {
        // Counted before it is in: whoever takes it out, a room that is closed just now included, takes back a count that
        // is there. If this future is dropped half way, the member's guard leaves the room.
        self.interest.add(room);
        let is_new = self.hub.join(room, key, member);
        if !is_new {
            self.interest.remove(room, 1);
        }
        let heard = self.interest.ready(room).await;
        if is_new && heard.is_err() {
            self.leave(room, key);
        }
        heard
    }

    /// Takes a member out of a room. Being out is no error.
    pub fn leave(&self, room: Room, key: MemberKey) {
        if self.hub.leave(room, key) {
            self.interest.remove(room, 1);
        }
    }

    /// This node's rooms.
    pub fn hub(&self) -> &Hub<M> {
        &self.hub
    }

    async fn pump(
        self: Arc<Self>,
        mut incoming: mpsc::Receiver<Incoming>,
        on_notice: OnNotice,
        stop: CancellationToken,
    ) {
        let mut lapses = Lapses::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                received = incoming.recv() => match received {
                    Some(Incoming::Envelope(envelope)) => self.deliver(&envelope, &mut lapses),
                    Some(Incoming::Notice(notice)) => on_notice(notice),
                    Some(Incoming::Interrupted) => tracing::warn!("the link to the bus was broken and is back"),
                    None => return,
                },
                ended = lapses.next() => {
                    self.hub.deliver(&ended, true);
                }
            }
        }
    }

    fn deliver(&self, envelope: &Envelope, lapses: &mut Lapses) {
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
            let members = self.hub.close(room);
            self.interest.remove(room, members.len());
        }
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_room_that_closes_while_others_come_and_go_is_let_go() {
        let bus: Arc<dyn Bus> = Arc::new(LocalBus::default());
        let stop = CancellationToken::new();
        let (relay, _tasks) =
            Relay::start(Arc::new(Hub::new()), &bus, Box::new(|_| ()), stop.clone())
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
