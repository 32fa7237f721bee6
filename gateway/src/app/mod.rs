//! The roof: concrete types are named in `node` and nowhere else. It puts a node together from its settings, serves, and
//! takes it apart in order.

mod demo;
mod node;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{self, AdminArgs};
use crate::config::{AppEnv, Config, Secret};
use crate::failure::Failure;
use crate::listener;
use crate::telemetry::exporter::{self, ExporterError};
use node::Node;
pub use node::open_store;

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

/// Serves until SIGTERM or SIGINT; a second one ends it at once.
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
    let node = Node::build(&config)?;
    greet(&config, port, metrics);

    let mut serving = tokio::spawn(listener::serve(
        listener,
        node.router(),
        stop_listening.clone(),
    ));

    signals.wait().await;
    tokio::spawn(async move {
        signals.wait().await;
        tracing::warn!("a second signal: ending at once");
        std::process::exit(1);
    });
    tracing::info!(seconds = config.drain.as_secs(), "draining");
    node.drain(config.drain).await;
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
    tracing::info!("ended");
    Ok(())
}

/// Brings the database to this version's schema, and says what that took.
pub async fn migrate(config: &Config) -> Result<String, Failure> {
    let store = open_store(config).map_err(Failure::internal)?;
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
) -> Result<String, Failure> {
    let store = open_store(config).map_err(Failure::internal)?;
    if config.database.auto_migrate {
        store.migrate().await?;
    }
    let created = cli::create_admin(&*store, arguments, password).await;
    store.close().await;
    created.map(|user| format!("{} is an agency account now (id {})", user.email, user.id))
}

/// Tells whoever started the node where to look.
fn greet(config: &Config, port: u16, metrics: Option<SocketAddr>) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        host = config.host,
        port,
        metrics = metrics.map(tracing::field::display),
        redis = config.redis.is_some(),
        "listening"
    );
    if config.env == AppEnv::Development {
        let (host, _) = config.local_address();
        println!("\n  The chat gateway is up (development mode).\n");
        println!("    REST and sockets   http://{host}:{port}");
        println!("    its documentation  http://{host}:{port}/api/docs");
        if let Some(address) = metrics {
            println!("    metrics            http://{address}/metrics");
        }
        println!();
    }
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

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
