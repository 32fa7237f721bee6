//! What the bus has missed, from the database's log: the same changes, as the same events. Whom they reach and who has heard
//! them before is the relay's business.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shared::envelope::Position;
use shared::{ConversationId, Envelope, EventSeq, Timestamp};
use tokio::sync::mpsc;

use super::events;
use crate::relay::{Delivered, Missed};
use crate::store::{SharedStore, StoreError};

/// How many conversations one look takes. Each look reads the index over the whole time, so few and large ones.
const CONVERSATIONS: u32 = 1_000;

/// How many log rows one look at a conversation takes.
const LOG_PAGE: u32 = 200;

/// How long a database that is away is left alone.
const RETRY: Duration = Duration::from_millis(500);

/// Reads the log for a relay.
///
/// First which conversations changed since then, by the index of the log by age; then of each all that comes after what was
/// delivered, in the order of its own log. So times, which clocks of several nodes wrote, only choose the conversations, and
/// neither order nor completeness within one depends on them. What is committed while this reads was published after the
/// bus was back, and comes from there as well.
pub struct CatchUp {
    store: SharedStore,
}

impl CatchUp {
    /// Over a store.
    pub fn new(store: SharedStore) -> Self {
        Self { store }
    }

    /// Hands on a conversation's changes after a place; false where nobody takes them any more.
    async fn conversation(
        &self,
        conversation: ConversationId,
        mut after: EventSeq,
        found: &mpsc::Sender<Arc<Envelope>>,
    ) -> bool {
        loop {
            let Some(page) =
                persistently(|| self.store.log_after(conversation, after, LOG_PAGE)).await
            else {
                return true;
            };
            for logged in &page {
                after = logged.position.event_seq;
                match events::envelope(logged, None, logged.at.unix_millis()) {
                    Ok(envelope) => {
                        if found.send(Arc::new(envelope)).await.is_err() {
                            return false;
                        }
                    }
                    Err(failure) => failure.log(),
                }
            }
            if page.len() < LOG_PAGE as usize {
                return true;
            }
        }
    }
}

#[async_trait]
impl Missed for CatchUp {
    async fn find(
        &self,
        since: Timestamp,
        delivered: &Delivered,
        found: mpsc::Sender<Arc<Envelope>>,
    ) {
        let mut last = ConversationId::new(0);
        loop {
            let Some(changed) =
                persistently(|| self.store.changed_since(since, last, CONVERSATIONS)).await
            else {
                return;
            };
            for Position {
                conversation,
                event_seq: first,
            } in &changed
            {
                last = *conversation;
                let after = delivered
                    .last(*conversation)
                    .unwrap_or(EventSeq::new(first.get() - 1));
                if !self.conversation(*conversation, after, &found).await {
                    return;
                }
            }
            if changed.len() < CONVERSATIONS as usize {
                return;
            }
        }
    }
}

/// Asks until the database answers. `None` for an answer that this program does not understand, which it will not the next
/// time either: one row that can't be read must not keep everything else from being delivered.
async fn persistently<T, F>(ask: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut told = false;
    loop {
        match ask().await {
            Ok(answer) => return Some(answer),
            Err(error @ (StoreError::Unavailable(_) | StoreError::Full(_))) => {
                if !told {
                    tracing::warn!(%error, "what the bus has missed waits for the database");
                    told = true;
                }
                tokio::time::sleep(RETRY).await;
            }
            Err(error @ (StoreError::Internal(_) | StoreError::Unstorable(_))) => {
                tracing::error!(%error, "something that the bus has missed can't be read");
                return None;
            }
        }
    }
}
