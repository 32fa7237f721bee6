//! What nodes know together, in Redis: `presence`, `limiter` and connection `states`, each with its scripts beside it. They share the bus's way
//! to Redis.

mod limiter;
mod presence;
mod states;

pub use limiter::RedisRateLimiter;
pub use presence::RedisPresence;
pub use states::{RedisConnectionStates, StateSettings};

fn role(name: &str) -> Option<shared::Role> {
    [shared::Role::User, shared::Role::Admin]
        .into_iter()
        .find(|role| role.as_str() == name)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
