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
        let is_wanted = {
            let hub = hub.clone();
            Box::new(move |room| hub.has_members(room))
        };
        let (interest, following) = Interest::start(is_wanted, bus.clone(), stop.clone());
        let relay = Arc::new(Self { hub, interest });
        let pump = tokio::spawn(relay.clone().pump(incoming, on_notice, stop));
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
                    Some(Incoming::Interrupted { .. }) => tracing::warn!("the link to the bus was broken and is back"),
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
            self.hub.close(room);
            self.interest.left(room);
        }
    }
}
