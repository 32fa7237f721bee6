//! What can be asked of the program on its command line.

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::bench;
use crate::limits;
use crate::machine;
use crate::net::Dialect;
use crate::report::{Outcome, Report};
use crate::scale;
use crate::scenario::{Chat, Fanout, Idle, Load, QUIET, Soak, Storm, Target, Timing};
use crate::world::{Fault, USUAL};

/// Puts load on chat servers and counts exactly what comes of it.
///
/// The servers' JWT_SECRET is read from the environment, and so is DATABASE_URL where their database is to be filled
/// (`seed`) or looked into afterwards (`fanout`, `chat`, `soak`). Switch their limits off, or set them high:
/// RATE_LIMIT_EVENTS_PER_SECOND.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fill an empty database (DATABASE_URL) with the people and conversations of all scenarios, as the old system would
    /// have left it; then start the servers
    Seed,
    /// Many sockets in one conversation, in which some write
    Fanout {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        timing: TimingArgs,
        #[command(flatten)]
        text: Text,
        /// Sockets in the conversation
        #[arg(long, default_value_t = 1_000)]
        sockets: u32,
        /// How many of them write
        #[arg(long, default_value_t = 10)]
        senders: u32,
        /// Messages of each that are under way at a time
        #[arg(long, default_value_t = 4)]
        in_flight: u32,
        /// One under way for each sender, and the next only once everybody has it
        #[arg(long, conflicts_with = "in_flight")]
        one_at_a_time: bool,
    },
    /// The same with signs of writing, one at a time
    Typing {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        timing: TimingArgs,
        /// Sockets in the conversation
        #[arg(long, default_value_t = 1_000)]
        sockets: u32,
        /// How many of them write
        #[arg(long, default_value_t = 1)]
        senders: u32,
    },
    /// Clients who write to their agents
    Chat {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        timing: TimingArgs,
        #[command(flatten)]
        text: Text,
        /// Conversations, each with a client of its own
        #[arg(long, default_value_t = USUAL.conversations)]
        conversations: u32,
        /// Closed loop: messages of each client that are under way at a time
        #[arg(long, default_value_t = 8)]
        in_flight: u32,
        /// Open loop instead: messages a second over all clients
        #[arg(long, conflicts_with = "in_flight")]
        rate: Option<f64>,
    },
    /// Connections that only answer heartbeats
    Idle {
        #[command(flatten)]
        common: Common,
        /// How many
        #[arg(long, default_value_t = 10_000)]
        connections: u32,
        /// The first client's number, from 0: another one for each generator that runs at the same time
        #[arg(long, default_value_t = 0)]
        first: u32,
        /// Seconds they are left alone before they are watched
        #[arg(long, default_value_t = 10)]
        settle: u64,
        /// Seconds they are watched: two rounds of the usual heartbeat
        #[arg(long, default_value_t = 50)]
        seconds: u64,
    },
    /// Connections that all come at once, in waves
    Storm {
        #[command(flatten)]
        common: Common,
        /// Connections of a wave
        #[arg(long, default_value_t = 10_000)]
        connections: u32,
        /// How many are under way at a time
        #[arg(long, default_value_t = 256)]
        at_once: usize,
        /// Waves; the first warms up
        #[arg(long, default_value_t = 4)]
        waves: u32,
    },
    /// Hours of `chat` in open loop while others come and go
    Soak {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        timing: TimingArgs,
        #[command(flatten)]
        text: Text,
        /// Conversations, each with a client of its own
        #[arg(long, default_value_t = USUAL.conversations)]
        conversations: u32,
        /// Messages a second over all clients
        #[arg(long, default_value_t = 300.0)]
        rate: f64,
        /// Clients who are only there
        #[arg(long, default_value_t = 1_000)]
        bystanders: u32,
        /// How many of them leave each second, each replaced by another
        #[arg(long, default_value_t = 10.0)]
        churn: f64,
    },
    /// What the machine gives: raw socket writes, and raw inserts into the database of DATABASE_URL, which is filled first
    Limits {
        /// Seconds of each
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Everything side by side, pinned to two cores, with a page of results: see `make bench`
    Bench(bench::Options),
    /// What grows with nodes, conversations, stored messages and connections, and what does not: see `make scale`
    Scale(scale::Options),
    /// The writing process of `limits`
    #[command(hide = true)]
    ServeWrites {
        #[arg(long)]
        sockets: usize,
        #[arg(long)]
        frames_per_write: usize,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Where a node is: host:port, or http://host:port; once for each node
    #[arg(long = "url", default_value = "127.0.0.1:5000")]
    urls: Vec<String>,
    /// How to speak to it
    #[arg(long, value_enum, default_value_t = Dialect::SocketIo)]
    dialect: Dialect,
    /// The nodes' processes, for their CPU time and memory; found by their ports where they are on this machine
    #[arg(long = "pid")]
    pids: Vec<u32>,
    /// Write the result to this file, too, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct TimingArgs {
    /// Seconds before it is measured
    #[arg(long, default_value_t = 10.0)]
    warm_up: f64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

#[derive(Debug, Args)]
struct Text {
    /// Bytes of a message's text
    #[arg(long, default_value_t = TEXT_BYTES)]
    text_bytes: usize,
}

/// How long a message's text is where nothing else is said: about a sentence.
pub const TEXT_BYTES: usize = 100;

impl Cli {
    /// Does it. The exit code tells whether everything sent was heard, once and in order.
    pub fn run(self) -> Result<ExitCode, Fault> {
        machine::raise_file_limit();
        match self.command {
            Command::Seed => {
                let database = database().ok_or("DATABASE_URL is not set")?;
                block_on(USUAL.seed(&database))?;
                println!(
                    "{} agents, {} clients, {} conversations",
                    USUAL.agents, USUAL.clients, USUAL.conversations
                );
            }
            Command::Limits { seconds } => return run_limits(Duration::from_secs(seconds)),
            Command::Bench(options) => return bench::run(&options),
            Command::Scale(options) => return scale::run(&options),
            Command::ServeWrites {
                sockets,
                frames_per_write,
            } => limits::serve_writes(sockets, frames_per_write)?,
            scenario => return scenario.play(),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Command {
    fn play(self) -> Result<ExitCode, Fault> {
        match self {
            Self::Fanout {
                common,
                timing,
                text,
                sockets,
                senders,
                in_flight,
                one_at_a_time,
            } => {
                let scenario = Fanout {
                    sockets,
                    senders,
                    in_flight: (!one_at_a_time).then_some(in_flight),
                    text_bytes: Some(text.text_bytes),
                };
                common.play(|target| scenario.run(target, timing.timing()))
            }
            Self::Typing {
                common,
                timing,
                sockets,
                senders,
            } => {
                let scenario = Fanout {
                    sockets,
                    senders,
                    in_flight: None,
                    text_bytes: None,
                };
                common.play(|target| scenario.run(target, timing.timing()))
            }
            Self::Chat {
                common,
                timing,
                text,
                conversations,
                in_flight,
                rate,
            } => {
                let scenario = Chat {
                    conversations,
                    load: rate.map_or(Load::InFlight(in_flight), Load::PerSecond),
                    text_bytes: text.text_bytes,
                };
                common.play(|target| scenario.run(target, timing.timing()))
            }
            Self::Idle {
                common,
                connections,
                first,
                settle,
                seconds,
            } => {
                let scenario = Idle {
                    connections,
                    first,
                    settle: Duration::from_secs(settle),
                    watch: Duration::from_secs(seconds),
                };
                common.play(|target| scenario.run(target))
            }
            Self::Storm {
                common,
                connections,
                at_once,
                waves,
            } => {
                let scenario = Storm {
                    connections,
                    at_once,
                    waves,
                };
                common.play(|target| scenario.run(target))
            }
            Self::Soak {
                common,
                timing,
                text,
                conversations,
                rate,
                bystanders,
                churn,
            } => {
                let scenario = Soak {
                    conversations,
                    rate,
                    text_bytes: text.text_bytes,
                    bystanders,
                    churn,
                };
                common.play(|target| scenario.run(target, timing.timing()))
            }
            Self::Seed
            | Self::Limits { .. }
            | Self::Bench(_)
            | Self::Scale(_)
            | Self::ServeWrites { .. } => Err("not a scenario".into()),
        }
    }
}

impl Common {
    fn play(
        self,
        scenario: impl FnOnce(&Target) -> Result<Report, Fault>,
    ) -> Result<ExitCode, Fault> {
        let secret = std::env::var("JWT_SECRET").map_err(|_| "JWT_SECRET is not set")?;
        let servers = self
            .urls
            .iter()
            .map(|url| address(url))
            .collect::<Result<Vec<_>, _>>()?;
        let target = Target::new(servers, self.pids, self.dialect, &secret, USUAL, database());
        if target.pids.is_empty() {
            eprintln!("loadtest: no process found for the servers: their use can't be told");
        }
        let report = scenario(&target)?;
        print!("{report}");
        if let Some(path) = self.json {
            fs::write(path, serde_json::to_string_pretty(&report)?)?;
        }
        Ok(if is_clean(&report) {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(2)
        })
    }
}

/// Whether nothing was lost, doubled, out of order or stray, and nothing broke.
fn is_clean(report: &Report) -> bool {
    match &report.outcome {
        Outcome::Traffic(traffic) => {
            let counts = traffic.counts;
            counts.lost + counts.doubled + counts.out_of_order + counts.stray == 0
                && traffic.errors + traffic.connections_lost == 0
        }
        Outcome::Idle(idle) => idle.connections_lost == 0,
        Outcome::Storm(storm) => storm.failed == 0,
    }
}

impl TimingArgs {
    fn timing(&self) -> Timing {
        Timing {
            warm_up: Duration::from_secs_f64(self.warm_up.max(0.0)),
            measure: Duration::from_secs_f64(self.seconds.max(0.1)),
            quiet: QUIET,
        }
    }
}

fn run_limits(window: Duration) -> Result<ExitCode, Fault> {
    for frames in [1, 8, 32] {
        let writes = limits::writes(&[], 1_000, frames, window)?;
        println!(
            "{frames} frames a write: {:.2} CPU s for a million frames, {:.0} frames/s",
            writes.cpu_seconds_per_million, writes.frames_per_second
        );
    }
    if let Some(database) = database() {
        block_on(USUAL.seed(&database))?;
        for batch in [1, 100] {
            let inserts = limits::inserts(&database, USUAL, batch, window)?;
            println!(
                "{batch} messages a transaction: {:.0} messages/s",
                inserts.per_second
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn address(url: &str) -> Result<SocketAddr, Fault> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    let mut addresses = host
        .to_socket_addrs()
        .map_err(|error| format!("{url}: {error}"))?;
    Ok(addresses
        .next()
        .ok_or_else(|| format!("{url} has no address"))?)
}

fn database() -> Option<String> {
    std::env::var("DATABASE_URL").ok()
}

fn block_on<T>(future: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_node_may_be_given_as_a_url_or_an_address() {
        let expected: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        for url in [
            "127.0.0.1:5000",
            "http://127.0.0.1:5000",
            "ws://127.0.0.1:5000/",
        ] {
            assert_eq!(address(url).unwrap(), expected, "{url}");
        }
        assert!(address("nowhere").is_err());
    }
}
