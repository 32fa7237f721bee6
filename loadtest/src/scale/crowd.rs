//! Very many idle connections, over as many nodes as their limit on open files asks for, and as many generators.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Stage;
use crate::bench::systems::SECRET;
use crate::machine;
use crate::world::{Fault, World};

/// How long opening may take, over all of them.
const OPENING: Duration = Duration::from_secs(180);
/// After it, before it is watched.
const SETTLE: u64 = 10;

/// What they use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Crowd {
    pub(super) connections: u64,
    pub(super) nodes: usize,
    /// Resident memory of all nodes, without connections and with them.
    pub(super) rss_before: u64,
    pub(super) rss_after: u64,
    pub(super) bytes_per_connection: f64,
    /// Milliseconds of CPU time a second, all nodes together.
    pub(super) cpu_ms_per_second: f64,
    pub(super) lost: u64,
    /// Of Redis, with all of them online.
    pub(super) redis_rss: u64,
}

pub(super) fn measure(stage: &mut Stage<'_>) -> Result<Crowd, Fault> {
    let per_process = stage.options.per_process.max(1);
    let connections = stage.options.connections;
    let count = connections.div_ceil(per_process);
    let world = World {
        agents: 1_000,
        clients: connections,
        conversations: 500,
        staff: 10,
    };
    let (nodes, _) = stage.start(world, count as usize, true)?;
    let mut generators = Generators(Vec::new());
    let program = std::env::current_exe()?;
    for (number, (address, pid)) in nodes.addresses.iter().zip(&nodes.pids).enumerate() {
        let first = u32::try_from(number)? * per_process;
        let json = stage.folder.join(format!("idle-{number}.json"));
        let child = Command::new(&program)
            .arg("idle")
            .args(["--url", &address.to_string()])
            .args(["--pid", &pid.to_string()])
            .args([
                "--connections",
                &per_process.min(connections - first).to_string(),
            ])
            .args(["--first", &first.to_string()])
            .args(["--settle", &SETTLE.to_string()])
            .args(["--seconds", &stage.options.idle_seconds.to_string()])
            .arg("--json")
            .arg(&json)
            .env("JWT_SECRET", SECRET)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        generators.0.push((child, json));
    }
    let patience = OPENING + Duration::from_secs(SETTLE + stage.options.idle_seconds);
    let reports = generators.wait(patience)?;
    let sum = |field: &str| -> f64 {
        reports
            .iter()
            .map(|report| report["idle"][field].as_f64().unwrap_or_default())
            .sum()
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and positive"
    )]
    let whole = |field: &str| sum(field) as u64;
    let (before, after) = (whole("rss_before"), whole("rss_after"));
    let [_, redis] = stage.servers.pids();
    Ok(Crowd {
        connections: whole("connections"),
        nodes: nodes.pids.len(),
        rss_before: before,
        rss_after: after,
        bytes_per_connection: (sum("rss_after") - sum("rss_before")) / sum("connections").max(1.0),
        cpu_ms_per_second: sum("cpu_ms_per_second"),
        lost: whole("connections_lost"),
        redis_rss: machine::usage(&[redis]).rss_bytes,
    })
}

/// Generators of their own processes, ended with this.
struct Generators(Vec<(Child, std::path::PathBuf)>);

impl Generators {
    /// Waits for all of them, and reads what each has found.
    fn wait(&mut self, patience: Duration) -> Result<Vec<serde_json::Value>, Fault> {
        let begun = Instant::now();
        let mut reports = Vec::new();
        for (child, json) in &mut self.0 {
            let status = loop {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                if begun.elapsed() > patience {
                    return Err("the idle connections take too long".into());
                }
                std::thread::sleep(Duration::from_millis(100));
            };
            if !matches!(status.code(), Some(0 | 2)) {
                return Err(format!("a generator ended with {status}").into());
            }
            reports.push(serde_json::from_str(&std::fs::read_to_string(json)?)?);
        }
        Ok(reports)
    }
}

impl Drop for Generators {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            // One that has ended already can't be.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
