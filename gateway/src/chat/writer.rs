//! Group commit: messages that arrive while a transaction is in flight share the next one. No timer, so an idle system
//! adds no delay.
//!
//! Conversations are spread over a few writers; each has one transaction in flight at a time, so the messages of a
//! conversation are numbered in the order they were handed in. After a commit each sender is answered, then the changes
//! go to the publisher: an acknowledgement is never later than the delivery.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use shared::{ErrorCode, SocketId};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;

use super::events;
use super::publisher::{Outgoing, Publisher};
use crate::failure::Failure;
use crate::store::{Admission, AppendOutcome, Appended, NewMessage, SharedStore, StoreError};
use crate::telemetry::metrics as names;

/// The most messages one transaction takes: beyond it a transaction gets longer, not cheaper for each message.
const MAX_BATCH: usize = 256;

/// How many messages may wait for one writer; a full queue slows its senders down.
const QUEUE: usize = 2_048;

/// How long a message may wait for a place in the queue before its sender is told to come back.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers the sender of one message. Called on the writer's task: must not block.
pub(super) type Done = Box<dyn FnOnce(Result<Appended, Failure>) + Send>;

/// A message on its way to the log.
pub(super) struct Job {
    pub(super) message: NewMessage,
    /// The socket it came from, which hears `messageReceived`.
    pub(super) origin: Option<SocketId>,
    pub(super) done: Done,
}

/// The writers' entrance. Dropping every clone lets the writers finish what they have and end.
#[derive(Clone)]
pub(super) struct Writers {
    queues: Arc<[mpsc::Sender<Job>]>,
}

impl Writers {
    /// Starts `count` writers; their tasks end when the last `Writers` is dropped.
    pub(super) fn start(
        count: usize,
        store: &SharedStore,
        publisher: &Publisher,
        admit: &Arc<Admission>,
    ) -> (Self, Vec<tokio::task::JoinHandle<()>>) {
        let (queues, tasks): (Vec<_>, Vec<_>) = (0..count.max(1))
            .map(|_| {
                let (queue, jobs) = mpsc::channel(QUEUE);
                let writer = Writer {
                    store: store.clone(),
                    publisher: publisher.clone(),
                    admit: admit.clone(),
                    jobs,
                };
                (queue, tokio::spawn(writer.run()))
            })
            .unzip();
        (
            Self {
                queues: queues.into(),
            },
            tasks,
        )
    }

    /// Hands a message in; messages handed in one after another to one conversation are stored in that order.
    /// Waits, in bounded time, while the queue is full.
    pub(super) async fn submit(&self, job: Job) {
        let shard =
            usize::try_from(job.message.conversation.get()).unwrap_or_default() % self.queues.len();
        let Err(refused) = self.queues[shard].send_timeout(job, QUEUE_TIMEOUT).await else {
            return;
        };
        let (SendTimeoutError::Timeout(job) | SendTimeoutError::Closed(job)) = refused;
        (job.done)(Err(Failure::new(
            ErrorCode::ServiceUnavailable,
            "too many messages wait to be stored",
        )));
    }
}

struct Writer {
    store: SharedStore,
    publisher: Publisher,
    admit: Arc<Admission>,
    jobs: mpsc::Receiver<Job>,
}

impl Writer {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        while self.jobs.recv_many(&mut batch, MAX_BATCH).await > 0 {
            self.commit(std::mem::take(&mut batch)).await;
        }
    }

    /// Stores a batch. One that the database refuses as a whole is tried message by message, so that one that can't be
    /// stored does not take its neighbours with it.
    async fn commit(&self, batch: Vec<Job>) {
        let (messages, waiting): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .map(|job| (job.message, (job.origin, job.done)))
            .unzip();
        match self.append(&messages).await {
            Err(StoreError::Internal(_) | StoreError::Unstorable(_)) if messages.len() > 1 => {
                for (message, waiting) in messages.into_iter().zip(waiting) {
                    let message = [message];
                    let outcome = self.append(&message).await;
                    self.finish(&message, vec![waiting], outcome).await;
                }
            }
            outcome => self.finish(&messages, waiting, outcome).await,
        }
    }

    async fn append(&self, messages: &[NewMessage]) -> Result<AppendOutcome, StoreError> {
        let begun = Instant::now();
        let outcome = self.store.append(messages, &*self.admit).await;
        histogram!(names::COMMIT).record(begun.elapsed().as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
        histogram!(names::COMMIT_BATCH_SIZE).record(messages.len() as f64);
        outcome
    }

    /// Answers every sender, then hands the changes on.
    async fn finish(
        &self,
        messages: &[NewMessage],
        waiting: Vec<(Option<SocketId>, Done)>,
        outcome: Result<AppendOutcome, StoreError>,
    ) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                let failure = Failure::from(error);
                for (_, done) in waiting {
                    done(Err(failure.clone()));
                }
                return;
            }
        };
        let mut outgoing = Outgoing {
            envelopes: Vec::with_capacity(messages.len()),
            outbox: outcome.outbox,
        };
        for ((message, (origin, done)), result) in messages.iter().zip(waiting).zip(outcome.results)
        {
            if let Ok(Appended::New(logged)) = &result {
                counter!(names::MESSAGES, "sender_type" => message.role.side().as_str())
                    .increment(1);
                match events::envelope(logged, origin.as_ref(), message.at.unix_millis()) {
                    Ok(envelope) => outgoing.envelopes.push(Arc::new(envelope)),
                    Err(failure) => {
                        failure.log();
                        outgoing.outbox.clear();
                    }
                }
            }
            done(result.map_err(Failure::from));
        }
        self.publisher.publish(outgoing).await;
    }
}
