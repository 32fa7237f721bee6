//! What grows, and what does not: nodes, conversations, stored messages, idle connections, each far beyond what the bench
//! compares; and what follows from the figures for a million connections and 100,000 messages a second. The gateway alone, on
//! the same pinned cores and private servers as the bench.

mod crowd;
mod nodes;
mod page;
mod rest;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use crate::bench::processes::first_line;
use crate::bench::servers::Servers;
use crate::bench::systems::{Nodes, Programs, SECRET, System};
use crate::machine;
use crate::net::Dialect;
use crate::scenario::{Load, QUIET, Spread, Target, Timing};
use crate::world::{Fault, World};

/// What is measured, and how far.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The gateway's program
    #[arg(long)]
    gateway: PathBuf,
    /// Where the page goes
    #[arg(long, default_value = "docs")]
    out: PathBuf,
    /// Where databases and logs are kept while it runs
    #[arg(long)]
    folder: PathBuf,
    /// Only these: nodes, conversations, table, connections; the others are taken from the page's last figures
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds of each run before it is measured
    #[arg(long, default_value_t = 5.0)]
    warm_up: f64,
    /// Seconds of each run that are measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Messages a second where nodes are compared
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Numbers of conversations
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    conversations: Vec<u32>,
    /// Rows of the large table of messages
    #[arg(long, default_value_t = 10_000_000)]
    messages: u64,
    /// Requests of each kind
    #[arg(long, default_value_t = 1_000)]
    requests: u32,
    /// Idle connections
    #[arg(long, default_value_t = 100_000)]
    connections: u32,
    /// Of which one node, and one generator, has so many: below their limit on open files
    #[arg(long, default_value_t = 12_500)]
    per_process: u32,
    /// Seconds that idle connections are watched
    #[arg(long, default_value_t = 50)]
    idle_seconds: u64,
    /// The core of the nodes
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of everything else
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

/// All that was measured. What was not stays `None`, or as it was.
#[derive(Debug, Default, Serialize, serde::Deserialize)]
#[serde(default)]
struct Figures {
    machine: String,
    versions: Vec<String>,
    nodes: Option<Vec<nodes::Cost>>,
    /// The same as fast as it goes.
    busy_nodes: Option<Vec<nodes::Cost>>,
    bystanders: Option<Vec<nodes::Bystanders>>,
    conversations: Option<Vec<nodes::Cost>>,
    table: Option<table::Tables>,
    connections: Option<crowd::Crowd>,
}

/// The file of figures beside the page.
const FIGURES: &str = "scale.json";
const PARTS: [&str; 4] = ["nodes", "conversations", "table", "connections"];

/// Measures and writes the page.
pub fn run(options: &Options) -> Result<ExitCode, Fault> {
    if let Some(name) = options.only.iter().find(|name| !PARTS.contains(&&***name)) {
        return Err(format!("nothing is called {name}").into());
    }
    machine::pin(options.load_core)?;
    fs::create_dir_all(&options.folder)?;
    fs::create_dir_all(&options.out)?;
    let folder = options.folder.canonicalize()?;
    let figures = options.out.join(FIGURES);
    let mut found: Figures = fs::read_to_string(&figures)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    found.machine = machine::describe();
    found.versions = vec![
        first_line("mariadbd", "--version"),
        first_line("redis-server", "--version"),
        first_line("rustc", "--version"),
    ];
    let mut stage = Stage {
        options,
        servers: Servers::start(&folder)?,
        folder,
    };
    for part in PARTS {
        if !options.only.is_empty() && !options.only.iter().any(|name| name == part) {
            continue;
        }
        eprintln!("== {part}");
        match part {
            "nodes" => {
                let rate = Load::PerSecond(options.rate);
                found.nodes = Some(nodes::costs(&mut stage, rate)?);
                found.busy_nodes = Some(nodes::costs(&mut stage, Load::InFlight(8))?);
                found.bystanders = Some(nodes::bystanders(&mut stage)?);
            }
            "conversations" => found.conversations = Some(conversations(&mut stage)?),
            "table" => found.table = Some(table::measure(&mut stage)?),
            _ => found.connections = Some(crowd::measure(&mut stage)?),
        }
        // After each part: a run that is cut short has not been for nothing.
        fs::write(&figures, serde_json::to_string_pretty(&found)? + "\n")?;
        fs::write(options.out.join("scale.md"), page::page(&found))?;
    }
    println!("{}", page::page(&found));
    println!("{}", options.out.join("scale.md").display());
    Ok(ExitCode::SUCCESS)
}

/// What all parts stand on.
struct Stage<'a> {
    options: &'a Options,
    servers: Servers,
    folder: PathBuf,
}

impl Stage<'_> {
    /// A database with everybody in it, and nodes on it. Redis where there are several, or where it is asked for.
    fn start(&mut self, world: World, count: usize, redis: bool) -> Result<(Nodes, String), Fault> {
        let database = self.servers.database(world)?;
        let redis = if redis {
            Some(self.servers.redis()?)
        } else {
            None
        };
        let programs = Programs {
            gateway: self.options.gateway.canonicalize()?,
            node: PathBuf::new(),
            socketioxide: PathBuf::new(),
        };
        let core = self.options.server_core;
        let folder: &Path = &self.folder;
        let nodes =
            System::Gateway.start(&programs, core, count, &database, redis.as_deref(), folder)?;
        Ok((nodes, database))
    }

    const fn target(&self, world: World) -> Aim {
        Aim { world }
    }

    fn timing(&self) -> Timing {
        Timing {
            warm_up: Duration::from_secs_f64(self.options.warm_up.max(0.1)),
            measure: Duration::from_secs_f64(self.options.seconds.max(0.1)),
            quiet: QUIET,
        }
    }
}

/// Makes targets of one world.
#[derive(Clone, Copy)]
struct Aim {
    world: World,
}

impl Aim {
    fn at(self, addresses: &[std::net::SocketAddr], pids: &[u32]) -> Target {
        Target::new(
            addresses.to_vec(),
            pids.to_vec(),
            Dialect::SocketIo,
            SECRET,
            self.world,
            None,
        )
    }
}

/// One node, ever more conversations, in which agents write in turn.
fn conversations(stage: &mut Stage<'_>) -> Result<Vec<nodes::Cost>, Fault> {
    let mut costs = Vec::new();
    for count in &stage.options.conversations {
        let world = World {
            agents: 1_000,
            clients: *count,
            conversations: *count,
            staff: 50,
        };
        let (nodes, _) = stage.start(world, 1, true)?;
        let watch = nodes::Watch::begin(&stage.servers);
        let scenario = Spread {
            in_flight: 400,
            text_bytes: crate::cli::TEXT_BYTES,
        };
        let target = stage.target(world).at(&nodes.addresses, &nodes.pids);
        let report = scenario.run(&target, stage.timing())?;
        costs.push(watch.cost(*count as usize, &stage.servers, &report)?);
    }
    Ok(costs)
}
