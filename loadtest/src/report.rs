//! What a run comes to: as JSON, and as lines for people.

use std::fmt;

use serde::Serialize;

use crate::latency::Percentiles;
use crate::ledger::Counts;
use crate::net::Dialect;
use crate::scenario::Sample;
use crate::world::Stored;

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// How it spoke.
    pub dialect: Dialect,
    /// How many servers it spoke to.
    pub nodes: usize,
    /// What was set, in words.
    pub setting: String,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Of `fanout`, `typing`, `chat`, `soak`.
    Traffic(Box<Traffic>),
    /// Of `idle`.
    Idle(Idle),
    /// Of `storm`.
    Storm(Storm),
}

/// What some processes used in a window.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Use {
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
    /// The same as a share of one core.
    pub busy: f64,
    /// The most resident memory seen, in bytes.
    pub rss_bytes: u64,
}

/// Messages sent and heard. Rates, times and use are of the window; counts of the whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Traffic {
    /// How long the window was.
    pub seconds: f64,
    /// Messages that came back to their senders (open loop: that were sent), a second.
    pub messages_per_second: f64,
    /// Messages heard, each listener counted, a second.
    pub deliveries_per_second: f64,
    /// Send to another's `chatMessage` or `typingStatus`.
    pub heard_ms: Percentiles,
    /// Send to the sender's `messageReceived`.
    pub answered_ms: Percentiles,
    /// What a million deliveries cost.
    pub server_cpu_seconds_per_million_deliveries: f64,
    /// What a million messages cost.
    pub server_cpu_seconds_per_million_messages: f64,
    /// All servers together.
    pub servers: Use,
    /// This process: under one core's whole time it did not hold the servers up.
    pub generator: Use,
    /// Messages sent.
    pub sent: u64,
    /// What was heard of them.
    #[serde(flatten)]
    pub counts: Counts,
    /// Messages whose senders waited 15 s in vain and went on.
    pub gave_up: u64,
    /// `error` events.
    pub errors: u64,
    /// The first that went wrong.
    pub first_error: Option<String>,
    /// Connections that the server ended.
    pub connections_lost: u64,
    /// What the database shows, where it could be asked.
    pub stored: Option<Stored>,
    /// Of `soak`: the servers' use over time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
}

/// Connections that do nothing.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    /// How many.
    pub connections: usize,
    /// Resident memory of the servers without them, in bytes.
    pub rss_before: u64,
    /// With them.
    pub rss_after: u64,
    /// The difference for each.
    pub bytes_per_connection: f64,
    /// How long their idling was watched.
    pub seconds: f64,
    /// Milliseconds of the servers' CPU time a second.
    pub cpu_ms_per_second: f64,
    /// The same for 10,000 connections.
    pub cpu_ms_per_second_for_10_000: f64,
    /// Connections that the server ended.
    pub connections_lost: u64,
}

/// Connections that all come at once, in waves.
#[derive(Debug, Clone, Serialize)]
pub struct Storm {
    /// Connections of a wave.
    pub connections: usize,
    /// How many are under way at a time.
    pub at_once: usize,
    /// Of the wave that is neither fastest nor slowest: connections a second that were let in.
    pub connects_per_second: f64,
    /// Every wave after the first, which warms up.
    pub waves: Vec<f64>,
    /// Connect to let in.
    pub opened_ms: Percentiles,
    /// Milliseconds of the servers' CPU time for 1,000 connections.
    pub server_cpu_ms_per_thousand: f64,
    /// A share of one core.
    pub generator_busy: f64,
    /// Connections that were refused or broke.
    pub failed: u64,
}

/// A cost for each million; 0 where there was nothing.
pub fn per_million(cost: f64, count: u64) -> f64 {
    if count == 0 {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    let count = count as f64;
    cost * 1e6 / count
}

impl Report {
    /// The traffic, where the scenario had any.
    pub fn traffic(&self) -> Option<&Traffic> {
        match &self.outcome {
            Outcome::Traffic(traffic) => Some(traffic),
            _ => None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} ({}), {} node{}",
            self.scenario,
            self.setting,
            self.nodes,
            if self.nodes == 1 { "" } else { "s" }
        )?;
        match &self.outcome {
            Outcome::Traffic(traffic) => traffic.fmt(f),
            Outcome::Idle(idle) => idle.fmt(f),
            Outcome::Storm(storm) => storm.fmt(f),
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: fmt::Arguments<'_>) -> fmt::Result {
    writeln!(f, "  {name:<28} {value}")
}

fn used(f: &mut fmt::Formatter<'_>, name: &str, usage: &Use) -> fmt::Result {
    line(
        f,
        name,
        format_args!(
            "{:.2} CPU s ({:.0}% of a core), {} MiB",
            usage.cpu_seconds,
            usage.busy * 100.0,
            usage.rss_bytes >> 20
        ),
    )
}

fn times(f: &mut fmt::Formatter<'_>, name: &str, p: &Percentiles) -> fmt::Result {
    if p.count == 0 {
        return Ok(());
    }
    line(
        f,
        name,
        format_args!(
            "p50 {:.2}  p90 {:.2}  p99 {:.2}  p99.9 {:.2}  max {:.2} ms",
            p.p50, p.p90, p.p99, p.p999, p.max
        ),
    )
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "window", format_args!("{:.1} s", self.seconds))?;
        line(
            f,
            "messages",
            format_args!("{:.0}/s", self.messages_per_second),
        )?;
        line(
            f,
            "deliveries",
            format_args!("{:.0}/s", self.deliveries_per_second),
        )?;
        times(f, "send to heard", &self.heard_ms)?;
        times(f, "send to answered", &self.answered_ms)?;
        used(f, "servers", &self.servers)?;
        let cost = self.server_cpu_seconds_per_million_deliveries;
        line(
            f,
            "  for a million deliveries",
            format_args!("{cost:.3} CPU s"),
        )?;
        let cost = self.server_cpu_seconds_per_million_messages;
        line(
            f,
            "  for a million messages",
            format_args!("{cost:.1} CPU s"),
        )?;
        used(f, "generator", &self.generator)?;
        let counts = &self.counts;
        line(
            f,
            "whole run",
            format_args!(
                "{} sent, {} delivered, {} lost, {} doubled, {} out of order, {} stray",
                self.sent,
                counts.delivered,
                counts.lost,
                counts.doubled,
                counts.out_of_order,
                counts.stray
            ),
        )?;
        if let (Some(first), Some(last)) = (self.samples.first(), self.samples.last()) {
            line(
                f,
                "memory over time",
                format_args!(
                    "{} MiB at {:.0} s, {} MiB at {:.0} s",
                    first.rss_bytes >> 20,
                    first.at,
                    last.rss_bytes >> 20,
                    last.at
                ),
            )?;
        }
        if let Some(stored) = &self.stored {
            line(
                f,
                "database",
                format_args!(
                    "{} messages, {} stale lastMessage",
                    stored.messages, stored.stale_last_messages
                ),
            )?;
        }
        if self.gave_up + self.errors + self.connections_lost > 0 {
            line(
                f,
                "went wrong",
                format_args!(
                    "{} given up, {} errors, {} connections lost; first: {}",
                    self.gave_up,
                    self.errors,
                    self.connections_lost,
                    self.first_error.as_deref().unwrap_or("-")
                ),
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "connections", format_args!("{}", self.connections))?;
        line(
            f,
            "memory",
            format_args!(
                "{:.0} bytes each ({} to {} MiB)",
                self.bytes_per_connection,
                self.rss_before >> 20,
                self.rss_after >> 20
            ),
        )?;
        line(
            f,
            "CPU",
            format_args!(
                "{:.1} ms/s, {:.1} for 10,000 connections, over {:.0} s",
                self.cpu_ms_per_second, self.cpu_ms_per_second_for_10_000, self.seconds
            ),
        )?;
        line(
            f,
            "connections lost",
            format_args!("{}", self.connections_lost),
        )
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(
            f,
            "connections",
            format_args!("{}, {} at once", self.connections, self.at_once),
        )?;
        line(
            f,
            "let in",
            format_args!(
                "{:.0}/s (waves: {:.0?})",
                self.connects_per_second, self.waves
            ),
        )?;
        times(f, "connect to let in", &self.opened_ms)?;
        line(
            f,
            "servers",
            format_args!("{:.1} CPU ms for 1,000", self.server_cpu_ms_per_thousand),
        )?;
        line(
            f,
            "generator",
            format_args!("{:.0}% of a core", self.generator_busy * 100.0),
        )?;
        line(f, "failed", format_args!("{}", self.failed))
    }
}
