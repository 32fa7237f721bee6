//! What a store must be told. Where the values come from stands in `config`, not here.

use std::time::Duration;

/// How to reach the database. It has no `Debug`: the addresses hold passwords.
#[derive(Clone)]
pub struct Settings {
    /// `sqlite://path`, or `mysql://user:password@host:port/database`.
    pub url: String,
    /// A lagging copy of the same database, for the reads that may lag.
    pub replica_url: Option<String>,
    /// How far behind it may be and still be read. Zero: nothing is read from it, but who writes is noted.
    pub replica_lag: Duration,
    /// The most connections a node opens to each of the two.
    pub pool_size: u32,
    /// How long a call waits for a free connection.
    pub acquire_timeout: Duration,
    /// How long one statement may take, waiting for locks included. Migrations are exempt.
    pub statement_timeout: Duration,
}

impl Settings {
    /// An address, with values that do for one program on its own machine. A node's come from `config`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            replica_url: None,
            replica_lag: Duration::from_secs(5),
            pool_size: 16,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
        }
    }
}

/// An address that is none. It never shows the address itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidUrl(pub(super) String);
