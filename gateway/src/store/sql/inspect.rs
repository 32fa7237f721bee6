//! A look at the database itself: its settings, its clock, how much room its tables take; and making that less.

use std::time::Instant;

use chrono::Utc;

use super::SqlStore;
use super::conn::Conn;
use super::dialect::Dialect;
use super::fault::Fault;
use super::query::Query;
use crate::store::{Inspection, MySqlSettings, TableSize};

/// The tables that grow.
const LARGE: [&str; 6] = [
    "Messages",
    "ArchivedMessages",
    "ConversationEvents",
    "Conversations",
    "Outbox",
    "RefreshTokens",
];

impl SqlStore {
    /// See `Upkeep::inspect`.
    pub(super) async fn look(&self) -> Result<Inspection, Fault> {
        let begun = Instant::now();
        let clock = Query::new(format!("SELECT {}", self.dialect().now_ms()));
        let row = self.db.first_of_all(clock).await?;
        let database_ms = row.map_or(Ok(0), |row| row.int())?;
        let took = begun.elapsed();
        let mysql = match self.dialect() {
            Dialect::Sqlite => None,
            Dialect::MySql => {
                let query = Query::new(
                    "SELECT VERSION(), CAST(@@innodb_flush_log_at_trx_commit AS SIGNED), \
                     CAST(@@max_connections AS SIGNED), CAST(@@max_allowed_packet AS SIGNED), \
                     CAST(@@global.read_only AS SIGNED)",
                );
                let row = self.db.first_of_all(query).await?;
                let row = row.ok_or(sqlx::Error::RowNotFound)?;
                let mut cells = row.cells();
                Some(MySqlSettings {
                    version: cells.text()?,
                    flush_at_commit: cells.int()?,
                    max_connections: cells.int()?,
                    max_packet: cells.int()?,
                    read_only: cells.bool()?,
                })
            }
        };
        Ok(Inspection {
            // The question's way there and back is no difference.
            ahead_ms: database_ms - Utc::now().timestamp_millis()
                + i64::try_from(took.as_millis() / 2).unwrap_or(0),
            took,
            mysql,
        })
    }

    /// See `Upkeep::optimize`.
    pub(super) async fn compact(&self) -> Result<Vec<TableSize>, Fault> {
        let mut conn = self.db.unhurried().await?;
        match self.dialect() {
            Dialect::MySql => {
                let mut sizes = Vec::new();
                for table in LARGE {
                    let before = table_size(&mut conn, table).await?;
                    // InnoDB builds the table anew beside itself, while others read and write it, and counts its keys anew.
                    conn.raw(&format!("OPTIMIZE TABLE {table}")).await?;
                    let after = table_size(&mut conn, table).await?;
                    sizes.push(TableSize {
                        name: table,
                        before,
                        after,
                    });
                }
                Ok(sizes)
            }
            Dialect::Sqlite => {
                let before = file_size(&mut conn).await?;
                conn.raw("PRAGMA optimize").await?;
                conn.raw("VACUUM").await?;
                let after = file_size(&mut conn).await?;
                Ok(vec![TableSize {
                    name: "the file",
                    before,
                    after,
                }])
            }
        }
    }
}

async fn table_size(conn: &mut Conn, table: &str) -> Result<i64, Fault> {
    let query = Query::new(
        "SELECT CAST(COALESCE(SUM(DATA_LENGTH + INDEX_LENGTH), 0) AS SIGNED) FROM information_schema.TABLES \
         WHERE TABLE_SCHEMA = DATABASE() AND LOWER(TABLE_NAME) = LOWER(?)",
    )
    .bind(table);
    conn.first(query).await?.map_or(Ok(0), |row| row.int())
}

async fn file_size(conn: &mut Conn) -> Result<i64, Fault> {
    let query =
        Query::new("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()");
    conn.first(query).await?.map_or(Ok(0), |row| row.int())
}
