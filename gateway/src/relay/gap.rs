//! What the bus has missed and can't make good: found elsewhere, by somebody who knows where, and delivered here before
//! anything newer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use shared::{Envelope, Timestamp};
use tokio::sync::mpsc;

use super::delivered::Delivered;

/// How far before the last moment at which the link is known to have been well a search begins: the nodes' clocks differ,
/// and what is published then may have been made some time before, by a node that died since. What this node has
/// delivered is not delivered again, so a long margin costs nothing but reading.
const MARGIN: Duration = Duration::from_secs(30);

/// How much may be found and wait for its delivery.
pub(super) const QUEUE: usize = 64;

/// Finds what the bus has missed.
#[async_trait]
pub trait Missed: Send + Sync + 'static {
    /// Sends every change that was made since a moment and until this call began. Changes of one conversation come in
    /// order and without a hole after what was delivered of it (where that is not known: after the last one before that
    /// moment). More does no harm, as what was delivered is dropped. Tries as long as it takes: nothing newer is delivered
    /// meanwhile.
    async fn find(
        &self,
        since: Timestamp,
        delivered: &Delivered,
        found: mpsc::Sender<Arc<Envelope>>,
    );
}

/// The moment that a search begins with, on this node's own clock.
pub(super) fn began(sound_until: Instant) -> Instant {
    sound_until.checked_sub(MARGIN).unwrap_or(sound_until)
}

/// Where a search begins, for a link that was well at a moment.
pub(super) fn begins(sound_until: Instant) -> Timestamp {
    let back = sound_until.elapsed() + MARGIN;
    let now = Timestamp::now().0;
    Timestamp(now.checked_sub_signed(chrono(back)).unwrap_or(now))
}

fn chrono(duration: Duration) -> chrono::TimeDelta {
    chrono::TimeDelta::from_std(duration).unwrap_or(chrono::TimeDelta::MAX)
}
