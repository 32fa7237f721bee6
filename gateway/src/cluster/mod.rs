//! What nodes know together: who is online, how often somebody tried, and what a client may pick up again. Redis between
//! nodes (`redis`), memory within a single one (`local`). Room events are the bus's, not this one's.

pub mod local;
pub mod redis;
mod states;

use std::time::Duration;

use async_trait::async_trait;
use shared::{Role, UserId};

use crate::bus::BusError;
pub use states::{
    AWAY, BEAT_INTERVAL, ConnectionState, ConnectionStates, Ended, Found, Holder, NODE_AWAY,
    Received,
};

/// How long after the last socket left a person is still taken for online: a page that reloads is not an absence. The
/// announcement may come up to 20 s after it; the sweep runs every second.
pub const OFFLINE_GRACE: Duration = Duration::from_secs(15);

/// How long a node that stopped renewing is taken for alive. With the grace it must stay below 60 s.
pub const NODE_LEASE: Duration = Duration::from_secs(20);

/// How long absences are forgiven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresenceSettings {
    /// From a person's last departure to their absence.
    pub grace: Duration,
    /// From a node's last sign to its death.
    pub lease: Duration,
}

impl Default for PresenceSettings {
    fn default() -> Self {
        Self {
            grace: OFFLINE_GRACE,
            lease: NODE_LEASE,
        }
    }
}

/// Who is online, over all nodes.
///
/// A person is online from their first socket on any node until `OFFLINE_GRACE` after their last left. A node that dies
/// takes its sockets with it, `NODE_LEASE` after its last `renew`.
#[async_trait]
pub trait Presence: Send + Sync + 'static {
    /// The first socket of a person on this node has come. True when the person thereby turned online.
    async fn arrive(&self, user: UserId, role: Role) -> Result<bool, BusError>;

    /// The last socket of a person on this node has gone. Starts the grace where it was their last anywhere.
    async fn depart(&self, user: UserId) -> Result<(), BusError>;

    /// Renews this node's lease; to be called every few seconds. `here` is everyone with a socket on this node: what
    /// the store has lost of them (a Redis that came back empty) is put back, without anybody turning online by it. Who is not
    /// among them has departed: so a `depart` that failed is made good. The list must be fresh.
    async fn renew(&self, here: &[(UserId, Role)]) -> Result<(), BusError>;

    /// Takes out whoever's grace or node has ended, and returns them: each person to one caller only.
    async fn sweep(&self) -> Result<Vec<(UserId, Role)>, BusError>;

    /// Everyone online.
    async fn online(&self) -> Result<Vec<(UserId, Role)>, BusError>;

    /// Those of `users` who are online.
    async fn online_among(&self, users: &[UserId]) -> Result<Vec<(UserId, Role)>, BusError>;
}

/// Counts attempts over all nodes.
#[async_trait]
pub trait RateLimiter: Send + Sync + 'static {
    /// Takes one attempt from `key`'s allowance of `per_minute` (a bucket of that size that refills evenly). `Err` inside
    /// tells how long to wait. 0 an allowance means no limit. Where the shared count can't be reached, this node's own
    /// count decides: a limit never turns into an outage.
    async fn take(&self, key: &str, per_minute: u32) -> Result<(), RetryAfter>;
}

/// Too many: try again after this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter(pub Duration);
