//! Everything side by side: every system under test plays every run on a core of its own, with the load generator,
//! MariaDB and Redis on another; then a page of results.

mod chart;
mod page;
mod plan;
pub(crate) mod processes;
pub(crate) mod servers;
pub(crate) mod systems;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::limits;
use crate::machine;
use crate::net::{Dialect, Engine, Plan};
use crate::report::Report;
use crate::scenario::{self, Target, Timing};
use crate::world::{Fault, USUAL};
use page::About;
use plan::{Results, Run, Times};
use processes::{Process, first_line, free_port, get, is_ready};
use servers::Servers;
use systems::{Programs, SECRET, System};

/// What is measured, and how long.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The gateway's program
    #[arg(long)]
    gateway: PathBuf,
    /// The folder of the Node seed, with its modules installed
    #[arg(long)]
    node: PathBuf,
    /// The program of the peer on socketioxide
    #[arg(long)]
    socketioxide: PathBuf,
    /// Where the page goes
    #[arg(long, default_value = "docs")]
    out: PathBuf,
    /// Where databases and logs are kept while it runs; not in memory, where a flushed log costs nothing
    #[arg(long)]
    folder: PathBuf,
    /// Only these: gateway, node, socketioxide, limits; and runs: fanout, fanout-50, fanout-one, typing, chat, chat-2,
    /// open, open-2, idle, storm
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds of each run before it is measured
    #[arg(long, default_value_t = 10.0)]
    warm_up: f64,
    /// Seconds of each run that are measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds that idle connections are watched
    #[arg(long, default_value_t = 50.0)]
    idle_seconds: f64,
    /// The core of the servers under test
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The core of everything else
    #[arg(long, default_value_t = 1)]
    load_core: usize,
}

/// Frames of a write that are tried.
const FRAMES: [usize; 3] = [1, 8, 32];

/// Messages of a transaction that are tried.
const BATCHES: [u32; 2] = [1, 100];

/// The share of a core that other programs may take without being spoken of.
const UNDISTURBED: f64 = 0.05;

/// Connections of the bare `ws` server.
const BARE_CONNECTIONS: usize = 5_000;

/// Measures, prints the table, and writes the page. Fails where a run of the gateway did not come to its end.
pub fn run(options: &Options) -> Result<ExitCode, Fault> {
    let unknown = options.only.iter().find(|name| !is_known(name));
    if let Some(name) = unknown {
        return Err(format!("nothing is called {name}").into());
    }
    // What is started from here on is there, too, unless it is put elsewhere.
    machine::pin(options.load_core)?;
    fs::create_dir_all(&options.folder)?;
    let folder = options.folder.canonicalize()?;
    if machine::is_in_memory(&folder) {
        eprintln!(
            "bench: {} is in memory: the database's figures say nothing",
            folder.display()
        );
    }
    let programs = Programs {
        gateway: options.gateway.canonicalize()?,
        node: options.node.canonicalize()?,
        socketioxide: options.socketioxide.canonicalize()?,
    };
    let mut servers = Servers::start(&folder)?;
    let mut results = Results::default();
    if options.wants_limits() {
        measure_limits(options, &programs, &mut servers, &folder, &mut results)?;
    }
    for run in Run::ALL
        .into_iter()
        .filter(|run| options.wants(&run_keys(), run.key()))
    {
        for system in System::ALL {
            if !options.wants(&system_keys(), system.key()) {
                continue;
            }
            eprintln!("\n== {} / {}", system.title(), run.key());
            let result = play(
                options,
                &programs,
                &mut servers,
                &folder,
                (system, run),
                &mut results,
            );
            match &result {
                Ok(report) => eprint!("{report}"),
                Err(why) => eprintln!("  {why}"),
            }
            let result = result.map_err(|why| why.to_string());
            results.runs.insert((system, run), result);
        }
    }
    let about = about(options, &results);
    fs::create_dir_all(&options.out)?;
    page::write(&options.out, &about, &results)?;
    fs::write(
        options.out.join("benchmarks.json"),
        as_json(&about, &results)?,
    )?;
    println!("\n{}", page::table(&results));
    println!("{}", options.out.join("benchmarks.md").display());
    let own_failed = results
        .runs
        .iter()
        .any(|((system, _), result)| *system == System::Gateway && result.is_err());
    Ok(if own_failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn play(
    options: &Options,
    programs: &Programs,
    servers: &mut Servers,
    folder: &Path,
    (system, run): (System, Run),
    results: &mut Results,
) -> Result<Report, Fault> {
    let database = servers.database(USUAL)?;
    let redis = if run.nodes() > 1 {
        Some(servers.redis()?)
    } else {
        None
    };
    let nodes = system.start(
        programs,
        options.server_core,
        run.nodes(),
        &database,
        redis.as_deref(),
        folder,
    )?;
    let ours = [&servers.pids()[..], &nodes.pids[..], &[std::process::id()]].concat();
    let others = Others::watch(ours);
    let target = Target::new(
        nodes.addresses.clone(),
        nodes.pids.clone(),
        Dialect::SocketIo,
        SECRET,
        USUAL,
        Some(database),
    );
    let report = run.play(&target, options.times());
    let share = others.share();
    if share > UNDISTURBED {
        let percent = share * 100.0;
        eprintln!(
            "bench: other programs took {percent:.0}% of a core meanwhile: not to be relied on"
        );
    }
    results.noise = results.noise.max(share);
    report
}

/// What other programs of the machine take while something is measured.
struct Others {
    ours: Vec<u32>,
    begun: Instant,
    /// What all programs had used, and what ours had.
    before: (f64, f64),
}

impl Others {
    fn watch(ours: Vec<u32>) -> Self {
        Self {
            begun: Instant::now(),
            before: (machine::busy_seconds(), machine::usage(&ours).cpu_seconds),
            ours,
        }
    }

    /// Their share of one core since then.
    fn share(&self) -> f64 {
        let all = machine::busy_seconds() - self.before.0;
        let ours = machine::usage(&self.ours).cpu_seconds - self.before.1;
        ((all - ours) / self.begun.elapsed().as_secs_f64()).max(0.0)
    }
}

fn measure_limits(
    options: &Options,
    programs: &Programs,
    servers: &mut Servers,
    folder: &Path,
    results: &mut Results,
) -> Result<(), Fault> {
    eprintln!("== limits");
    let window = options.times().timing.measure;
    let pinned = ["taskset", "-c"].map(str::to_owned);
    let prefix = [&pinned[..], &[options.server_core.to_string()]].concat();
    for frames in FRAMES {
        let writes = limits::writes(&prefix, 1_000, frames, window)?;
        let cost = writes.cpu_seconds_per_million;
        eprintln!("  {frames} frames a write: {cost:.2} CPU s for a million frames");
        results.writes.push(writes);
    }
    for batch in BATCHES {
        let database = servers.database(USUAL)?;
        // The client's work must not be the database's.
        machine::pin(options.server_core)?;
        let inserts = limits::inserts(&database, USUAL, batch, window);
        machine::pin(options.load_core)?;
        let inserts = inserts?;
        eprintln!(
            "  {batch} messages a transaction: {:.0} messages/s",
            inserts.per_second
        );
        results.inserts.push(inserts);
    }
    let bytes = bare_ws(programs, options.server_core, folder)?;
    eprintln!("  bare ws: {bytes:.0} bytes of heap for a connection");
    results.bare_ws_bytes = Some(bytes);
    Ok(())
}

/// Bytes of heap that a connection costs a server of the `ws` library with nothing on it.
fn bare_ws(programs: &Programs, core: usize, folder: &Path) -> Result<f64, Fault> {
    let port = free_port()?;
    let address = ([127, 0, 0, 1], port).into();
    let mut command = Command::new("taskset");
    command
        .args(["-c", &core.to_string(), "node", "--expose-gc", "bare.mjs"])
        .current_dir(&programs.node)
        .env("PORT", port.to_string());
    let mut process = Process::start("bare-ws", &mut command, folder)?;
    process.until(|| is_ready(address, "/heap"))?;
    let heap = || -> Result<f64, Fault> {
        let answer = get(address, "/heap")?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        let digits: String = body.chars().filter(char::is_ascii_digit).collect();
        Ok(digits.parse()?)
    };
    let before = heap()?;
    // To this server any WebSocket is as good as another, and whatever token it shows.
    let mut engine = Engine::new(vec![address], Dialect::Plain)?;
    let plan = Plan {
        server: 0,
        token: "none".into(),
    };
    engine.open_all(&vec![plan; BARE_CONNECTIONS], 128)?;
    #[expect(clippy::cast_precision_loss, reason = "a constant")]
    let connections = BARE_CONNECTIONS as f64;
    Ok((heap()? - before) / connections)
}

fn about(options: &Options, results: &Results) -> About {
    let node_module = |name: &str| {
        let path = options
            .node
            .join(format!("node_modules/{name}/package.json"));
        let text = fs::read_to_string(path).unwrap_or_default();
        let package: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let version = package["version"].as_str().unwrap_or("unknown");
        format!("{name} {version}")
    };
    let modules = [
        "socket.io",
        "@socket.io/redis-adapter",
        "sequelize",
        "mysql2",
        "express",
    ];
    let locked = include_str!("../../peers/socketioxide/Cargo.lock");
    let crates = ["socketioxide", "socketioxide-redis", "sqlx", "axum"];
    About {
        machine: machine::describe(),
        conditions: vec![
            format!(
                "Servers under test on core {}; load generator, MariaDB (`innodb_flush_log_at_trx_commit=1`) and Redis on \
                 core {}",
                options.server_core, options.load_core
            ),
            format!(
                "Release builds; {} s measured after {} s of warm-up, idle connections {} s",
                options.seconds, options.warm_up, options.idle_seconds
            ),
            format!(
                "Other programs of the machine took at most {:.0}% of a core while a run was measured",
                results.noise * 100.0
            ),
        ],
        versions: vec![
            first_line("mariadbd", "--version"),
            first_line("redis-server", "--version"),
            first_line("rustc", "--version"),
            format!(
                "Node {}: {}",
                first_line("node", "--version"),
                modules.map(node_module).join(", ")
            ),
            format!(
                "Peer in Rust: {}",
                crates.map(|name| locked_version(locked, name)).join(", ")
            ),
        ],
    }
}

/// A package's name and version in a `Cargo.lock`.
fn locked_version(lock: &str, name: &str) -> String {
    let begin = format!("name = \"{name}\"\nversion = \"");
    let version = lock
        .split_once(&begin)
        .and_then(|(_, rest)| rest.split('"').next())
        .unwrap_or("unknown");
    format!("{name} {version}")
}

fn as_json(about: &About, results: &Results) -> Result<String, Fault> {
    let runs: Vec<_> = results
        .runs
        .iter()
        .map(|((system, run), result)| {
            let (report, error) = match result {
                Ok(report) => (Some(report), None),
                Err(error) => (None, Some(error)),
            };
            json!({ "system": system, "run": run.key(), "report": report, "error": error })
        })
        .collect();
    let all = json!({
        "machine": about.machine,
        "conditions": about.conditions,
        "versions": about.versions,
        "limits": {
            "writes": results.writes,
            "inserts": results.inserts,
            "bareWsBytes": results.bare_ws_bytes,
        },
        "runs": runs,
    });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

const LIMITS: &str = "limits";

fn system_keys() -> Vec<&'static str> {
    System::ALL.iter().map(|system| system.key()).collect()
}

fn run_keys() -> Vec<&'static str> {
    Run::ALL.iter().map(|run| run.key()).collect()
}

fn is_known(name: &str) -> bool {
    name == LIMITS || system_keys().contains(&name) || run_keys().contains(&name)
}

impl Options {
    /// Whether one of a kind is wanted: where none of its kind is named, all are, unless only limits are asked for.
    fn wants(&self, kind: &[&str], key: &str) -> bool {
        if self.only == [LIMITS] {
            return false;
        }
        let mut named = self
            .only
            .iter()
            .filter(|name| kind.contains(&&***name))
            .peekable();
        named.peek().is_none() || named.any(|name| name == key)
    }

    fn wants_limits(&self) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == LIMITS)
    }

    fn times(&self) -> Times {
        let seconds = |value: f64| Duration::from_secs_f64(value.max(0.1));
        Times {
            timing: Timing {
                warm_up: seconds(self.warm_up),
                measure: seconds(self.seconds),
                quiet: scenario::QUIET,
            },
            idle: seconds(self.idle_seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(only: &[&str]) -> Options {
        Options {
            gateway: PathBuf::new(),
            node: PathBuf::new(),
            socketioxide: PathBuf::new(),
            out: PathBuf::new(),
            folder: PathBuf::new(),
            only: only.iter().map(|name| (*name).to_owned()).collect(),
            warm_up: 1.0,
            seconds: 1.0,
            idle_seconds: 1.0,
            server_core: 0,
            load_core: 1,
        }
    }

    fn wanted(only: &[&str]) -> (usize, usize, bool) {
        let options = options(only);
        let count = |keys: &[&str]| keys.iter().filter(|key| options.wants(keys, key)).count();
        (
            count(&system_keys()),
            count(&run_keys()),
            options.wants_limits(),
        )
    }

    #[test]
    fn only_what_is_asked_for_is_measured() {
        assert_eq!(wanted(&[]), (3, 10, true));
        assert_eq!(wanted(&["gateway"]), (1, 10, false));
        assert_eq!(wanted(&["chat", "idle"]), (3, 2, false));
        assert_eq!(wanted(&["node", "chat", "limits"]), (1, 1, true));
        assert_eq!(wanted(&["limits"]), (0, 0, true));
        assert!(is_known("open-2") && !is_known("open-3"));
    }

    #[test]
    fn versions_are_read_from_the_lock() {
        let lock = "[[package]]\nname = \"axum\"\nversion = \"0.8.9\"\n\n[[package]]\nname = \"axum-core\"\n";
        assert_eq!(locked_version(lock, "axum"), "axum 0.8.9");
        assert_eq!(locked_version(lock, "sqlx"), "sqlx unknown");
    }
}
