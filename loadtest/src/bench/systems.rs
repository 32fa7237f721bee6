//! The systems under test, and how a node of each is started.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::processes::{Process, free_port, is_ready};
use crate::world::Fault;

/// Signs the tokens of the bench; nobody else's.
pub(crate) const SECRET: &str = "only-the-bench-knows-this-secret-0123456789";

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum System {
    /// This repository's gateway.
    Gateway,
    /// The backend it replaces.
    Node,
    /// The same on another Rust library.
    Socketioxide,
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) gateway: PathBuf,
    /// The folder of `server.mjs`, with its modules installed.
    pub(crate) node: PathBuf,
    pub(crate) socketioxide: PathBuf,
}

/// Running nodes of one system.
pub(crate) struct Nodes {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) pids: Vec<u32>,
    _processes: Vec<Process>,
}

impl System {
    pub(crate) const ALL: [Self; 3] = [Self::Gateway, Self::Node, Self::Socketioxide];

    /// As it is asked for.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Node => "node",
            Self::Socketioxide => "socketioxide",
        }
    }

    /// As the tables call it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Node => "Node seed",
            Self::Socketioxide => "socketioxide",
        }
    }

    /// Starts nodes on a core, and returns when all are ready. With Redis they tell each other.
    pub(crate) fn start(
        self,
        programs: &Programs,
        core: usize,
        nodes: usize,
        database: &str,
        redis: Option<&str>,
        folder: &Path,
    ) -> Result<Nodes, Fault> {
        let mut started = Nodes {
            addresses: Vec::new(),
            pids: Vec::new(),
            _processes: Vec::new(),
        };
        for number in 1..=nodes {
            let port = free_port()?;
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let mut command = Command::new("taskset");
            command.arg("-c").arg(core.to_string());
            let ready = self.describe(programs, &mut command)?;
            command
                .env("HOST", "127.0.0.1")
                .env("PORT", port.to_string())
                .env("DATABASE_URL", database)
                .env("JWT_SECRET", SECRET)
                .env_remove("REDIS_URL");
            if let Some(redis) = redis {
                command.env("REDIS_URL", redis);
            }
            let name = format!("{}-{number}", self.key());
            let mut process = Process::start(&name, &mut command, folder)?;
            process.until(|| is_ready(address, ready))?;
            started.addresses.push(address);
            started.pids.push(process.pid());
            started._processes.push(process);
        }
        Ok(started)
    }

    /// Adds the program and its own settings. Returns the path that tells whether it is ready.
    fn describe(self, programs: &Programs, command: &mut Command) -> Result<&'static str, Fault> {
        Ok(match self {
            Self::Gateway => {
                // As in production, its logs and metrics included; limits are checked, but so high that none is hit.
                command
                    .arg(&programs.gateway)
                    .env("APP_ENV", "production")
                    .env("METRICS_ADDR", format!("127.0.0.1:{}", free_port()?))
                    .env("RATE_LIMIT_EVENTS_PER_SECOND", "1000000")
                    .env("RATE_LIMIT_REQUESTS_PER_SECOND", "1000000")
                    .env("DRAIN_SECONDS", "1");
                "/readyz"
            }
            Self::Node => {
                command
                    .args(["node", "server.mjs"])
                    .current_dir(&programs.node)
                    .env("NODE_ENV", "production");
                "/healthz"
            }
            Self::Socketioxide => {
                command.arg(&programs.socketioxide);
                "/healthz"
            }
        })
    }
}
