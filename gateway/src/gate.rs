//! Bounds on what a node has under way at once. Who comes too many is told so at once and cheaply, which leaves the node
//! the strength to finish what it has begun; waiting in a line that can't be served in time helps nobody. What is bounded,
//! and why at that number, is said where a gate is made.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::telemetry::metrics as names;

/// How often a gate that turns others away says so in the log: a line for each would cost more than the refusal.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The shortest wait that somebody turned away is asked for: a line at its bound is about a second's work.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// Over how much time after that a crowd turned away at once is spread, so that it does not come back at once.
const SPREAD: Duration = Duration::from_secs(2);

/// A bound. Share it by reference or behind an `Arc`.
#[derive(Debug)]
pub struct Gate {
    what: &'static str,
    size: usize,
    places: Arc<Semaphore>,
    under_way: Gauge,
    refused: Counter,
    /// When a refusal was last written down, and how many came since.
    told: Mutex<(Option<Instant>, u64)>,
}

/// A place behind a gate, free again when it is dropped.
#[derive(Debug)]
pub struct Pass {
    places: OwnedSemaphorePermit,
    under_way: Gauge,
}

/// There is no place just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much at once: {what}")]
pub struct Full {
    /// Of what.
    pub what: &'static str,
}

impl Gate {
    /// A gate with so many places. `what` is its name in metrics and logs.
    pub fn new(what: &'static str, size: usize) -> Self {
        let refused = counter!(names::SHED, "what" => what);
        refused.increment(0);
        let under_way = gauge!(names::IN_FLIGHT, "what" => what);
        under_way.increment(0.0);
        let size = size.min(Semaphore::MAX_PERMITS);
        Self {
            what,
            size,
            places: Arc::new(Semaphore::new(size)),
            under_way,
            refused,
            told: Mutex::default(),
        }
    }

    /// Takes a place, or says at once that there is none. Never waits.
    pub fn enter(&self) -> Result<Pass, Full> {
        self.enter_as(1)
    }

    /// The same for something that takes more than one place, such as a text its bytes.
    pub fn enter_as(&self, weight: u32) -> Result<Pass, Full> {
        let Ok(places) = Arc::clone(&self.places).try_acquire_many_owned(weight) else {
            return Err(self.refuse());
        };
        self.under_way.increment(f64::from(weight));
        Ok(Pass {
            places,
            under_way: self.under_way.clone(),
        })
    }

    /// Waits for a place, in turn: for what can't be given back and is bounded elsewhere.
    pub async fn wait(&self) -> Result<Pass, Full> {
        let places = Arc::clone(&self.places);
        let places = places
            .acquire_owned()
            .await
            .map_err(|_| Full { what: self.what })?;
        self.under_way.increment(1.0);
        Ok(Pass {
            places,
            under_way: self.under_way.clone(),
        })
    }

    /// Turns somebody away for whom there is a place here, but none further on.
    pub fn refuse(&self) -> Full {
        self.refused.increment(1);
        let mut told = self.told.lock();
        let (last, refused) = &mut *told;
        *refused += 1;
        if last.is_none_or(|last| last.elapsed() >= TELL_EVERY) {
            tracing::warn!(
                what = self.what,
                bound = self.size,
                refused,
                "too much at once: turning others away"
            );
            *last = Some(Instant::now());
            *refused = 0;
        }
        Full { what: self.what }
    }

    /// How many places are taken.
    pub fn under_way(&self) -> usize {
        self.size - self.places.available_permits().min(self.size)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        #[expect(clippy::cast_precision_loss, reason = "bounds are far below 2^52")]
        self.under_way.decrement(self.places.num_permits() as f64);
    }
}

/// How long somebody who was turned away is asked to wait.
pub fn retry_after() -> Duration {
    SHORTEST_WAIT + SPREAD.mul_f64(rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_pass_is_gone() {
        let gate = Gate::new("tests", 2);
        let first = gate.enter().unwrap();
        let _second = gate.enter().unwrap();
        assert_eq!(gate.under_way(), 2);
        assert_eq!(gate.enter().unwrap_err(), Full { what: "tests" });
        drop(first);
        assert!(gate.enter().is_ok());
    }

    #[test]
    fn what_is_heavy_takes_more_places() {
        let gate = Gate::new("tests", 10);
        let heavy = gate.enter_as(8).unwrap();
        assert!(gate.enter_as(3).is_err());
        assert!(gate.enter_as(2).is_ok());
        drop(heavy);
        assert!(gate.enter_as(10).is_ok());
        assert!(gate.enter_as(11).is_err());
    }

    #[test]
    fn a_crowd_is_not_asked_back_at_once() {
        let waits: std::collections::BTreeSet<_> =
            (0..100).map(|_| retry_after().as_millis()).collect();
        assert!(waits.len() > 50);
        assert!(waits.iter().all(|wait| (1000..=3000).contains(wait)));
    }
}
