//! What the bus brings, on its way to the hub: one task, so that there is one order.

use std::sync::Arc;
use std::time::Instant;

use metrics::{Histogram, counter, histogram};
use shared::{Envelope, Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::delivered::Admission;
use super::lapses::Lapses;
use super::{Hooks, Missed, Relay, gap};
use crate::bus::{Incoming, Mark, Place};
use crate::hub::{Member, Source};
use crate::realtime::Unsent;
use crate::telemetry::metrics as names;
use crate::telemetry::trace::Trace;

/// How much of what the bus brings is put into the outboxes before they are written to, where it brings more than one thing
/// at a time: a socket that is to hear many of them is written to once. Beyond so many another write costs nothing.
const AT_ONCE: usize = 64;

/// The task, and what it alone holds.
pub(super) struct Pump<M> {
    pub(super) relay: Arc<Relay<M>>,
    pub(super) hooks: Hooks,
    pub(super) lapses: Lapses,
    /// Sockets that were told something and not written to yet; empty whenever the pump waits.
    pub(super) unsent: Unsent,
    pub(super) measures: Measures,
}

/// How long deliveries take.
pub(super) struct Measures {
    latency: Histogram,
    deliver: Histogram,
}

impl Measures {
    pub(super) fn new() -> Self {
        Self {
            latency: histogram!(names::MESSAGE_LATENCY),
            deliver: histogram!(names::DELIVER),
        }
    }
}

impl<M: Member> Pump<M> {
    pub(super) async fn run(
        mut self,
        mut incoming: mpsc::Receiver<Incoming>,
        stop: CancellationToken,
    ) {
        let mut batch = Vec::with_capacity(AT_ONCE);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                count = incoming.recv_many(&mut batch, AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    for one in batch.drain(..) {
                        tokio::select! {
                            () = self.handle(one) => {}
                            () = stop.cancelled() => return,
                        }
                    }
                }
                ended = self.lapses.next() => {
                    self.relay.hub.deliver(&ended, Source::Passing, &mut self.unsent);
                }
            }
            self.unsent.send();
        }
    }

    async fn handle(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Envelope(envelope, place) => {
                self.take(&envelope, place);
                if place.is_some() {
                    *self.relay.reached.lock() = place;
                }
            }
            Incoming::Reached(place) => *self.relay.reached.lock() = Some(place),
            Incoming::Notice(notice) => (self.hooks.on_notice)(notice),
            Incoming::Interrupted { since } => {
                self.unsent.send();
                self.fill_gap(since).await;
            }
        }
    }

    /// Delivers what the bus has missed. What it brings meanwhile waits in its queue, so whatever is found comes first; what
    /// both bring is delivered once.
    async fn fill_gap(&mut self, since: Instant) {
        tracing::warn!("the bus has missed something: looking for it in the log");
        let relay = Arc::clone(&self.relay);
        *relay.reached.lock() = None;
        relay.delivered.hold(true);
        relay.tell(true);
        let missed: Arc<dyn Missed> = Arc::clone(&self.hooks.missed);
        let (sender, mut found) = mpsc::channel(gap::QUEUE);
        let search = missed.find(gap::begins(since), &relay.delivered, sender);
        tokio::pin!(search);
        let mut searching = true;
        let mut filled = 0_u64;
        loop {
            tokio::select! {
                () = &mut search, if searching => searching = false,
                envelope = found.recv() => match envelope {
                    Some(envelope) => {
                        if envelope.position.is_none_or(|at| relay.delivered.admit_from_log(at)) {
                            self.deliver(&envelope, &|_| Source::Log(gap::began(since)));
                            filled += 1;
                        }
                    }
                    None => break,
                },
                ended = self.lapses.next() => {
                    relay.hub.deliver(&ended, Source::Passing, &mut self.unsent);
                }
            }
            self.unsent.send();
        }
        relay.delivered.hold(false);
        relay.tell(false);
        counter!(names::BUS_REPLAYED).increment(filled);
        counter!(names::BUS_GAPS, "filled_by" => "database").increment(1);
        tracing::info!(envelopes = filled, "delivered what the bus had missed");
    }

    /// Delivers what the bus brought, unless it was delivered before.
    fn take(&mut self, envelope: &Envelope, place: Option<Place>) {
        let mark = |delivery| place.map(|place| Mark { place, delivery });
        let Some(at) = envelope.position else {
            return self.deliver(envelope, &|_| Source::Passing);
        };
        match self.relay.delivered.admit(at) {
            Admission::New => self.deliver(envelope, &|number| {
                mark(number).map_or(Source::Passing, Source::Order)
            }),
            Admission::OnlyToLater(when) => {
                for (delivery, number) in envelope.deliveries.iter().zip(0..) {
                    if let Some(mark) = mark(number) {
                        let again = Source::Again(mark, when);
                        self.relay.hub.deliver(delivery, again, &mut self.unsent);
                    }
                }
            }
            Admission::Repeat => {}
        }
    }

    fn deliver(&mut self, envelope: &Envelope, source: &dyn Fn(u32) -> Source) {
        let begun = Instant::now();
        let trace = Trace::heard(envelope.trace.as_deref(), "message.deliver", &[]);
        let hub = &self.relay.hub;
        let mut reached = 0;
        for (delivery, number) in envelope.deliveries.iter().zip(0..) {
            reached += hub.deliver(delivery, source(number), &mut self.unsent);
            self.lapses.note(delivery);
        }
        self.measures.deliver.record(begun.elapsed());
        trace.tell("chat.sockets", || {
            i64::try_from(reached).unwrap_or(i64::MAX)
        });
        if envelope.position.is_some() && reached > 0 {
            // Clocks of two nodes may differ: what would be negative is none.
            let millis = u32::try_from(Timestamp::now().unix_millis() - envelope.sent_at)
                .unwrap_or_default();
            self.measures.latency.record(f64::from(millis) / 1000.0);
        }
        if let Some(room) = envelope.closes {
            hub.close(room);
            self.relay.interest.left(room);
        }
    }
}
