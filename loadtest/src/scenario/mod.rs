//! What is played with a server, and what is shared by all plays: where it is, how long it takes.

mod chat;
mod fanout;
mod idle;
mod soak;
mod spread;
mod storm;
mod traffic;

use std::net::SocketAddr;
use std::time::Duration;

pub use chat::{Chat, Load};
pub use fanout::Fanout;
pub use idle::Idle;
pub use soak::{Sample, Soak};
pub use spread::Spread;
pub use storm::Storm;

use crate::machine;
use crate::net::{Dialect, Engine, Plan};
use crate::report::{self, Outcome, Report};
use crate::world::{self, Fault, Tokens, World};

/// How many connections are under way at a time where opening them is not what is measured.
const AT_ONCE: usize = 128;

/// The servers under test.
pub struct Target {
    /// Where they are; connections are dealt to them in turn.
    pub servers: Vec<SocketAddr>,
    /// Their processes on this machine.
    pub pids: Vec<u32>,
    /// How to speak to them.
    pub dialect: Dialect,
    /// Signs for them.
    pub tokens: Tokens,
    /// Who is there.
    pub world: World,
    /// The URL of their database, to be looked into after the run.
    pub database: Option<String>,
}

/// How long a run takes.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Not measured.
    pub warm_up: Duration,
    /// Measured.
    pub measure: Duration,
    /// How long the end waits for what has not come, without anything coming, before it is lost.
    pub quiet: Duration,
}

/// `Timing::quiet` where nothing else is said: an overloaded server may be silent for seconds and lose nothing.
pub const QUIET: Duration = Duration::from_secs(10);

impl Target {
    /// Servers; their processes are looked up by their ports where none are given.
    pub fn new(
        servers: Vec<SocketAddr>,
        pids: Vec<u32>,
        dialect: Dialect,
        secret: &str,
        world: World,
        database: Option<String>,
    ) -> Self {
        let pids = if pids.is_empty() {
            servers
                .iter()
                .flat_map(|server| machine::listeners(server.port()))
                .collect()
        } else {
            pids
        };
        Self {
            servers,
            pids,
            dialect,
            tokens: Tokens::new(secret, world),
            world,
            database,
        }
    }

    fn engine(&self) -> Result<Engine, Fault> {
        Ok(Engine::new(self.servers.clone(), self.dialect)?)
    }

    /// A connection of an account, to the servers in turn.
    fn plan(&self, number: usize, account: u32) -> Result<Plan, Fault> {
        Ok(Plan {
            server: number % self.servers.len(),
            token: self.tokens.of(account)?,
        })
    }

    fn report(&self, scenario: &str, setting: String, outcome: Outcome) -> Report {
        Report {
            scenario: scenario.to_owned(),
            dialect: self.dialect,
            nodes: self.servers.len(),
            setting,
            outcome,
        }
    }

    /// What traffic came to, with a look into the database.
    fn finish(&self, traffic: &traffic::Traffic) -> Result<report::Traffic, Fault> {
        let mut report = traffic.report();
        let last_texts = traffic.last_texts();
        if let Some(database) = &self.database
            && !last_texts.is_empty()
        {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            report.stored = Some(runtime.block_on(world::stored(database, &last_texts))?);
        }
        Ok(report)
    }
}
