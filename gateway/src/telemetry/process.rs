//! Figures of the process and of its runtime, as they are at a moment.

use std::time::{Duration, Instant};

use metrics::gauge;
use metrics_process::Collector;
use tokio::runtime::{Handle, RuntimeMetrics};

use super::metrics as names;

/// What is looked at, and what it was the last time.
pub(super) struct Figures {
    process: Collector,
    runtime: RuntimeMetrics,
    since: Instant,
    busy: Duration,
}

impl Figures {
    /// Of this process, and of the runtime that this is called on.
    pub(super) fn new() -> Self {
        let runtime = Handle::current().metrics();
        Self {
            process: Collector::default(),
            since: Instant::now(),
            busy: busy(&runtime),
            runtime,
        }
    }

    /// Writes them down.
    #[expect(clippy::cast_precision_loss, reason = "they are far below 2^52")]
    pub(super) fn take(&mut self) {
        self.process.collect();
        let workers = self.runtime.num_workers() as f64;
        gauge!(names::RUNTIME_WORKERS).set(workers);
        gauge!(names::RUNTIME_TASKS).set(self.runtime.num_alive_tasks() as f64);
        gauge!(names::RUNTIME_QUEUE).set(self.runtime.global_queue_depth() as f64);
        let (now, busy) = (Instant::now(), busy(&self.runtime));
        let passed = now.duration_since(self.since).as_secs_f64() * workers;
        if passed > 0.0 {
            let worked = busy.saturating_sub(self.busy).as_secs_f64();
            gauge!(names::RUNTIME_BUSY).set((worked / passed).min(1.0));
        }
        (self.since, self.busy) = (now, busy);
    }
}

/// How long all workers together have had work so far.
fn busy(runtime: &RuntimeMetrics) -> Duration {
    (0..runtime.num_workers())
        .map(|worker| runtime.worker_total_busy_duration(worker))
        .sum()
}
