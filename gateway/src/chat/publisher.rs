//! From the log to the bus. What was committed is published at once; what could not be (the bus was away, the node that
//! committed it died) stays in the outbox and is published by the sweep of any node.
//!
//! An outbox entry is struck only when all of its changes are out. Publishing twice is harmless: the bus drops repeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::counter;
use shared::envelope::Position;
use shared::{ConversationId, Envelope, ErrorCode, EventSeq};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::events;
use crate::bus::{Bus, Publication, PublishOutcome};
use crate::failure::Failure;
use crate::store::{Logged, OutboxEntry, OutboxId, SharedStore};
use crate::telemetry::metrics as names;

/// How old an outbox entry is before somebody other than its writer publishes it: well above the time a living writer
/// takes to publish and strike it.
const STALE: Duration = Duration::from_secs(2);

/// How often each node looks for stale entries.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How many stale entries one look takes.
const SWEEP_BATCH: u32 = 200;

/// How many envelopes one call to the bus takes.
const PUBLISH_BATCH: usize = 256;

/// How many commits may wait to be published; beyond it their writer waits.
const QUEUE: usize = 1_024;

/// How often published entries are struck: together, as each strike costs a transaction.
const STRIKE_INTERVAL: Duration = Duration::from_millis(500);

/// How many published entries may wait to be struck. Beyond it they are left to the sweep.
const MAX_UNSTRUCK: usize = 50_000;

/// How many log rows one look at a conversation's log takes.
const LOG_PAGE: u32 = 500;

/// The changes of one commit.
pub(super) struct Outgoing {
    /// In the order of their conversations' logs.
    pub(super) envelopes: Vec<Arc<Envelope>>,
    /// The entries to strike once all are out.
    pub(super) outbox: Vec<OutboxId>,
}

/// The way to the bus. Cheap to clone; its tasks end when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Publisher {
    queue: mpsc::Sender<Outgoing>,
}

impl Publisher {
    /// Starts publishing. `stop` ends the sweep; the rest ends when the last `Publisher` is dropped and all is out.
    pub(super) fn start(
        store: &SharedStore,
        bus: &Arc<dyn Bus>,
        stop: CancellationToken,
    ) -> (Self, Vec<tokio::task::JoinHandle<()>>) {
        let (queue, outgoing) = mpsc::channel(QUEUE);
        let (struck, strikes) = mpsc::channel(QUEUE);
        let worker = Arc::new(Worker {
            store: store.clone(),
            bus: bus.clone(),
            is_failing: AtomicBool::new(false),
        });
        let tasks = vec![
            tokio::spawn(worker.clone().run(outgoing, struck)),
            tokio::spawn(strike(store.clone(), strikes)),
            tokio::spawn(async move {
                tokio::select! {
                    () = worker.sweep_forever() => {}
                    () = stop.cancelled() => {}
                }
            }),
        ];
        (Self { queue }, tasks)
    }

    /// Hands changes on, in the order they were committed. Waits while too many wait; gives up never: what can't be
    /// queued because the node is going stays in the outbox.
    pub(super) async fn publish(&self, outgoing: Outgoing) {
        if !outgoing.envelopes.is_empty() {
            // An error means that the publisher has ended; the outbox keeps the changes.
            let _ = self.queue.send(outgoing).await;
        }
    }

    /// Hands on a change that was committed by itself.
    pub(super) async fn publish_logged(&self, logged: &Logged) {
        match events::envelope(logged, None, logged.at.unix_millis()) {
            Ok(envelope) => {
                let outbox = logged.outbox.into_iter().collect();
                self.publish(Outgoing {
                    envelopes: vec![Arc::new(envelope)],
                    outbox,
                })
                .await;
            }
            Err(failure) => failure.log(),
        }
    }
}

struct Worker {
    store: SharedStore,
    bus: Arc<dyn Bus>,
    /// Whether the last call failed: an outage is told once, not with every message.
    is_failing: AtomicBool,
}

impl Worker {
    async fn run(
        self: Arc<Self>,
        mut outgoing: mpsc::Receiver<Outgoing>,
        struck: mpsc::Sender<Vec<OutboxId>>,
    ) {
        let mut commits = Vec::new();
        while outgoing.recv_many(&mut commits, PUBLISH_BATCH).await > 0 {
            self.publish_commits(&commits, &struck).await;
            commits.clear();
        }
    }

    async fn publish_commits(&self, commits: &[Outgoing], struck: &mpsc::Sender<Vec<OutboxId>>) {
        let publications: Vec<_> = commits
            .iter()
            .flat_map(|commit| &commit.envelopes)
            .map(publication)
            .collect();
        let outcomes = match self.publish(&publications).await {
            Ok(outcomes) => outcomes,
            Err(failure) => return self.failed(&failure),
        };
        self.is_failing.store(false, Ordering::Relaxed);
        let mut out = Vec::new();
        let mut rest = outcomes.as_slice();
        for commit in commits {
            let (own, others) = rest.split_at(commit.envelopes.len().min(rest.len()));
            rest = others;
            if own.iter().all(|outcome| is_out(*outcome)) {
                out.extend_from_slice(&commit.outbox);
            }
        }
        // Full or gone: the sweep strikes them.
        let _ = struck.try_send(out);
    }

    /// Nobody is told of it: the changes are stored and acknowledged, and go out when the bus is back.
    fn failed(&self, failure: &Failure) {
        counter!(names::PUBLISH_FAILURES).increment(1);
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                code = failure.code.as_str(),
                details = failure.details.as_deref(),
                "changes can't be published; they wait in the outbox"
            );
        }
    }

    /// Publishes in the order given, telling the bus where conversations stand that it has forgotten.
    async fn publish(&self, publications: &[Publication]) -> Result<Vec<PublishOutcome>, Failure> {
        let mut outcomes = Vec::with_capacity(publications.len());
        for batch in publications.chunks(PUBLISH_BATCH) {
            outcomes.extend(self.bus.publish(batch).await?);
        }
        let mut told = Vec::<ConversationId>::new();
        for (publication, outcome) in publications.iter().zip(&mut outcomes) {
            let (PublishOutcome::UnknownHead, Some(position)) =
                (*outcome, publication.envelope.position)
            else {
                continue;
            };
            if told.contains(&position.conversation) {
                // Its elder told the bus, and sent this one along from the log.
                *outcome = PublishOutcome::Repeat;
                continue;
            }
            told.push(position.conversation);
            *outcome = self
                .publish_from_log(position, &publication.envelope)
                .await?;
        }
        Ok(outcomes)
    }

    /// Publishes all of a conversation's changes that may not be out yet, for a bus that has forgotten it.
    async fn publish_from_log(
        &self,
        position: Position,
        envelope: &Arc<Envelope>,
    ) -> Result<PublishOutcome, Failure> {
        let first = self
            .store
            .first_unpublished(position.conversation)
            .await?
            .unwrap_or(position.event_seq);
        let mut after = EventSeq::new(first.get().min(position.event_seq.get()) - 1);
        let mut begins_at = Some(after.next());
        loop {
            let page = self
                .store
                .log_after(position.conversation, after, LOG_PAGE)
                .await?;
            let Some(last) = page.last() else { break };
            after = last.position.event_seq;
            let whole = page.len() < LOG_PAGE as usize;
            let mut publications = Vec::with_capacity(page.len());
            for logged in &page {
                // The one at hand knows its origin; the log does not.
                let envelope = if logged.position == position {
                    envelope.clone()
                } else {
                    Arc::new(events::envelope(logged, None, logged.at.unix_millis())?)
                };
                let begins_at = begins_at.take().or_else(|| vouched(&envelope));
                publications.push(Publication {
                    envelope,
                    begins_at,
                });
            }
            let outcomes = self.bus.publish(&publications).await?;
            if let Some(outcome) = outcomes.iter().find(|outcome| !is_out(**outcome)) {
                return Ok(*outcome);
            }
            if whole {
                break;
            }
        }
        Ok(PublishOutcome::Published)
    }

    async fn sweep_forever(&self) {
        let mut ticks = interval(SWEEP_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(failure) = self.sweep().await {
                tracing::debug!(code = %failure.code, "the outbox could not be swept");
            }
        }
    }

    async fn sweep(&self) -> Result<(), Failure> {
        let age = u64::try_from(STALE.as_millis()).unwrap_or(u64::MAX);
        let entries = self.store.stale_outbox(age, SWEEP_BATCH).await?;
        let mut out = Vec::with_capacity(entries.len());
        let mut broken_off = Ok(());
        for entry in entries {
            match self.publish_entry(entry).await {
                Ok(true) => out.push(entry.id),
                Ok(false) => {}
                // One that can't be read must not keep the others in for ever.
                Err(failure) if failure.code == ErrorCode::InternalError => {
                    tracing::error!(
                        conversation = %entry.conversation,
                        details = failure.details.as_deref(),
                        "changes can't be published"
                    );
                }
                Err(failure) => {
                    broken_off = Err(failure);
                    break;
                }
            }
        }
        if !out.is_empty() {
            tracing::debug!(
                entries = out.len(),
                "published changes that their writer had not"
            );
            self.store.clear_outbox(&out).await?;
        }
        broken_off
    }

    /// Publishes the changes of a stale outbox entry; true when all are out.
    async fn publish_entry(&self, entry: OutboxEntry) -> Result<bool, Failure> {
        let before = EventSeq::new(entry.first.get() - 1);
        let limit = u32::try_from(entry.last.get() - before.get()).unwrap_or(LOG_PAGE);
        let mut publications = Vec::new();
        for logged in self
            .store
            .log_after(entry.conversation, before, limit)
            .await?
        {
            let envelope = Arc::new(events::envelope(&logged, None, logged.at.unix_millis())?);
            publications.push(publication(&envelope));
        }
        let outcomes = self.publish(&publications).await?;
        // After this long its elder is not on its way any more: it is in the outbox, or the bus has forgotten that it was out.
        let parked = publications
            .iter()
            .zip(&outcomes)
            .find(|(_, outcome)| **outcome == PublishOutcome::Parked);
        if let Some((Publication { envelope, .. }, _)) = parked
            && let Some(position) = envelope.position
        {
            return Ok(is_out(self.publish_from_log(position, envelope).await?));
        }
        Ok(outcomes.into_iter().all(is_out))
    }
}

/// Strikes published entries from the outbox, many at a time. What can't be struck is left to the sweep.
async fn strike(store: SharedStore, mut strikes: mpsc::Receiver<Vec<OutboxId>>) {
    let mut waiting: Vec<OutboxId> = Vec::new();
    let mut due: Option<Instant> = None;
    loop {
        let deadline = due.unwrap_or_else(|| Instant::now() + STRIKE_INTERVAL);
        tokio::select! {
            received = strikes.recv() => match received {
                Some(ids) if waiting.len() < MAX_UNSTRUCK => {
                    waiting.extend(ids);
                    due.get_or_insert(deadline);
                }
                Some(_) => {}
                None => break,
            },
            () = tokio::time::sleep_until(deadline), if due.is_some() => {
                due = None;
                clear(&store, &mut waiting).await;
            }
        }
    }
    clear(&store, &mut waiting).await;
}

async fn clear(store: &SharedStore, waiting: &mut Vec<OutboxId>) {
    if waiting.is_empty() {
        return;
    }
    if let Err(error) = store.clear_outbox(waiting).await {
        tracing::debug!(%error, "published changes stay in the outbox a while longer");
    }
    waiting.clear();
}

fn publication(envelope: &Arc<Envelope>) -> Publication {
    Publication {
        begins_at: vouched(envelope),
        envelope: envelope.clone(),
    }
}

/// A deletion takes the log before it along, so nothing elder can come any more: it is where the bus goes on.
fn vouched(envelope: &Envelope) -> Option<EventSeq> {
    envelope
        .closes
        .and(envelope.position)
        .map(|position| position.event_seq)
}

fn is_out(outcome: PublishOutcome) -> bool {
    matches!(outcome, PublishOutcome::Published | PublishOutcome::Repeat)
}
