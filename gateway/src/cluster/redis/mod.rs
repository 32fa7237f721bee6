//! What nodes count together, in Redis: `presence` and `limiter`, each with its scripts beside it. They share the bus's way
//! to Redis.

mod limiter;
mod presence;

pub use limiter::RedisRateLimiter;
pub use presence::RedisPresence;
