//! Group commit: messages that arrive while a transaction is in flight share the next one. No timer, so an idle system
//! adds no delay.
//!
//! Conversations are spread over a few writers; each has one transaction in flight at a time, so the messages of a
//! conversation are numbered in the order they were handed in. After a commit each sender is answered, then the changes
//! go to the publisher: an acknowledgement is never later than the delivery.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, counter, histogram};
use shared::{ErrorCode, SenderType, SocketId};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::events;
use super::publisher::{Outgoing, Publisher};
use crate::failure::Failure;
use crate::gate::{Full, Gate, Pass};
use crate::store::{Admission, AppendOutcome, Appended, NewMessage, SharedStore, StoreError};
use crate::telemetry::metrics as names;
use crate::telemetry::trace::Trace;

/// The most messages one transaction takes: beyond it a transaction gets longer, not cheaper for each message.
const MAX_BATCH: usize = 256;

/// How many messages may wait for one writer: eight transactions. On a sound database that is a tenth of a second, and on
/// one where a commit takes half a second still less than a sender waits; who comes after is told at once.
const QUEUE: usize = 2_048;

/// How many bytes of text may wait or be stored in all: the queues full of the longest messages would hold half a
/// gigabyte, full of usual ones a few megabytes.
const QUEUE_BYTES: usize = 32 << 20;

/// How long a message may wait for its transaction. What a database that was away has left lying longer is given back
/// rather than stored: its senders have asked again, or have gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers the sender of one message. Called on the writer's task: must not block.
pub(super) type Done = Box<dyn FnOnce(Result<Appended, Failure>) + Send>;

/// A message on its way to the log.
struct Job {
    message: NewMessage,
    waiting: Waiting,
    since: Instant,
}

/// Who waits for a message.
struct Waiting {
    /// The socket it came from, which hears `messageReceived`.
    origin: Option<SocketId>,
    done: Done,
    /// From taking the message in to answering its sender.
    trace: Trace,
    /// The message's place among those under way, and its bytes', until it is answered.
    _places: (Pass, Pass),
}

/// The writers' entrance. Dropping every clone lets the writers finish what they have and end.
#[derive(Clone)]
pub(super) struct Writers {
    queues: Arc<[mpsc::Sender<Job>]>,
    /// The messages under way, and their bytes.
    messages: Arc<Gate>,
    bytes: Arc<Gate>,
}

impl Writers {
    /// Starts `count` writers; their tasks end when the last `Writers` is dropped.
    pub(super) fn start(
        count: usize,
        store: &SharedStore,
        publisher: &Publisher,
        admit: &Arc<Admission>,
    ) -> (Self, Vec<tokio::task::JoinHandle<()>>) {
        let count = count.max(1);
        let (queues, tasks): (Vec<_>, Vec<_>) = (0..count)
            .map(|_| {
                let (queue, jobs) = mpsc::channel(QUEUE);
                let writer = Writer {
                    store: store.clone(),
                    publisher: publisher.clone(),
                    admit: admit.clone(),
                    jobs,
                    measures: Measures::new(),
                };
                (queue, tokio::spawn(writer.run()))
            })
            .unzip();
        (
            Self {
                queues: queues.into(),
                // What is in a queue, and what its writer has taken out.
                messages: Arc::new(Gate::new("messages", count * (QUEUE + MAX_BATCH))),
                bytes: Arc::new(Gate::new("message_bytes", QUEUE_BYTES)),
            },
            tasks,
        )
    }

    /// Hands a message in; messages handed in one after another to one conversation are stored in that order.
    /// Never waits: where too many do, `done` is called at once.
    pub(super) fn submit(&self, message: NewMessage, origin: Option<SocketId>, done: Done) {
        let trace = Trace::begin(
            "message",
            &[
                ("chat.conversation", message.conversation.get()),
                ("chat.sender", message.sender.get()),
            ],
        );
        let places = match self.places(&message) {
            Ok(places) => places,
            Err(full) => {
                trace.fail(ErrorCode::ServiceUnavailable.as_str());
                return done(Err(full.into()));
            }
        };
        let shard =
            usize::try_from(message.conversation.get()).unwrap_or_default() % self.queues.len();
        let job = Job {
            message,
            waiting: Waiting {
                origin,
                done,
                trace,
                _places: places,
            },
            since: Instant::now(),
        };
        let (job, failure) = match self.queues[shard].try_send(job) {
            Ok(()) => return,
            Err(TrySendError::Full(job)) => (job, self.messages.refuse().into()),
            Err(TrySendError::Closed(job)) => (job, going()),
        };
        job.waiting
            .trace
            .fail(ErrorCode::ServiceUnavailable.as_str());
        (job.waiting.done)(Err(failure));
    }

    fn places(&self, message: &NewMessage) -> Result<(Pass, Pass), Full> {
        let bytes = u32::try_from(message.content.len()).unwrap_or(u32::MAX);
        Ok((self.messages.enter()?, self.bytes.enter_as(bytes)?))
    }
}

/// The database has left a message lying too long. Why is written down with the batch before it.
fn overdue() -> Failure {
    Failure {
        is_told: true,
        ..Failure::unavailable("the message waited too long for its transaction")
    }
}

/// A writer is gone: its node is going.
fn going() -> Failure {
    Failure::new(ErrorCode::ServiceUnavailable, "this node is going away")
}

/// Tells traces of a transaction that is over, well or not.
fn committed(waiting: &[Waiting], begun: Instant) {
    let batch = i64::try_from(waiting.len()).unwrap_or(i64::MAX);
    for waiting in waiting {
        let batch = [("chat.batch", batch)];
        waiting.trace.stage("message.commit", begun, &batch);
    }
}

struct Writer {
    store: SharedStore,
    publisher: Publisher,
    admit: Arc<Admission>,
    jobs: mpsc::Receiver<Job>,
    measures: Measures,
}

/// What is counted of every message.
struct Measures {
    queue: Histogram,
    commit: Histogram,
    batch: Histogram,
    by_clients: Counter,
    by_agents: Counter,
}

impl Measures {
    fn new() -> Self {
        let stored = |side: SenderType| counter!(names::MESSAGES, "sender_type" => side.as_str());
        Self {
            queue: histogram!(names::QUEUE_WAIT),
            commit: histogram!(names::COMMIT),
            batch: histogram!(names::COMMIT_BATCH_SIZE),
            by_clients: stored(SenderType::Client),
            by_agents: stored(SenderType::Agency),
        }
    }

    fn stored(&self, side: SenderType) {
        match side {
            SenderType::Client => self.by_clients.increment(1),
            SenderType::Agency => self.by_agents.increment(1),
        }
    }
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
        let (mut messages, mut waiting) = (
            Vec::with_capacity(batch.len()),
            Vec::with_capacity(batch.len()),
        );
        for job in batch {
            let waited = job.since.elapsed();
            self.measures.queue.record(waited);
            job.waiting.trace.stage("message.queue", job.since, &[]);
            if waited > PATIENCE {
                job.waiting
                    .trace
                    .fail(ErrorCode::ServiceUnavailable.as_str());
                (job.waiting.done)(Err(overdue()));
            } else {
                messages.push(job.message);
                waiting.push(job.waiting);
            }
        }
        if messages.is_empty() {
            return;
        }
        let begun = Instant::now();
        let outcome = self.append(&messages).await;
        committed(&waiting, begun);
        match outcome {
            Err(StoreError::Internal(_) | StoreError::Unstorable(_)) if messages.len() > 1 => {
                for (message, waiting) in messages.into_iter().zip(waiting) {
                    let (message, waiting) = ([message], vec![waiting]);
                    let begun = Instant::now();
                    let outcome = self.append(&message).await;
                    committed(&waiting, begun);
                    self.finish(&message, waiting, outcome).await;
                }
            }
            outcome => self.finish(&messages, waiting, outcome).await,
        }
    }

    async fn append(&self, messages: &[NewMessage]) -> Result<AppendOutcome, StoreError> {
        let begun = Instant::now();
        let outcome = self.store.append(messages, &*self.admit).await;
        self.measures.commit.record(begun.elapsed());
        #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
        self.measures.batch.record(messages.len() as f64);
        outcome
    }

    /// Answers every sender, then hands the changes on.
    async fn finish(
        &self,
        messages: &[NewMessage],
        waiting: Vec<Waiting>,
        outcome: Result<AppendOutcome, StoreError>,
    ) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                let failure = Failure::from(error);
                for waiting in waiting {
                    waiting.trace.fail(failure.code.as_str());
                    (waiting.done)(Err(failure.clone()));
                }
                return;
            }
        };
        let mut outgoing = Outgoing {
            envelopes: Vec::with_capacity(messages.len()),
            outbox: outcome.outbox,
            traces: Vec::new(),
        };
        for ((message, waiting), result) in messages.iter().zip(waiting).zip(outcome.results) {
            if let Ok(Appended::New(logged)) = &result {
                self.measures.stored(message.role.side());
                match events::envelope(logged, waiting.origin.as_ref(), message.at.unix_millis()) {
                    Ok(mut envelope) => {
                        let publish = waiting.trace.outgoing("message.publish");
                        envelope.trace = publish.traceparent();
                        outgoing.envelopes.push(Arc::new(envelope));
                        if publish.is_on() {
                            outgoing.traces.push(publish);
                        }
                    }
                    Err(failure) => {
                        failure.log();
                        outgoing.outbox.clear();
                    }
                }
            }
            let result = result.map_err(Failure::from);
            if let Err(failure) = &result {
                waiting.trace.fail(failure.code.as_str());
            }
            (waiting.done)(result);
        }
        self.publisher.publish(outgoing).await;
    }
}
