//! States that end by themselves (see `shared::envelope::Lapse`): when one's time is up, its end is delivered here.

use std::collections::HashMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use shared::Delivery;
use shared::envelope::LapseEnd;
use tokio_util::time::DelayQueue;
use tokio_util::time::delay_queue::Key;

/// The longest a state may last: an envelope that asks for more is not one of ours.
const LONGEST: Duration = Duration::from_secs(300);

/// The states that last just now, by key.
pub(super) struct Lapses {
    queue: DelayQueue<(String, Delivery)>,
    keys: HashMap<String, Key>,
}

impl Lapses {
    pub(super) fn new() -> Self {
        Self {
            queue: DelayQueue::new(),
            keys: HashMap::new(),
        }
    }

    /// Takes note of a delivery: it may begin a state, prolong it or end it.
    pub(super) fn note(&mut self, delivery: &Delivery) {
        let Some(lapse) = &delivery.lapse else { return };
        if let Some(key) = self.keys.remove(&lapse.key) {
            self.queue.remove(&key);
        }
        if let Some(LapseEnd { after_ms, data }) = &lapse.then {
            let end = Delivery {
                data: data.clone(),
                lapse: None,
                ..delivery.clone()
            };
            let after = Duration::from_millis(*after_ms).min(LONGEST);
            let key = self.queue.insert((lapse.key.clone(), end), after);
            self.keys.insert(lapse.key.clone(), key);
        }
    }

    /// The next end, when its time has come. Waits for ever while no state lasts.
    pub(super) async fn next(&mut self) -> Delivery {
        poll_fn(|context| match self.queue.poll_expired(context) {
            Poll::Ready(Some(expired)) => {
                let (key, end) = expired.into_inner();
                self.keys.remove(&key);
                Poll::Ready(end)
            }
            // Empty: only `note` brings something, and that can't be called while this borrows.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        })
        .await
    }
}
