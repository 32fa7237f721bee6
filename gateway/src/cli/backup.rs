//! `gateway backup` and `gateway restore`: what they take.

use std::path::PathBuf;

use clap::Args;

/// The arguments of `backup`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct BackupArgs {
    /// The file to write; it must not be there yet. SQL on MySQL, an SQLite file on SQLite
    #[arg(long)]
    pub to: PathBuf,
}

/// The arguments of `restore`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(long)]
    pub from: PathBuf,
    /// Drop everything that is in the database first; without it the database must be empty
    #[arg(long)]
    pub replace_everything: bool,
}
