//! Allowances over all nodes. A Redis that does not answer leaves each node to its own count.

use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use redis::Script;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::bus::redis::Commands;
use crate::cluster::local::LocalRateLimiter;
use crate::cluster::{RateLimiter, RetryAfter};

/// For so long a Redis that failed is not asked again: a login must not wait for it each time.
const REST: Duration = Duration::from_secs(1);

/// Allowances in Redis.
#[derive(Debug)]
pub struct RedisRateLimiter {
    commands: Commands,
    script: Script,
    /// Decides where Redis can't.
    fallback: LocalRateLimiter,
    /// Until when Redis is not asked; `None` while it answers.
    resting_until: Mutex<Option<Instant>>,
}

impl RedisRateLimiter {
    /// Over the bus's way to Redis.
    pub fn new(commands: Commands) -> Self {
        Self {
            commands,
            script: Script::new(include_str!("take.lua")),
            fallback: LocalRateLimiter::new(),
            resting_until: Mutex::default(),
        }
    }

    /// What Redis says; `None` where it says nothing.
    async fn take_shared(&self, key: &str, per_minute: u32) -> Option<Result<(), RetryAfter>> {
        let resting = *self.resting_until.lock();
        if resting.is_some_and(|end| Instant::now() < end) {
            return None;
        }
        let mut call = self.script.key(self.bucket(key, per_minute));
        call.arg(per_minute);
        let answer = self.commands.invoke::<u64>(&call).await;
        let rest = answer.is_err().then(|| Instant::now() + REST);
        let rested = std::mem::replace(&mut *self.resting_until.lock(), rest).is_some();
        match answer {
            Ok(wait) => {
                if rested {
                    tracing::info!("rate limits are shared again");
                }
                Some(match wait {
                    0 => Ok(()),
                    wait => Err(RetryAfter(Duration::from_micros(wait))),
                })
            }
            Err(error) => {
                if !rested {
                    tracing::warn!(%error, "rate limits are this node's own until Redis answers again");
                }
                None
            }
        }
    }

    /// Keys hold addresses and what strangers typed: hashed, they are short and tell nothing.
    fn bucket(&self, key: &str, per_minute: u32) -> String {
        let hash = Sha256::digest(key);
        self.commands
            .name(format_args!("limit:{per_minute}:{hash:x}"))
    }
}

#[async_trait]
impl RateLimiter for RedisRateLimiter {
    async fn take(&self, key: &str, per_minute: u32) -> Result<(), RetryAfter> {
        if per_minute == 0 {
            return Ok(());
        }
        match self.take_shared(key, per_minute).await {
            Some(answer) => answer,
            None => self.fallback.take_here(key, per_minute),
        }
    }
}
