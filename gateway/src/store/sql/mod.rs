//! The store over SQL. `open` and what all parts share stand here; the parts are by domain, and `schema/` makes and
//! adopts the tables. Statements are written once, in the words that MySQL, MariaDB and SQLite share; `dialect` has the
//! words they don't.

mod accounts;
mod append;
mod archive;
mod backup;
mod conn;
mod conversations;
mod db;
mod dialect;
mod fault;
mod inspect;
mod log;
mod messages;
mod opening;
mod pool;
mod query;
mod reading;
mod replica;
mod rows;
mod schema;
mod sessions;
mod transaction;
mod upkeep;

use std::sync::Arc;

use chrono::Timelike as _;
use shared::Timestamp;
use tokio::sync::OnceCell;

use db::Db;
use dialect::Dialect;
use fault::Fault;
use query::Query;
use replica::Replica;

use super::{InvalidUrl, Settings, SharedStore};

/// Makes the store of an address. The database need not be up: calls fail with `Unavailable` until it is.
pub fn open(settings: &Settings) -> Result<SharedStore, InvalidUrl> {
    let db = Db::open(&settings.url, settings, "database")?;
    let replica = match &settings.replica_url {
        Some(url) => {
            let db = Db::open(url, settings, "replica")
                .map_err(|InvalidUrl(why)| InvalidUrl(format!("the replica's: {why}")))?;
            Some(Replica::new(db, settings))
        }
        None => None,
    };
    let store = Arc::new(SqlStore {
        address: settings.url.clone(),
        db,
        replica,
        whole_seconds: OnceCell::new(),
    });
    if let Some(replica) = &store.replica {
        let stop = replica.stop.clone();
        tokio::spawn(replica::keep_clock(Arc::downgrade(&store), stop));
    }
    Ok(store)
}

/// The store.
struct SqlStore {
    /// Where the database is, for its own tools. It holds a password.
    address: String,
    db: Db,
    /// A copy that may lag: for lists of people and of conversations, unread counts, and pages of messages. Nothing else.
    replica: Option<Replica>,
    /// Whether the columns for times hold no fractions, as the old system's don't: looked up once, when first needed.
    whole_seconds: OnceCell<bool>,
}

impl SqlStore {
    const fn dialect(&self) -> Dialect {
        self.db.dialect()
    }

    /// A time as the columns will hold it, so that what is answered now is what will be read later.
    async fn keepable(&self, at: Timestamp) -> Result<Timestamp, Fault> {
        let whole = *self
            .whole_seconds
            .get_or_try_init(|| self.load_whole_seconds())
            .await?;
        let nanos = if whole {
            0
        } else {
            at.0.nanosecond() / 1_000_000 * 1_000_000
        };
        Ok(at.0.with_nanosecond(nanos).map_or(at, Timestamp))
    }

    /// One answer for all tables: the coarsest of their columns.
    async fn load_whole_seconds(&self) -> Result<bool, Fault> {
        if self.dialect() == Dialect::Sqlite {
            return Ok(false);
        }
        let query = Query::new(
            "SELECT COALESCE(MIN(DATETIME_PRECISION), 3) FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = DATABASE() \
               AND LOWER(TABLE_NAME) IN ('users', 'clients', 'conversations', 'messages') \
               AND COLUMN_NAME IN ('createdAt', 'updatedAt', 'readAt', 'lastMessageTime')",
        );
        let precision = self
            .db
            .first_of_all(query)
            .await?
            .map_or(Ok(3), |row| row.int())?;
        Ok(precision < 3)
    }
}
