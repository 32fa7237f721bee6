//! `idle`: clients that are let in and then only answer heartbeats. What a connection costs in memory, and what keeping
//! it costs in CPU time.

use std::time::Duration;

use super::{AT_ONCE, Target};
use crate::machine;
use crate::net::{ConnId, Driver, Net};
use crate::progress::Progress;
use crate::report::{self, Outcome, Report};
use crate::world::Fault;

const SECOND: u64 = 1_000_000_000;

/// The scenario.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Connections, each another client's.
    pub connections: u32,
    /// The first of them, from 0: so that several generators bring different ones.
    pub first: u32,
    /// How long they are left alone before they are watched: what opening them cost must be over.
    pub settle: Duration,
    /// How long they are watched: several heartbeats' time, since those come in bursts as the connections did.
    pub watch: Duration,
}

impl Idle {
    /// Plays it.
    pub fn run(self, target: &Target) -> Result<Report, Fault> {
        let world = target.world;
        let mut engine = target.engine()?;
        let clients = world.clients.max(self.first + self.connections);
        let client = |number| world.client((self.first + number) % clients + 1);
        let plans = (0..self.connections)
            .map(|number| target.plan(number as usize, client(number)))
            .collect::<Result<Vec<_>, _>>()?;
        let before = machine::usage(&target.pids);
        let mut progress = Progress::new("idle");
        progress.say(&format!("opening {} connections", self.connections));
        let conns = engine.open_all(&plans, AT_ONCE)?;
        let mut idling = Idling {
            pids: &target.pids,
            progress,
            settle: nanos(self.settle),
            watch: nanos(self.watch),
            begun_at: None,
            first: None,
            last: None,
            lost: 0,
        };
        engine.run(&mut idling)?;
        let (Some((from, first)), Some((to, last))) = (idling.first, idling.last) else {
            return Err("the run was cut short".into());
        };
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let seconds = (to - from) as f64 / SECOND as f64;
        let cpu_ms = (last.cpu_seconds - first.cpu_seconds) * 1_000.0 / seconds;
        let connections = conns.len();
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let each = |bytes: u64| bytes as f64 / connections as f64;
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let ten_thousands = connections as f64 / 10_000.0;
        let outcome = report::Idle {
            connections,
            rss_before: before.rss_bytes,
            rss_after: last.rss_bytes,
            bytes_per_connection: each(last.rss_bytes.saturating_sub(before.rss_bytes)),
            seconds,
            cpu_ms_per_second: cpu_ms,
            cpu_ms_per_second_for_10_000: cpu_ms / ten_thousands,
            connections_lost: idling.lost,
        };
        let setting = format!("{connections} authenticated connections");
        Ok(target.report("idle", setting, Outcome::Idle(outcome)))
    }
}

struct Idling<'a> {
    pids: &'a [u32],
    progress: Progress,
    settle: u64,
    watch: u64,
    begun_at: Option<u64>,
    /// When the watch began and ended, and what had been used by then.
    first: Option<(u64, machine::Usage)>,
    last: Option<(u64, machine::Usage)>,
    lost: u64,
}

impl Driver for Idling<'_> {
    fn gone(&mut self, _net: &mut Net, _conn: ConnId, _why: &str) {
        self.lost += 1;
    }

    fn alarm(&mut self, net: &mut Net) {
        let now = net.now();
        let begun_at = *self.begun_at.get_or_insert(now);
        let usage = machine::usage(self.pids);
        let watch_at = begun_at + self.settle;
        if self.first.is_none() && now >= watch_at {
            self.first = Some((now, usage));
        }
        if now >= watch_at + self.watch {
            self.last = Some((now, usage));
            return net.stop();
        }
        self.progress.say(&format!(
            "{}: {} open, servers {} MiB",
            if now < watch_at {
                "settling"
            } else {
                "watching"
            },
            net.open_connections(),
            usage.rss_bytes >> 20
        ));
        let goal = if now < watch_at {
            watch_at
        } else {
            watch_at + self.watch
        };
        net.wake_at(goal.min(now + SECOND));
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}
