//! The schema: its versions (`migrations/`), what is added to the old system's tables (`columns`), and what is filled in
//! for its rows (`adopt`). No statement of the running chat stands here.

mod adopt;
mod columns;

pub(super) use columns::{LOG_AGE, columns_of};

use async_trait::async_trait;
use sqlx::Connection as _;
use sqlx::migrate::MigrateError;

use super::SqlStore;
use super::conn::{Conn, Inner};
use super::dialect::Dialect;
use super::fault::Fault;
use super::query::Query;
use crate::store::types::UNFINISHED_RESTORE;
use crate::store::{MigrationReport, Schema, SchemaState, StoreError};

/// The version of all that `migrate` makes: the numbered files and the added columns. To be raised with either.
const VERSION: i64 = 4;

/// A table that is there while a restore is under way, and stays where it was cut short: nobody serves this database, nor
/// brings it up to date. No row of `SchemaProgress`, which comes anew with the backup.
pub(super) const RESTORE_UNFINISHED: &str = "RestoreUnfinished";

/// How long a node waits, in seconds, while another migrates.
const TURN: i64 = 3600;

#[async_trait]
impl Schema for SqlStore {
    async fn migrate(&self) -> Result<MigrationReport, StoreError> {
        let mut conn = self.db.unhurried().await?;
        let dialect = self.dialect();
        if dialect == Dialect::MySql {
            take_turn(&mut conn).await?;
        }
        if is_half_restored(&mut conn, dialect).await? {
            return Err(StoreError::Internal(UNFINISHED_RESTORE.into()));
        }
        Ok(bring_up_to_date(&mut conn, dialect).await?)
    }

    async fn check(&self) -> Result<SchemaState, StoreError> {
        // Before the version: what of the backup is there already may have brought one.
        if let Some(mark) = restore_mark(self.dialect())
            && self.db.first_of_all(mark).await?.is_some()
        {
            return Ok(SchemaState::RestoreUnfinished);
        }
        let query = Query::new("SELECT value FROM SchemaProgress WHERE name = 'schema'");
        match self.db.first_of_all(query).await {
            // A later version only adds: this program still works with it while a new one is rolled out.
            Ok(Some(row)) if row.int()? >= VERSION => Ok(SchemaState::Current),
            Ok(_) => Ok(SchemaState::Outdated),
            Err(fault) if fault.is_missing_schema() => Ok(SchemaState::Outdated),
            Err(fault) => Err(fault.into()),
        }
    }

    async fn close(&self) {
        self.db.close().await;
        if let Some(replica) = &self.replica {
            replica.stop.cancel();
            replica.db.close().await;
        }
    }
}

/// Whether a restore was not finished.
pub(super) async fn is_half_restored(conn: &mut Conn, dialect: Dialect) -> Result<bool, Fault> {
    match restore_mark(dialect) {
        Some(mark) => Ok(conn.first(mark).await?.is_some()),
        None => Ok(false),
    }
}

/// Answers a row where a restore was not finished. On SQLite one is there as a whole, or not at all.
fn restore_mark(dialect: Dialect) -> Option<Query> {
    match dialect {
        Dialect::MySql => Some(Query::new(format!(
            "SELECT 1 FROM information_schema.TABLES \
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '{RESTORE_UNFINISHED}'"
        ))),
        Dialect::Sqlite => None,
    }
}

/// Does all of it, in its turn.
pub(super) async fn bring_up_to_date(
    conn: &mut Conn,
    dialect: Dialect,
) -> Result<MigrationReport, Fault> {
    let mut report = MigrationReport {
        adopted: is_old_system(conn, dialect).await?,
        applied: apply(conn).await?,
        ..MigrationReport::default()
    };
    columns::add(conn, dialect).await?;
    report.linked_clients = adopt::link_clients(conn).await?;
    report.numbered_messages = adopt::number_messages(conn, dialect).await?;
    columns::finish(conn, dialect).await?;
    set_progress(conn, "schema", VERSION).await?;
    Ok(report)
}

/// Waits until nobody else migrates or restores this MySQL database. The lock ends with the connection.
pub(super) async fn take_turn(conn: &mut Conn) -> Result<(), Fault> {
    let query =
        Query::new("SELECT GET_LOCK(CONCAT('chat-migrate-', MD5(DATABASE())), ?)").bind(TURN);
    let row = conn.first(query).await?.ok_or(sqlx::Error::RowNotFound)?;
    match row.cells().opt_int()? {
        Some(1) => Ok(()),
        _ => Err(Fault::TooSlow),
    }
}

/// Whether tables of the old system are there, and this program has never been.
async fn is_old_system(conn: &mut Conn, dialect: Dialect) -> Result<bool, Fault> {
    let tables = tables(conn, dialect).await?;
    let has = |name: &str| tables.iter().any(|table| table == name);
    Ok(["users", "clients", "conversations", "messages"]
        .into_iter()
        .any(has)
        && !has("schemaprogress"))
}

/// The names of all tables, in lower case: some MySQL servers keep them so.
async fn tables(conn: &mut Conn, dialect: Dialect) -> Result<Vec<String>, Fault> {
    let query = Query::new(match dialect {
        Dialect::MySql => {
            "SELECT LOWER(TABLE_NAME) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
        }
        Dialect::Sqlite => "SELECT LOWER(name) FROM sqlite_master WHERE type = 'table'",
    });
    let mut tables = Vec::new();
    for row in conn.all(query).await? {
        tables.push(row.cells().text()?);
    }
    Ok(tables)
}

/// Runs the numbered files that were not run yet; how many.
async fn apply(conn: &mut Conn) -> Result<u32, Fault> {
    let before = applied(conn).await?;
    let outcome = match conn.inner() {
        Inner::MySql(conn) => {
            let mut migrator = sqlx::migrate!("../migrations/mysql");
            // The whole migration is behind a lock already.
            migrator.set_locking(false).set_ignore_missing(true);
            migrator.run_direct(None, conn.conn(), false).await
        }
        Inner::Sqlite(conn) => {
            let mut migrator = sqlx::migrate!("../migrations/sqlite");
            migrator.set_ignore_missing(true);
            let mut tx = conn.conn().begin_with("BEGIN IMMEDIATE").await?;
            match migrator.run_direct(None, &mut *tx, false).await {
                Ok(()) => tx.commit().await.map_err(MigrateError::from),
                Err(error) => Err(error),
            }
        }
    };
    outcome.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            Fault::Sql(error)
        }
        error => Fault::Sql(sqlx::Error::Migrate(Box::new(error))),
    })?;
    Ok(u32::try_from(applied(conn).await?.saturating_sub(before)).unwrap_or(0))
}

/// How many files were run whole. What was cut short is forgotten, so that it is run again: each of them bears that.
async fn applied(conn: &mut Conn) -> Result<i64, Fault> {
    match conn
        .run(Query::new(
            "DELETE FROM _sqlx_migrations WHERE success = FALSE",
        ))
        .await
    {
        Ok(_) => {}
        Err(fault) if fault.is_missing_schema() => return Ok(0),
        Err(fault) => return Err(fault),
    }
    let query = Query::new("SELECT COUNT(*) FROM _sqlx_migrations");
    conn.first(query).await?.map_or(Ok(0), |row| row.int())
}

/// How far something has come; 0 for not begun.
async fn progress(conn: &mut Conn, name: &str) -> Result<i64, Fault> {
    let query = Query::new("SELECT value FROM SchemaProgress WHERE name = ?").bind(name);
    conn.first(query).await?.map_or(Ok(0), |row| row.int())
}

async fn set_progress(conn: &mut Conn, name: &str, value: i64) -> Result<(), Fault> {
    let query = Query::new("REPLACE INTO SchemaProgress (name, value) VALUES (?, ?)")
        .bind(name)
        .bind(value.max(progress(conn, name).await?));
    conn.run(query).await?;
    Ok(())
}
