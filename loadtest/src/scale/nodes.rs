//! What a message costs where nodes are added, and what a node pays for traffic that is not its own.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Stage;
use crate::bench::servers::Servers;
use crate::machine;
use crate::report::{Outcome, Report};
use crate::scenario::{Chat, Idle, Load, Timing};
use crate::world::{Fault, USUAL};

/// How many nodes are compared.
const NODES: [usize; 3] = [1, 2, 4];
/// How many nodes hear nothing while one is busy.
const BYSTANDERS: [usize; 2] = [1, 3];
/// Clients of each of these.
const IDLE_CLIENTS: u32 = 1_000;

/// What messages cost, in microseconds of CPU time for each.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Cost {
    /// How many there were of what is compared.
    pub(super) of: usize,
    pub(super) messages_per_second: f64,
    pub(super) deliveries_per_message: f64,
    /// All nodes together.
    pub(super) nodes_us: f64,
    pub(super) redis_us: f64,
    pub(super) mariadb_us: f64,
    pub(super) heard_p50_ms: f64,
    pub(super) heard_p99_ms: f64,
    /// Lost, doubled, out of order or refused.
    pub(super) wrong: u64,
}

/// What nodes use whose clients hear nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Bystanders {
    pub(super) nodes: usize,
    pub(super) clients_each: u32,
    /// Milliseconds of CPU time a second for each node, while nobody writes.
    pub(super) quiet_ms: f64,
    /// The same while another node takes in so many messages a second.
    pub(super) busy_ms: f64,
    pub(super) messages_per_second: f64,
    /// What the busy node used meanwhile.
    pub(super) busy_node_ms: f64,
}

/// What the database and Redis have used before a run.
pub(super) struct Watch([f64; 2]);

impl Watch {
    pub(super) fn begin(servers: &Servers) -> Self {
        Self(servers.pids().map(|pid| machine::usage(&[pid]).cpu_seconds))
    }

    /// What a run has cost. Of the database and Redis all of it counts, for all messages that were sent.
    pub(super) fn cost(self, of: usize, servers: &Servers, report: &Report) -> Result<Cost, Fault> {
        let traffic = report.traffic().ok_or("no traffic")?;
        let now = Self::begin(servers).0;
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let each = |index: usize| (now[index] - self.0[index]) * 1e6 / traffic.sent.max(1) as f64;
        let counts = traffic.counts;
        eprint!("{report}");
        Ok(Cost {
            of,
            messages_per_second: traffic.messages_per_second,
            deliveries_per_message: traffic.deliveries_per_second / traffic.messages_per_second,
            nodes_us: traffic.server_cpu_seconds_per_million_messages,
            mariadb_us: each(0),
            redis_us: each(1),
            heard_p50_ms: traffic.heard_ms.p50,
            heard_p99_ms: traffic.heard_ms.p99,
            wrong: counts.lost + counts.doubled + counts.out_of_order + traffic.errors,
        })
    }
}

fn chat(load: Load) -> Chat {
    Chat {
        conversations: USUAL.conversations,
        load,
        text_bytes: crate::cli::TEXT_BYTES,
    }
}

/// The same traffic over ever more nodes.
pub(super) fn costs(stage: &mut Stage<'_>, load: Load) -> Result<Vec<Cost>, Fault> {
    let mut costs = Vec::new();
    for count in NODES {
        let (nodes, _) = stage.start(USUAL, count, true)?;
        let watch = Watch::begin(&stage.servers);
        let target = stage.target(USUAL).at(&nodes.addresses, &nodes.pids);
        let report = chat(load).run(&target, stage.timing())?;
        costs.push(watch.cost(count, &stage.servers, &report)?);
    }
    Ok(costs)
}

/// One busy node beside others, all of whose clients are elsewhere's: first while nobody writes, then under load.
pub(super) fn bystanders(stage: &mut Stage<'_>) -> Result<Vec<Bystanders>, Fault> {
    const SETTLE: Duration = Duration::from_secs(3);
    let mut found = Vec::new();
    for count in BYSTANDERS {
        let (nodes, _) = stage.start(USUAL, count + 1, true)?;
        let (own, others) = nodes.addresses.split_at(1);
        let (own_pids, other_pids) = nodes.pids.split_at(1);
        // Heartbeats come in rounds: whole ones are watched.
        let watch = Duration::from_secs_f64((stage.options.seconds / 25.0).ceil() * 25.0);
        let idle = Idle {
            connections: IDLE_CLIENTS * u32::try_from(count)?,
            // Not those who write.
            first: USUAL.conversations,
            settle: SETTLE,
            watch,
        };
        let aim = stage.target(USUAL);
        let idling = || -> Result<f64, Fault> {
            let report = idle.run(&aim.at(others, other_pids))?;
            let Outcome::Idle(idle) = report.outcome else {
                return Err("not idle".into());
            };
            #[expect(clippy::cast_precision_loss, reason = "a few nodes")]
            Ok(idle.cpu_ms_per_second / count as f64)
        };
        let quiet_ms = idling()?;
        // The traffic goes on while the others settle, and until after they were watched.
        let timing = Timing {
            warm_up: SETTLE,
            measure: watch + SETTLE,
            ..stage.timing()
        };
        let (busy, report) = std::thread::scope(|scope| {
            let busy = scope.spawn(idling);
            let report =
                chat(Load::PerSecond(stage.options.rate)).run(&aim.at(own, own_pids), timing);
            (busy.join(), report)
        });
        let busy_ms = busy.map_err(|_| "the idle clients' thread ended early")??;
        let report = report?;
        let traffic = report.traffic().ok_or("no traffic")?;
        eprintln!("  {count} beside: {quiet_ms:.2} ms/s quiet, {busy_ms:.2} ms/s beside traffic");
        found.push(Bystanders {
            nodes: count,
            clients_each: IDLE_CLIENTS,
            quiet_ms,
            busy_ms,
            messages_per_second: traffic.messages_per_second,
            busy_node_ms: traffic.servers.busy * 1e3,
        });
    }
    Ok(found)
}
