//! The commands that keep a database in shape: what they say when they are done, or why they are not.

use std::time::{Duration, Instant};

use chrono::Utc;
use shared::Timestamp;

use super::{CommandError, open_store};
use crate::cli::{ArchiveArgs, BackupArgs, RestoreArgs};
use crate::config::Config;
use crate::store::{ArchiveOrder, ArchiveOutcome, UpkeepError};

/// Moves old messages into the archive, and says how many.
pub async fn archive(config: &Config, arguments: &ArchiveArgs) -> Result<String, CommandError> {
    let begun = Instant::now();
    let store = open_store(config)?;
    if let Some(obstacle) = store.check().await?.obstacle() {
        return Err(hindered(obstacle.to_owned()));
    }
    let outcome = store
        .archive(ArchiveOrder {
            before: before(arguments.older_than)?,
            batch: arguments.batch,
            dry_run: arguments.dry_run,
        })
        .await;
    store.close().await;
    match outcome? {
        ArchiveOutcome::Done(archived) => Ok(format!(
            "{} messages of {} conversations {} ({:.1} s)",
            archived.messages,
            archived.conversations,
            if arguments.dry_run {
                "would be archived"
            } else {
                "archived"
            },
            begun.elapsed().as_secs_f64()
        )),
        ArchiveOutcome::Busy => Err(hindered(
            "another gateway archive is at work on this database".to_owned(),
        )),
        ArchiveOutcome::UnknownColumns(names) => Err(hindered(format!(
            "Messages has columns that the archive would lose: {}",
            names.join(", ")
        ))),
    }
}

/// Writes a backup, and says how large it is.
pub async fn backup(config: &Config, arguments: &BackupArgs) -> Result<String, CommandError> {
    let begun = Instant::now();
    let store = open_store(config)?;
    let outcome = store.backup(&arguments.to).await;
    store.close().await;
    Ok(format!(
        "{}: {} bytes ({:.1} s)",
        arguments.to.display(),
        outcome?,
        begun.elapsed().as_secs_f64()
    ))
}

/// Puts a backup back, and says what the database holds then.
pub async fn restore(config: &Config, arguments: &RestoreArgs) -> Result<String, CommandError> {
    let begun = Instant::now();
    let store = open_store(config)?;
    let outcome = store
        .restore(&arguments.from, arguments.replace_everything)
        .await;
    store.close().await;
    let restored = outcome?;
    let mut told = format!(
        "restored {} users, {} conversations, {} messages and {} archived ones ({:.1} s)",
        restored.users,
        restored.conversations,
        restored.messages,
        restored.archived,
        begun.elapsed().as_secs_f64()
    );
    if restored.incomplete > 0 {
        told.push_str(&format!(
            "\n{} conversations lack some of the messages they have counted",
            restored.incomplete
        ));
    }
    Ok(told)
}

/// Puts the large tables in shape, and says what that gave back.
pub async fn optimize(config: &Config) -> Result<String, CommandError> {
    let begun = Instant::now();
    let store = open_store(config)?;
    let outcome = store.optimize().await;
    store.close().await;
    let mut told = String::new();
    for size in outcome? {
        told.push_str(&format!(
            "{}: {} -> {} bytes\n",
            size.name, size.before, size.after
        ));
    }
    told.push_str(&format!("done ({:.1} s)", begun.elapsed().as_secs_f64()));
    Ok(told)
}

fn hindered(why: String) -> CommandError {
    UpkeepError::Hindered(why).into()
}

fn before(age: Duration) -> Result<Timestamp, CommandError> {
    chrono::Duration::from_std(age)
        .ok()
        .and_then(|age| Utc::now().checked_sub_signed(age))
        .map(Timestamp)
        .ok_or_else(|| hindered("--older-than reaches too far back".to_owned()))
}
