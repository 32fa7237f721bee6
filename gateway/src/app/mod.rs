//! The roof: concrete types are named in `node` and nowhere else. It puts a node together from its settings, serves, and
//! takes it apart in order.

mod doctor;
mod node;
mod upkeep;
mod welcome;

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{self, AdminArgs};
use crate::config::{Config, Secret};
use crate::failure::Failure;
use crate::listener;
use crate::store::{InvalidUrl, StoreError, UpkeepError};
use crate::telemetry::exporter::{self, ExporterError};
use crate::telemetry::trace;
pub use doctor::doctor;
use node::Node;
pub use node::open_store;
pub use upkeep::{archive, backup, optimize, restore};
use welcome::Welcome;

/// How long requests under way may take to finish when the node goes.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can't be listened on.
    #[error("{setting}: can't listen on {address}: {error}")]
    Listen {
        /// The setting that names it.
        setting: &'static str,
        /// Which.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// The metrics can't be shown.
    #[error(transparent)]
    Metrics(#[from] ExporterError),
    /// A setting is well formed, and can't be used.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// Why.
        reason: String,
    },
    /// The machine refuses something the node can't do without.
    #[error("{0}")]
    Machine(String),
}

/// Serves until SIGTERM, or SIGINT, which does not take its time over the drain; a second signal ends it at once.
pub async fn serve(config: Config) -> Result<(), StartError> {
    let mut signals = Signals::new()?;
    let listener = listener::bind(&config.host, config.port)
        .await
        .map_err(|error| StartError::Listen {
            setting: "HOST, PORT",
            address: format!("{}:{}", config.host, config.port),
            error,
        })?;
    let port = listener
        .local_addr()
        .map_or(config.port, |address| address.port());
    let stop_listening = CancellationToken::new();
    let metrics = match config.metrics_addr {
        // The last to go: the drain is to be seen, too.
        Some(address) => Some(exporter::start(address, CancellationToken::new()).await?),
        None => None,
    };
    if let Some(tracing) = &config.tracing {
        trace::start(tracing).map_err(|reason| StartError::Setting {
            setting: "OTEL_EXPORTER_OTLP_ENDPOINT",
            reason,
        })?;
    }
    let (host, _) = config.local_address();
    let welcome = Welcome {
        host,
        port,
        metrics,
        has_demo: !config.database.is_mysql(),
    };
    let node = Node::build(&config, welcome)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        host = config.host,
        port,
        metrics = metrics.map(tracing::field::display),
        redis = config.redis.is_some(),
        "listening"
    );

    let mut serving = tokio::spawn(listener::serve(
        listener,
        node.router(),
        stop_listening.clone(),
    ));

    // Somebody at a terminal waits for it, and has no other node to send anybody to.
    let at_a_terminal = signals.wait().await;
    let drain = if at_a_terminal {
        Duration::ZERO
    } else {
        config.drain
    };
    tokio::spawn(async move {
        signals.wait().await;
        tracing::warn!("a second signal: ending at once");
        std::process::exit(1);
    });
    tracing::info!(seconds = drain.as_secs(), "draining");
    node.drain(drain).await;
    stop_listening.cancel();
    if tokio::time::timeout(FINISH_TIMEOUT, &mut serving)
        .await
        .is_err()
    {
        tracing::warn!("some requests did not finish in time");
        // Each holds the chat, whose end would wait for it: a client that never takes its answer is not waited for.
        serving.abort();
        let _ = serving.await;
    }
    node.finish().await;
    trace::finish().await;
    tracing::info!("ended");
    Ok(())
}

/// Why a command was not done, for whoever typed it.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The database's address is none.
    #[error(transparent)]
    Address(#[from] InvalidUrl),
    /// The database is not as it should be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A command of upkeep was not done.
    #[error(transparent)]
    Upkeep(#[from] UpkeepError),
    /// What was asked for can't be done.
    #[error("{}", .0.details.as_deref().unwrap_or(&.0.message))]
    Refused(Failure),
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// Brings the database to this version's schema, and says what that took.
pub async fn migrate(config: &Config) -> Result<String, CommandError> {
    let store = open_store(config)?;
    let report = store.migrate().await;
    store.close().await;
    let report = report?;
    Ok(format!(
        "{} schema changes applied{}; {} messages numbered, {} clients linked to their accounts",
        report.applied,
        if report.adopted {
            " to an existing database"
        } else {
            ""
        },
        report.numbered_messages,
        report.linked_clients
    ))
}

/// Makes an agency account, in a database that is brought up to date first where that is the node's business.
pub async fn create_admin(
    config: &Config,
    arguments: &AdminArgs,
    password: &Secret,
) -> Result<String, CommandError> {
    let store = open_store(config)?;
    if config.database.auto_migrate {
        store.migrate().await?;
    } else if let Some(obstacle) = store.check().await?.obstacle() {
        return Err(UpkeepError::Hindered(obstacle.to_owned()).into());
    }
    let created = cli::create_admin(&*store, arguments, password).await;
    store.close().await;
    let user = created?;
    Ok(format!(
        "{} is an agency account now (id {})",
        user.email, user.id
    ))
}

/// The signals that end a node.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, StartError> {
        let open = |kind| {
            signal(kind)
                .map_err(|error| StartError::Machine(format!("signals can't be caught: {error}")))
        };
        Ok(Self {
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
        })
    }

    /// Returns whether it was somebody at a terminal, who waits.
    async fn wait(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => true,
        }
    }
}
