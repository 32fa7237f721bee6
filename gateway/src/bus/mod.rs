//! Room events between nodes: what the rest of the house may ask of a bus. `redis` is the one between nodes, `local`
//! the one within a single node. Both keep the contract below; one suite proves both.

pub mod local;
mod metrics;
mod place;
pub mod redis;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use shared::envelope::Notice;
use shared::{Envelope, Room};
use tokio::sync::mpsc;

pub use place::{Mark, NoPlace, Place};

/// A bus between nodes.
///
/// **Delivery.** An envelope reaches every node that is subscribed to at least one of its rooms when it is published, once
/// for each node, at most once. What a node misses while its link is broken is made good when the link is back: those with a
/// position, for rooms it was subscribed to when they were published, are handed on then, before anything newer. Where the
/// bus can't (it has forgotten them), the node is told by `Incoming::Interrupted`, before anything newer. Envelopes without a
/// position are lost.
///
/// A member that enters a room while the link is broken, without the node noticing or while it waits for `subscribe`, may
/// be handed what was published since the link broke and before it entered: earlier than it could have heard it, never twice
/// and never out of order. What is published after `subscribe` returned is never missed.
///
/// **Order.** Envelopes with a position come out in the order of their `event_seq` within their conversation, each once,
/// whoever published them and however often: one that comes early waits on the bus for its elder, a repeat is dropped.
/// Every node hears the envelopes of one conversation in the same order. Envelopes without a position are in the order
/// published by one node.
///
/// **Failure.** An error says that nothing is known: some may have been published. Publishing again is safe where there is
/// a position.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Publishes in the order given, in one round trip. One outcome for each envelope; those without a position are
    /// always `Published`.
    async fn publish(&self, envelopes: &[Publication]) -> Result<Vec<PublishOutcome>, BusError>;

    /// Tells every node, this one included, whatever rooms it is subscribed to.
    async fn announce(&self, notice: &Notice) -> Result<(), BusError>;

    /// Subscribes this node to rooms: what is published after this returned will be heard. Subscriptions survive a
    /// broken link. Not counted: the caller keeps count of who wants a room. Bounded in time: on an error the rooms stay
    /// wanted until `unsubscribe` takes them back, and the bus goes on trying; calling again tells when they are heard.
    async fn subscribe(&self, rooms: &[Room]) -> Result<(), BusError>;

    /// Ends the subscription to rooms. What is still under way may be heard.
    async fn unsubscribe(&self, rooms: &[Room]) -> Result<(), BusError>;

    /// What this node hears. Taken once, by the relay. The queue is bounded: a relay that does not keep up slows down the
    /// link's reader, and in the end the link is cut, and what it missed is made good once the relay has caught up.
    fn incoming(&self) -> Option<mpsc::Receiver<Incoming>>;

    /// Where the order of what is kept has come to: what is published after this was called has a later place. `None`
    /// where there is no order yet.
    async fn here(&self) -> Result<Option<Place>, BusError>;

    /// The next kept envelopes after a place, whatever rooms they are for, in order and without a hole; at most about
    /// `limit`, an empty list where there are none yet. `None` where nobody can tell any more: the place is of another epoch, or
    /// what came after it is not kept any longer.
    async fn kept_after(&self, place: Place, limit: usize) -> Result<Option<Vec<Kept>>, BusError>;

    /// Whether both the way out and the way in work just now. Bounded in time.
    async fn check(&self) -> Result<(), BusError>;

    /// Ends the links, after what was published went out.
    async fn close(&self);
}

/// An envelope to be published.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The envelope.
    pub envelope: Arc<Envelope>,
    /// For a conversation the bus has forgotten (long idle, or Redis came back empty): the caller vouches that every
    /// change before this `event_seq` has been published, so the bus may begin there. `None`: the bus answers
    /// `UnknownHead` instead of guessing. An `event_seq` of 1 needs no voucher. A voucher beyond what the bus knows moves it
    /// ahead (it had lost its last steps), one behind it does nothing: so it is never wrong to give one that is true.
    pub begins_at: Option<shared::EventSeq>,
}

/// An envelope with a position that the bus keeps for those who missed it.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Where it stands, in the epoch that was asked for.
    pub offset: u64,
    /// `None`: it can't be read, and was delivered to nobody.
    pub envelope: Option<Arc<Envelope>>,
}

/// What became of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishOutcome {
    /// It went out.
    Published,
    /// It had gone out before.
    Repeat,
    /// It waits on the bus for its elder. It is lost if the bus forgets it: keep it in the outbox.
    Parked,
    /// The bus does not know where the conversation stands: say it with `begins_at`.
    UnknownHead,
}

/// What a node hears.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// An envelope for some room this node is subscribed to, with its place in the order of what is kept; an envelope
    /// without a position has none.
    Envelope(Arc<Envelope>, Option<Place>),
    /// Everything for this node's rooms up to this place has been handed on.
    Reached(Place),
    /// News for the node.
    Notice(Notice),
    /// The link was broken and is back, with all its subscriptions, and what was missed can't be made good: it is for the
    /// node to find elsewhere. It comes before anything that was heard after the gap.
    Interrupted {
        /// What was published before this has been handed on; what came after may not have been.
        since: Instant,
    },
}

/// A bus that can't be reached, or is too slow.
#[derive(Debug, thiserror::Error)]
#[error("the bus is unavailable: {0}")]
pub struct BusError(#[source] pub Box<dyn std::error::Error + Send + Sync>);
