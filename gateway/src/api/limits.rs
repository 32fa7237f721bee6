//! How many requests one person may make: `RATE_LIMIT_REQUESTS_PER_SECOND`, counted on this node. Sign-ins are `auth`'s
//! to count, over all nodes.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use metrics::counter;
use shared::UserId;

use crate::failure::Failure;
use crate::telemetry::metrics as names;

/// After so many requests the people whose allowance is whole again are forgotten. What is kept is so bounded by those
/// who were here in the last second, and this many.
const FORGET_EVERY: u32 = 4096;

/// Everybody's allowance.
pub(super) struct RequestLimits {
    /// `None`: no limit.
    people: Option<DefaultKeyedRateLimiter<UserId>>,
    /// Requests since the last forgetting.
    taken: AtomicU32,
    clock: DefaultClock,
}

impl RequestLimits {
    /// So many a second, at once or spread; 0 for no limit.
    pub(super) fn new(per_second: u32) -> Self {
        let people =
            NonZeroU32::new(per_second).map(|rate| RateLimiter::keyed(Quota::per_second(rate)));
        Self {
            people,
            taken: AtomicU32::new(0),
            clock: DefaultClock::default(),
        }
    }

    /// Takes one request from somebody's allowance, or says when to come back.
    pub(super) fn take(&self, user: UserId) -> Result<(), Failure> {
        let Some(people) = &self.people else {
            return Ok(());
        };
        if self.taken.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            people.retain_recent();
            people.shrink_to_fit();
        }
        people.check_key(&user).map_err(|until| {
            counter!(names::RATE_LIMITED, "limit" => "requests").increment(1);
            Failure::rate_limited(until.wait_time_from(self.clock.now()))
        })
    }
}

#[cfg(test)]
mod tests {
    use shared::ErrorCode;

    use super::*;

    #[test]
    fn each_person_has_an_allowance() {
        let limits = RequestLimits::new(3);
        let take = |id| {
            limits
                .take(UserId::new(id))
                .map_err(|failure| (failure.code, failure.retry_after_seconds()))
        };
        for _ in 0..3 {
            assert_eq!(take(1), Ok(()));
        }
        assert_eq!(take(1), Err((ErrorCode::RateLimited, Some(1))));
        assert_eq!(take(2), Ok(()));
    }

    #[test]
    fn zero_is_no_limit() {
        let limits = RequestLimits::new(0);
        assert!((0..10_000).all(|_| limits.take(UserId::new(1)).is_ok()));
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        // A whole allowance is back after a microsecond.
        let limits = RequestLimits::new(1_000_000);
        for id in 1..=i64::from(FORGET_EVERY) * 2 {
            assert!(limits.take(UserId::new(id)).is_ok());
        }
        assert!(limits.people.as_ref().unwrap().len() <= FORGET_EVERY as usize);
    }
}
