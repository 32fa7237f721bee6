//! What is known within one process: presence of a node that is alone, and a node's own allowances, which also stand in
//! for the shared ones.

mod states;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use governor::DefaultKeyedRateLimiter;
use governor::clock::{Clock, DefaultClock};
use governor::{Quota, RateLimiter as Governor};
use parking_lot::Mutex;
use shared::{Role, UserId};
use tokio::time::Instant;

use super::{Presence, PresenceSettings, RateLimiter, RetryAfter};
use crate::bus::BusError;
pub use states::LocalConnectionStates;

/// Presence in memory. The node's lease is its process.
#[derive(Debug)]
pub struct LocalPresence {
    /// Guards each person's state as a whole.
    people: Mutex<HashMap<UserId, Person>>,
    settings: PresenceSettings,
}

#[derive(Debug)]
struct Person {
    role: Role,
    /// When the grace ends, once the last socket has gone.
    leaves_at: Option<Instant>,
}

impl LocalPresence {
    /// Nobody is online yet.
    pub fn new(settings: PresenceSettings) -> Self {
        Self {
            people: Mutex::default(),
            settings,
        }
    }

    fn grace_ends(&self) -> Instant {
        Instant::now() + self.settings.grace
    }
}

impl Default for LocalPresence {
    fn default() -> Self {
        Self::new(PresenceSettings::default())
    }
}

#[async_trait]
impl Presence for LocalPresence {
    async fn arrive(&self, user: UserId, role: Role) -> Result<bool, BusError> {
        let here = Person {
            role,
            leaves_at: None,
        };
        Ok(self.people.lock().insert(user, here).is_none())
    }

    async fn depart(&self, user: UserId) -> Result<(), BusError> {
        let grace_ends = self.grace_ends();
        if let Some(person) = self.people.lock().get_mut(&user) {
            person.leaves_at.get_or_insert(grace_ends);
        }
        Ok(())
    }

    async fn renew(&self, here: &[(UserId, Role)]) -> Result<(), BusError> {
        let grace_ends = self.grace_ends();
        let ids: HashSet<UserId> = here.iter().map(|&(user, _)| user).collect();
        let mut people = self.people.lock();
        for (user, person) in people.iter_mut() {
            if !ids.contains(user) {
                person.leaves_at.get_or_insert(grace_ends);
            }
        }
        people.extend(here.iter().map(|&(user, role)| {
            let here = Person {
                role,
                leaves_at: None,
            };
            (user, here)
        }));
        Ok(())
    }

    async fn sweep(&self) -> Result<Vec<(UserId, Role)>, BusError> {
        let now = Instant::now();
        let mut people = self.people.lock();
        let gone = people.extract_if(|_, person| person.leaves_at.is_some_and(|end| end <= now));
        Ok(gone.map(|(user, person)| (user, person.role)).collect())
    }

    async fn online(&self) -> Result<Vec<(UserId, Role)>, BusError> {
        let people = self.people.lock();
        Ok(people
            .iter()
            .map(|(&id, person)| (id, person.role))
            .collect())
    }

    async fn online_among(&self, users: &[UserId]) -> Result<Vec<(UserId, Role)>, BusError> {
        let wanted: HashSet<UserId> = users.iter().copied().collect();
        let people = self.people.lock();
        Ok(wanted
            .into_iter()
            .filter_map(|id| people.get(&id).map(|person| (id, person.role)))
            .collect())
    }
}

/// Allowances counted on this node only.
#[derive(Debug, Default)]
pub struct LocalRateLimiter {
    /// One limiter for each size of allowance: there are as many as settings.
    limiters: Mutex<HashMap<NonZeroU32, Arc<DefaultKeyedRateLimiter<Box<str>>>>>,
    /// Attempts since full buckets were last forgotten.
    taken: AtomicU32,
    clock: DefaultClock,
}

/// After so many attempts the buckets that are full again are forgotten: one scan over at most those that came since.
const FORGET_EVERY: u32 = 4096;

impl LocalRateLimiter {
    /// Nobody has tried anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `RateLimiter::take`, without the wait for anybody.
    pub fn take_here(&self, key: &str, per_minute: u32) -> Result<(), RetryAfter> {
        let Some(per_minute) = NonZeroU32::new(per_minute) else {
            return Ok(());
        };
        self.forget_idle();
        let limiter = {
            let mut limiters = self.limiters.lock();
            let new = || Arc::new(Governor::keyed(Quota::per_minute(per_minute)));
            Arc::clone(limiters.entry(per_minute).or_insert_with(new))
        };
        limiter
            .check_key(&Box::from(key))
            .map_err(|until| RetryAfter(until.wait_time_from(self.clock.now())))
    }

    fn forget_idle(&self) {
        if self.taken.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY != FORGET_EVERY - 1 {
            return;
        }
        let limiters: Vec<_> = self.limiters.lock().values().cloned().collect();
        for limiter in limiters {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

#[async_trait]
impl RateLimiter for LocalRateLimiter {
    async fn take(&self, key: &str, per_minute: u32) -> Result<(), RetryAfter> {
        self.take_here(key, per_minute)
    }
}
