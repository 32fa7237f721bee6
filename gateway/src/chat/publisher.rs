//! From the log to the bus. What was committed is published at once; what could not be (the bus was away, the node that
//! committed it died) stays in the outbox and is published by the sweep of any node.
//!
//! An outbox entry is struck only when all of its changes are out. Publishing twice is harmless: the bus drops repeats.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::{Histogram, counter, histogram};
use shared::envelope::Position;
use shared::{ConversationId, Envelope, ErrorCode, EventSeq};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::events;
use crate::bus::{Bus, Publication, PublishOutcome};
use crate::failure::Failure;
use crate::gate::{Gate, Pass};
use crate::store::{Logged, OutboxEntry, OutboxId, SharedStore};
use crate::telemetry::metrics as names;
use crate::telemetry::trace::Trace;

/// How old an outbox entry is before somebody other than its writer publishes it: well above the time a living writer
/// takes to publish and strike it.
const STALE: Duration = Duration::from_secs(2);

/// How often each node looks for stale entries.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How many stale entries one look takes.
const SWEEP_BATCH: u32 = 200;

/// How many envelopes one call to the bus takes.
const PUBLISH_BATCH: usize = 256;

/// How many commits may wait to be published. Beyond it their writer waits, so that no more is stored than can be told;
/// but while the bus is away it does not, and what is stored waits in the outbox instead.
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
    /// The spans of those that are traced: they end when this is let go of, which is when all are out.
    pub(super) traces: Vec<Trace>,
}

/// A commit in the queue, with its place there, and since when it is on its way.
type Queued = (Outgoing, Pass, Instant);

/// The way to the bus. Cheap to clone; its tasks end when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Publisher {
    queue: mpsc::Sender<Queued>,
    /// Whether the last call to the bus failed: an outage is told once, not with every message.
    is_failing: Arc<AtomicBool>,
    /// The commits in the queue and on their way out: as many as the queue holds.
    commits: Arc<Gate>,
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
        let is_failing = Arc::new(AtomicBool::new(false));
        let worker = Arc::new(Worker {
            store: store.clone(),
            bus: bus.clone(),
            is_failing: is_failing.clone(),
            took: histogram!(names::PUBLISH),
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
        let publisher = Self {
            queue,
            is_failing,
            commits: Arc::new(Gate::new("publishing", QUEUE)),
        };
        (publisher, tasks)
    }

    /// Hands changes on, in the order they were committed. Where too many wait, it waits as well, for one call to the bus
    /// at the most; gives up never: what can't be queued because the bus is away or the node is going stays in the outbox.
    pub(super) async fn publish(&self, outgoing: Outgoing) {
        if outgoing.envelopes.is_empty() {
            return;
        }
        let since = Instant::now();
        let place = if self.is_failing.load(Ordering::Relaxed) {
            self.commits.enter()
        } else {
            self.commits.wait().await
        };
        if let Ok(place) = place {
            // An error means that the publisher has ended.
            let _ = self.queue.send((outgoing, place, since)).await;
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
                    traces: Vec::new(),
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
    /// See [`Publisher`].
    is_failing: Arc<AtomicBool>,
    /// How long commits take to be out.
    took: Histogram,
}

impl Worker {
    async fn run(
        self: Arc<Self>,
        mut outgoing: mpsc::Receiver<Queued>,
        struck: mpsc::Sender<Vec<OutboxId>>,
    ) {
        let mut commits = Vec::new();
        while outgoing.recv_many(&mut commits, PUBLISH_BATCH).await > 0 {
            self.publish_commits(&commits, &struck).await;
            commits.clear();
        }
    }

    async fn publish_commits(&self, commits: &[Queued], struck: &mpsc::Sender<Vec<OutboxId>>) {
        let publications: Vec<_> = commits
            .iter()
            .flat_map(|(commit, ..)| &commit.envelopes)
            .map(publication)
            .collect();
        let outcomes = match self.publish(&publications).await {
            Ok(outcomes) => outcomes,
            Err(failure) => {
                for trace in commits.iter().flat_map(|(commit, ..)| &commit.traces) {
                    trace.fail(failure.code.as_str());
                }
                return self.failed(&failure);
            }
        };
        self.is_failing.store(false, Ordering::Relaxed);
        let mut out = Vec::new();
        let mut rest = outcomes.as_slice();
        for (commit, _, since) in commits {
            let (own, others) = rest.split_at(commit.envelopes.len().min(rest.len()));
            rest = others;
            if own.iter().all(|outcome| is_out(*outcome)) {
                self.took.record(since.elapsed());
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
        let mut told = HashMap::<ConversationId, PublishOutcome>::new();
        for (publication, outcome) in publications.iter().zip(&mut outcomes) {
            let (PublishOutcome::UnknownHead, Some(position)) =
                (*outcome, publication.envelope.position)
            else {
                continue;
            };
            // What the first of a conversation tells the bus brings the others along, from the log: they share its lot.
            *outcome = match told.get(&position.conversation) {
                Some(of_all) => *of_all,
                None => self.publish_from_log(position, publications).await?,
            };
            told.insert(position.conversation, *outcome);
        }
        Ok(outcomes)
    }

    /// Publishes all of a conversation's changes that may not be out yet, for a bus that has forgotten it. Those `at_hand`
    /// know the socket they came from; the log does not.
    async fn publish_from_log(
        &self,
        position: Position,
        at_hand: &[Publication],
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
                let known = at_hand
                    .iter()
                    .find(|known| known.envelope.position == Some(logged.position));
                let envelope = match known {
                    Some(known) => known.envelope.clone(),
                    None => Arc::new(events::envelope(logged, None, logged.at.unix_millis())?),
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
            return Ok(is_out(
                self.publish_from_log(position, &publications).await?,
            ));
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use parking_lot::Mutex;
    use shared::envelope::Notice;
    use shared::{Room, SocketId};

    use super::*;
    use crate::bus::{BusError, Incoming, Kept, Place};
    use crate::store::{self, Appended, NewAdmin, NewClient, NewMessage, OpenOutcome};

    /// Has forgotten every conversation, and then answers as it is told to.
    struct Forgetful {
        then: PublishOutcome,
        published: Mutex<Vec<Publication>>,
    }

    #[async_trait]
    impl Bus for Forgetful {
        async fn publish(&self, batch: &[Publication]) -> Result<Vec<PublishOutcome>, BusError> {
            let told = batch.iter().any(|one| one.begins_at.is_some());
            if told {
                self.published.lock().extend_from_slice(batch);
            }
            let outcome = if told {
                self.then
            } else {
                PublishOutcome::UnknownHead
            };
            Ok(vec![outcome; batch.len()])
        }
        async fn announce(&self, _: &Notice) -> Result<(), BusError> {
            Ok(())
        }
        async fn subscribe(&self, _: &[Room]) -> Result<(), BusError> {
            Ok(())
        }
        async fn unsubscribe(&self, _: &[Room]) -> Result<(), BusError> {
            Ok(())
        }
        fn incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
            None
        }
        async fn here(&self) -> Result<Option<Place>, BusError> {
            Ok(None)
        }

        async fn kept_after(&self, _: Place, _: usize) -> Result<Option<Vec<Kept>>, BusError> {
            Ok(None)
        }

        async fn check(&self) -> Result<(), BusError> {
            Ok(())
        }
        async fn close(&self) {}
    }

    /// Two messages of one conversation, as their writer publishes them, over a bus that has forgotten it.
    async fn publish_two(then: PublishOutcome) -> (Vec<PublishOutcome>, Vec<Publication>) {
        let folder = std::env::temp_dir().join(format!("chat-{}", uuid::Uuid::new_v4()));
        let url = format!("sqlite://{}", folder.join("chat.db").display());
        let store = store::open(&store::Settings::new(url)).unwrap();
        store.migrate().await.unwrap();
        let at = shared::Timestamp::now();
        let agent = NewAdmin {
            email: "a@b.co".to_owned(),
            password_hash: "-".to_owned(),
            first_name: None,
            last_name: None,
            at,
        };
        let client = NewClient {
            email: "c@b.co".to_owned(),
            password_hash: "-".to_owned(),
            first_name: "C".to_owned(),
            last_name: "C".to_owned(),
            company: None,
            phone: None,
            country: None,
            at,
        };
        store.create_admin(&agent).await.unwrap().unwrap();
        let client = store.register_client(&client).await.unwrap().unwrap();
        let opened = store.open_conversation(client.id, None, at).await.unwrap();
        let OpenOutcome::Created(record, _) = opened else {
            panic!("it is new")
        };
        let message = NewMessage {
            conversation: record.conversation.id,
            sender: client.id,
            role: client.role,
            content: "hello".to_owned(),
            client_message_id: None,
            at,
        };
        let batch = [message.clone(), message];
        let stored = store
            .append(&batch, &super::super::policy::admit)
            .await
            .unwrap();
        let socket = SocketId::new("s");
        let publications: Vec<_> = stored
            .results
            .iter()
            .map(|result| match result {
                Ok(Appended::New(logged)) => publication(&Arc::new(
                    events::envelope(logged, Some(&socket), 0).unwrap(),
                )),
                other => panic!("{other:?}"),
            })
            .collect();
        let bus = Arc::new(Forgetful {
            then,
            published: Mutex::default(),
        });
        let worker = Worker {
            store: store.clone(),
            bus: bus.clone(),
            is_failing: Arc::default(),
            took: histogram!(names::PUBLISH),
        };
        let outcomes = worker.publish(&publications).await.unwrap();
        store.close().await;
        std::fs::remove_dir_all(folder).unwrap();
        let published = std::mem::take(&mut *bus.published.lock());
        (outcomes, published)
    }

    /// A change of no importance.
    fn outgoing() -> Outgoing {
        Outgoing {
            envelopes: vec![Arc::new(Envelope {
                position: None,
                deliveries: Vec::new(),
                sent_at: 0,
                closes: None,
                trace: None,
            })],
            outbox: Vec::new(),
            traces: Vec::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_is_waited_for_unless_the_bus_is_away() {
        let (queue, mut commits) = mpsc::channel(QUEUE);
        let publisher = Publisher {
            queue,
            is_failing: Arc::new(AtomicBool::new(true)),
            commits: Arc::new(Gate::new("publishing", 2)),
        };
        // Writers go on storing, and what they store waits in the outbox.
        for _ in 0..3 {
            publisher.publish(outgoing()).await;
        }
        assert_eq!(commits.len(), 2);
        publisher.is_failing.store(false, Ordering::Relaxed);
        let third = publisher.publish(outgoing());
        tokio::pin!(third);
        let waiting = tokio::time::timeout(Duration::from_secs(1), &mut third).await;
        assert!(waiting.is_err());
        drop(commits.recv().await);
        third.await;
        assert_eq!(commits.len(), 2);
    }

    #[tokio::test]
    async fn all_of_a_forgotten_conversation_share_its_lot() {
        let (outcomes, _) = publish_two(PublishOutcome::Parked).await;
        // Taken for out, the second would be struck from the outbox, and lost if the bus forgets again.
        assert_eq!(outcomes, [PublishOutcome::Parked; 2]);
        let (outcomes, _) = publish_two(PublishOutcome::Published).await;
        assert_eq!(outcomes, [PublishOutcome::Published; 2]);
    }

    #[tokio::test]
    async fn what_goes_out_from_the_log_knows_where_it_came_from() {
        let (_, published) = publish_two(PublishOutcome::Published).await;
        let origins = published
            .iter()
            .map(|one| one.envelope.deliveries[0].origin.is_some());
        // The opening, which no socket asked for, and both messages.
        assert_eq!(origins.collect::<Vec<_>>(), [false, true, true]);
    }
}
