//! How a store fails.

use crate::gate::Full;

/// A failed call. Its text may name tables and hosts, never a row's content.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Too many calls wait for a connection already: this one was refused at once, and nothing was begun.
    #[error(transparent)]
    Full(#[from] Full),
    /// The database can't be reached, is too slow, or has no free connection: worth another try later.
    #[error("the database is unavailable: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database answered, and not as this program expects.
    #[error("the database refused: {0}")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A column can't hold a text as it is: an adopted table of an old character set has no emoji.
    #[error("the database can't hold this text: {0}")]
    Unstorable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a command of upkeep was not done, for whoever typed it.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The database is not as it should be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something stands in the way.
    #[error("{0}")]
    Hindered(String),
    /// A file or a program, by name, that can't be used.
    #[error("{0}: {1}")]
    File(String, #[source] std::io::Error),
}
