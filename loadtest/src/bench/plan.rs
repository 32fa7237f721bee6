//! What is measured: the runs, each played with every system, and the rows of the table, each a figure out of them with
//! what it is to reach.

use std::collections::BTreeMap;
use std::time::Duration;

use super::systems::System;
use crate::cli::TEXT_BYTES;
use crate::limits::{Inserts, Writes};
use crate::report::{Outcome, Report, Traffic};
use crate::scenario::{Chat, Fanout, Idle, Load, Storm, Target, Timing};
use crate::world::Fault;

/// How long runs take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) timing: Timing,
    /// How long idle connections are watched.
    pub(super) idle: Duration,
}

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Run {
    Fanout,
    FanoutMany,
    FanoutOne,
    Typing,
    Chat,
    ChatTwoNodes,
    Open,
    OpenTwoNodes,
    Idle,
    Storm,
}

impl Run {
    pub(super) const ALL: [Self; 10] = [
        Self::Fanout,
        Self::FanoutMany,
        Self::FanoutOne,
        Self::Typing,
        Self::Chat,
        Self::ChatTwoNodes,
        Self::Open,
        Self::OpenTwoNodes,
        Self::Idle,
        Self::Storm,
    ];

    /// As it is asked for.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Fanout => "fanout",
            Self::FanoutMany => "fanout-50",
            Self::FanoutOne => "fanout-one",
            Self::Typing => "typing",
            Self::Chat => "chat",
            Self::ChatTwoNodes => "chat-2",
            Self::Open => "open",
            Self::OpenTwoNodes => "open-2",
            Self::Idle => "idle",
            Self::Storm => "storm",
        }
    }

    /// How many nodes it needs.
    pub(super) const fn nodes(self) -> usize {
        match self {
            Self::ChatTwoNodes | Self::OpenTwoNodes => 2,
            _ => 1,
        }
    }

    /// Plays it.
    pub(super) fn play(self, target: &Target, times: Times) -> Result<Report, Fault> {
        let fanout = Fanout {
            sockets: 1_000,
            senders: 10,
            in_flight: Some(4),
            text_bytes: Some(TEXT_BYTES),
        };
        let chat = Chat {
            conversations: 500,
            load: Load::InFlight(8),
            text_bytes: TEXT_BYTES,
        };
        match self {
            Self::Fanout => fanout.run(target, times.timing),
            Self::FanoutMany => Fanout {
                senders: 50,
                ..fanout
            }
            .run(target, times.timing),
            Self::FanoutOne => Fanout {
                senders: 1,
                in_flight: None,
                ..fanout
            }
            .run(target, times.timing),
            Self::Typing => Fanout {
                senders: 1,
                in_flight: None,
                text_bytes: None,
                ..fanout
            }
            .run(target, times.timing),
            Self::Chat | Self::ChatTwoNodes => chat.run(target, times.timing),
            Self::Open | Self::OpenTwoNodes => Chat {
                load: Load::PerSecond(300.0),
                ..chat
            }
            .run(target, times.timing),
            Self::Idle => Idle {
                connections: 10_000,
                first: 0,
                settle: times.timing.warm_up,
                watch: times.idle,
            }
            .run(target),
            Self::Storm => Storm {
                connections: 10_000,
                at_once: 256,
                waves: 4,
            }
            .run(target),
        }
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(super) struct Results {
    pub(super) runs: BTreeMap<(System, Run), Result<Report, String>>,
    pub(super) writes: Vec<Writes>,
    pub(super) inserts: Vec<Inserts>,
    /// The most that other programs took of a core during a run.
    pub(super) noise: f64,
    /// Bytes of heap for a bare `ws` connection.
    pub(super) bare_ws_bytes: Option<f64>,
}

/// A figure of the table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    /// What is compared with the goal, one for one.
    pub(super) values: Vec<f64>,
    /// As it is shown.
    pub(super) text: String,
}

/// One row of the table.
pub(super) struct Row {
    /// Also the name of its chart's file.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What the values are to reach.
    pub(super) goal: &'static [f64],
    pub(super) goal_text: &'static str,
    pub(super) less_is_better: bool,
    figure: fn(&Results, System) -> Option<Cell>,
    limit: fn(&Results) -> Option<Cell>,
}

impl Row {
    /// A system's figure.
    pub(super) fn figure(&self, results: &Results, system: System) -> Option<Cell> {
        (self.figure)(results, system)
    }

    /// What the machine gives.
    pub(super) fn limit(&self, results: &Results) -> Option<Cell> {
        (self.limit)(results)
    }

    /// Whether a figure reaches the goal.
    pub(super) fn is_reached(&self, cell: &Cell) -> bool {
        cell.values.iter().zip(self.goal).all(|(value, goal)| {
            if self.less_is_better {
                value <= goal
            } else {
                value >= goal
            }
        })
    }
}

/// The table.
pub(super) const ROWS: &[Row] = &[
    Row {
        id: "fanout",
        title: "fan-out to 1,000 sockets under load (10 senders, 4 in flight each), server CPU s per 1M deliveries",
        goal: &[0.5, 0.0],
        goal_text: "0.5 or less, none lost at any load",
        less_is_better: true,
        figure: |results, system| {
            let traffic = results.traffic(system, Run::Fanout)?;
            let cost = traffic.server_cpu_seconds_per_million_deliveries;
            let mut lost = traffic.counts.lost;
            let mut text = format!("{cost:.2}{}", faults(traffic));
            if let Some(many) = results.traffic(system, Run::FanoutMany) {
                lost += many.counts.lost;
                let all = many.counts.lost + many.counts.delivered;
                if many.counts.lost > 0 {
                    text += &format!("; at 50 senders {} of {all} lost", many.counts.lost);
                }
            }
            Some(Cell {
                #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
                values: vec![cost, lost as f64],
                text,
            })
        },
        limit: |results| {
            let of = |frames| results.write_cost(frames);
            let (eight, many) = (of(8)?, of(32)?);
            Some(Cell {
                values: vec![eight],
                text: format!("{eight:.2} (8 frames a write), {many:.2} (32)"),
            })
        },
    },
    Row {
        id: "fanout-one",
        title: "fan-out, one event at a time (nothing to coalesce), same",
        goal: &[2.7],
        goal_text: "2.7 or less",
        less_is_better: true,
        figure: |results, system| {
            let traffic = results.traffic(system, Run::FanoutOne)?;
            let cost = traffic.server_cpu_seconds_per_million_deliveries;
            let mut text = format!("{cost:.2}{}", faults(traffic));
            if let Some(typing) = results.traffic(system, Run::Typing) {
                let cost = typing.server_cpu_seconds_per_million_deliveries;
                text += &format!(" (signs of writing: {cost:.2})");
            }
            Some(Cell {
                values: vec![cost],
                text,
            })
        },
        limit: |results| {
            let cost = results.write_cost(1)?;
            Some(Cell {
                values: vec![cost],
                text: format!("{cost:.2} (one write a frame)"),
            })
        },
    },
    Row {
        id: "chat",
        title: "durable chat messages/s, 500 conversations, 10 agents, 12 deliveries each, 8 in flight each",
        goal: &[20_000.0, 0.0],
        goal_text: "20,000 or more, in order",
        less_is_better: false,
        figure: |results, system| rate(results.traffic(system, Run::Chat)?),
        limit: |results| {
            let (batched, single) = (results.insert_rate(100)?, results.insert_rate(1)?);
            Some(Cell {
                values: vec![batched],
                text: format!(
                    "{} (transaction of 100 inserts + 100 upserts), {} (one each)",
                    thousands(batched),
                    thousands(single)
                ),
            })
        },
    },
    Row {
        id: "chat-2",
        title: "the same over two nodes and Redis, both on that one core",
        goal: &[15_000.0, 0.0],
        goal_text: "15,000 or more, none lost, in order",
        less_is_better: false,
        figure: |results, system| rate(results.traffic(system, Run::ChatTwoNodes)?),
        limit: |_| None,
    },
    Row {
        id: "chat-cpu",
        title: "server CPU s per 1M messages (12 deliveries each)",
        goal: &[40.0],
        goal_text: "40 or less",
        less_is_better: true,
        figure: |results, system| {
            let traffic = results.traffic(system, Run::Chat)?;
            let cost = traffic.server_cpu_seconds_per_million_messages;
            Some(Cell {
                values: vec![cost],
                text: format!("{cost:.0}"),
            })
        },
        limit: |_| None,
    },
    Row {
        id: "open",
        title: "open loop at 300 messages/s: send to receiver p50 / p99, ms",
        goal: &[2.5, 1.2],
        goal_text: "1.2 / 2.5 or less, two nodes included",
        less_is_better: true,
        figure: |results, system| {
            let one = results.traffic(system, Run::Open)?.heard_ms;
            let mut text = format!("{:.1} / {:.1}", one.p50, one.p99);
            let mut values = vec![one.p99, one.p50];
            if let Some(two) = results.traffic(system, Run::OpenTwoNodes) {
                let two = two.heard_ms;
                text += &format!("; two nodes {:.1} / {:.1}", two.p50, two.p99);
                values = vec![one.p99.max(two.p99), one.p50.max(two.p50)];
            }
            Some(Cell { values, text })
        },
        limit: |_| None,
    },
    Row {
        id: "idle-memory",
        title: "memory for an idle authenticated connection, bytes of RSS",
        goal: &[6_000.0],
        goal_text: "6,000 or less",
        less_is_better: true,
        figure: |results, system| {
            let Outcome::Idle(idle) = &results.report(system, Run::Idle)?.outcome else {
                return None;
            };
            Some(Cell {
                values: vec![idle.bytes_per_connection],
                text: thousands(idle.bytes_per_connection),
            })
        },
        limit: |results| {
            let bytes = results.bare_ws_bytes?;
            Some(Cell {
                values: vec![bytes],
                text: format!("{} (bare `ws` heap)", thousands(bytes)),
            })
        },
    },
    Row {
        id: "idle-cpu",
        title: "idle CPU, ms/s for 10,000 connections",
        goal: &[8.0],
        goal_text: "8 or less",
        less_is_better: true,
        figure: |results, system| {
            let Outcome::Idle(idle) = &results.report(system, Run::Idle)?.outcome else {
                return None;
            };
            let cost = idle.cpu_ms_per_second_for_10_000;
            Some(Cell {
                values: vec![cost],
                text: format!("{cost:.1}"),
            })
        },
        limit: |_| None,
    },
    Row {
        id: "storm",
        title: "connection storm, authenticated connects/s on one core",
        goal: &[20_000.0],
        goal_text: "20,000 or more",
        less_is_better: false,
        figure: |results, system| {
            let Outcome::Storm(storm) = &results.report(system, Run::Storm)?.outcome else {
                return None;
            };
            let mut text = thousands(storm.connects_per_second);
            if storm.failed > 0 {
                text += &format!(", {} failed", storm.failed);
            }
            Some(Cell {
                values: vec![storm.connects_per_second],
                text,
            })
        },
        limit: |_| None,
    },
];

impl Results {
    /// A run's report, where it was played and came to its end.
    pub(super) fn report(&self, system: System, run: Run) -> Option<&Report> {
        self.runs.get(&(system, run))?.as_ref().ok()
    }

    fn traffic(&self, system: System, run: Run) -> Option<&Traffic> {
        self.report(system, run)?.traffic()
    }

    fn write_cost(&self, frames: usize) -> Option<f64> {
        let writes = self.writes.iter().find(|w| w.frames_per_write == frames)?;
        Some(writes.cpu_seconds_per_million)
    }

    fn insert_rate(&self, batch: u32) -> Option<f64> {
        let inserts = self.inserts.iter().find(|i| i.batch == batch)?;
        Some(inserts.per_second)
    }
}

/// Messages a second; the second value is below nought, and so misses any goal, where something went wrong.
fn rate(traffic: &Traffic) -> Option<Cell> {
    let faults = faults(traffic);
    let verdict = if faults.is_empty() { 0.0 } else { -1.0 };
    Some(Cell {
        values: vec![traffic.messages_per_second, verdict],
        text: thousands(traffic.messages_per_second) + &faults,
    })
}

/// What went wrong, to be put behind a figure; empty where nothing did.
pub(super) fn faults(traffic: &Traffic) -> String {
    let counts = traffic.counts;
    let stale = traffic
        .stored
        .map_or(0, |stored| stored.stale_last_messages);
    [
        (counts.lost, "lost"),
        (counts.doubled, "doubled"),
        (counts.out_of_order, "out of order"),
        (counts.stray, "stray"),
        (traffic.errors, "errors"),
        (stale, "stale `lastMessage`"),
    ]
    .iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| {
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let count = thousands(*count as f64);
        format!(", {count} {what}")
    })
    .collect()
}

/// A whole number with commas.
pub(super) fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        let shown = [0.4, 999.0, 1_000.0, 1_234_567.0].map(thousands);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_goal_is_reached_only_with_all_its_values() {
        let row = |id| ROWS.iter().find(|row| row.id == id).unwrap();
        let cell = |values: &[f64]| Cell {
            values: values.to_vec(),
            text: String::new(),
        };
        assert!(row("fanout").is_reached(&cell(&[0.5, 0.0])));
        assert!(!row("fanout").is_reached(&cell(&[0.4, 1.0])));
        assert!(row("chat").is_reached(&cell(&[20_000.0, 0.0])));
        assert!(!row("chat").is_reached(&cell(&[30_000.0, -1.0])));
        assert!(!row("open").is_reached(&cell(&[2.4, 1.3])));
    }

    #[test]
    fn rows_and_runs_have_names_of_their_own() {
        let rows: std::collections::HashSet<_> = ROWS.iter().map(|row| row.id).collect();
        assert_eq!(rows.len(), ROWS.len());
        let runs: std::collections::HashSet<_> = Run::ALL.iter().map(|run| run.key()).collect();
        assert_eq!(runs.len(), Run::ALL.len());
    }
}
