//! What is told of a pool of connections, whatever they lead to.

use std::time::Duration;

use metrics::{Gauge, Histogram, gauge, histogram};

use super::metrics as names;

/// Where a pool's use and waits are written.
pub struct PoolMeter {
    used: Gauge,
    idle: Gauge,
    wait: Histogram,
}

impl PoolMeter {
    /// For the pool of that name.
    pub fn new(pool: &'static str) -> Self {
        let connections =
            |state: &'static str| gauge!(names::POOL_CONNECTIONS, "pool" => pool, "state" => state);
        Self {
            used: connections("used"),
            idle: connections("idle"),
            wait: histogram!(names::POOL_WAIT, "pool" => pool),
        }
    }

    /// A connection was asked for, and had or given up after so long; so many are in use now, and so many are not.
    #[expect(clippy::cast_precision_loss, reason = "pools are small")]
    pub fn asked(&self, waited: Duration, used: usize, idle: usize) {
        self.wait.record(waited);
        self.used.set(used as f64);
        self.idle.set(idle as f64);
    }
}
