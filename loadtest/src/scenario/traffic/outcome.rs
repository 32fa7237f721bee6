//! What a run comes to: while it goes on, as a line; at its end, as a report.

use crate::ledger::Counts;
use crate::machine::{self, Usage};
use crate::report::{self, per_million};

use super::{Pace, Phase, SECOND, Traffic};

/// Counters that only rise.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) sent: u64,
    pub(super) completed: u64,
    pub(super) deliveries: u64,
}

/// A moment's counters and what the processes had used by then.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark {
    pub(super) at: u64,
    pub(super) tally: Tally,
    pub(super) servers: Usage,
    pub(super) own: Usage,
}

impl Traffic {
    pub(super) fn mark(&self, at: u64) -> Mark {
        Mark {
            at,
            tally: self.tally,
            servers: machine::usage(&self.pids),
            own: machine::own_usage(),
        }
    }

    pub(super) fn say(&mut self, now: u64) {
        let mark = self.mark(now);
        self.peak_rss = self.peak_rss.max(mark.servers.rss_bytes);
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let seconds = (now - self.looked.at) as f64 / SECOND as f64;
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let rate = |now: u64, before: u64| (now - before) as f64 / seconds;
        let before = &self.looked;
        let recently = self.recently.percentiles();
        let phase = match self.phase {
            Phase::WarmUp => "warm-up",
            Phase::Window => "window",
            Phase::Drain => "drain",
        };
        self.progress.say(&format!(
            "{phase}: {:.0} messages/s, {:.0} deliveries/s, p50 {:.2} p99 {:.2} ms, servers {:.0}% {} MiB, generator {:.0}%",
            rate(mark.tally.sent, before.tally.sent),
            rate(mark.tally.deliveries, before.tally.deliveries),
            recently.p50,
            recently.p99,
            100.0 * (mark.servers.cpu_seconds - before.servers.cpu_seconds) / seconds,
            mark.servers.rss_bytes >> 20,
            100.0 * (mark.own.cpu_seconds - before.own.cpu_seconds) / seconds,
        ));
        self.recently.clear();
        self.looked = mark;
    }

    /// What came of it.
    pub(in crate::scenario) fn report(&self) -> report::Traffic {
        let sent: Vec<_> = self.streams.iter().map(|stream| stream.sent).collect();
        let refused: Vec<_> = self.streams.iter().map(|stream| stream.refused).collect();
        let counts: Counts = self.ledger.close(&sent, &refused);
        let nothing = Mark::default();
        let (begin, end) = match self.marks.as_slice() {
            [begin, end] => (begin, end),
            _ => (&nothing, &nothing),
        };
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let seconds = (end.at - begin.at) as f64 / SECOND as f64;
        let deliveries = end.tally.deliveries - begin.tally.deliveries;
        let messages = match self.pace {
            // What is not waited for is counted by the way in.
            Pace::Open(_) => end.tally.sent - begin.tally.sent,
            _ => end.tally.completed - begin.tally.completed,
        };
        let cpu = end.servers.cpu_seconds - begin.servers.cpu_seconds;
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let per_second = |count: u64| count as f64 / seconds;
        report::Traffic {
            seconds,
            messages_per_second: per_second(messages),
            deliveries_per_second: per_second(deliveries),
            heard_ms: self.heard.percentiles(),
            answered_ms: self.answered.percentiles(),
            server_cpu_seconds_per_million_deliveries: per_million(cpu, deliveries),
            server_cpu_seconds_per_million_messages: per_million(cpu, messages),
            servers: report::Use {
                cpu_seconds: cpu,
                busy: cpu / seconds,
                rss_bytes: self.peak_rss.max(end.servers.rss_bytes),
            },
            generator: report::Use {
                cpu_seconds: end.own.cpu_seconds - begin.own.cpu_seconds,
                busy: (end.own.cpu_seconds - begin.own.cpu_seconds) / seconds,
                rss_bytes: end.own.rss_bytes,
            },
            sent: self.tally.sent,
            counts,
            gave_up: self.gave_up,
            errors: self.errors,
            first_error: self.first_error.clone(),
            connections_lost: self.gone,
            stored: None,
            samples: Vec::new(),
        }
    }
}
