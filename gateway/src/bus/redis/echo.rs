//! A node's call to itself, out as a command and in again through the subscription link: it proves both ways at once, and
//! that they end at the same Redis.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::commands::{Commands, unavailable};
use crate::bus::BusError;

/// The calls made and heard.
#[derive(Debug)]
pub(super) struct Echo {
    /// The node's own channel.
    channel: String,
    /// The number of the last call.
    called: AtomicU64,
    /// The highest number heard. Calls may overtake each other, so a higher one answers for all below.
    heard: watch::Sender<u64>,
}

/// Why there was no echo.
#[derive(Debug)]
pub(super) enum Silence {
    /// The call did not get out.
    Mute(BusError),
    /// It got out, and was not heard in time.
    Deaf(BusError),
}

impl Echo {
    pub(super) fn new(channel: String) -> Self {
        Self {
            channel,
            called: AtomicU64::new(0),
            heard: watch::Sender::new(0),
        }
    }

    /// Calls, and waits until it is heard; each no longer than given.
    pub(super) async fn call(&self, commands: &Commands, within: Duration) -> Result<(), Silence> {
        let number = self.called.fetch_add(1, Ordering::Relaxed) + 1;
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&self.channel).arg(number);
        let called = commands.query_in_line::<()>(&publish).await;
        called.map_err(Silence::Mute)?;
        let mut heard = self.heard.subscribe();
        let echo = heard.wait_for(|highest| *highest >= number);
        match tokio::time::timeout(within, echo).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(ended)) => Err(Silence::Deaf(unavailable(ended))),
            Err(late) => Err(Silence::Deaf(unavailable(late))),
        }
    }

    /// Notes what came in on the node's own channel.
    pub(super) fn heard(&self, number: u64) {
        self.heard.send_if_modified(|highest| {
            let higher = number > *highest;
            *highest = number.max(*highest);
            higher
        });
    }
}

impl From<Silence> for BusError {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Mute(error) | Silence::Deaf(error) => error,
        }
    }
}
