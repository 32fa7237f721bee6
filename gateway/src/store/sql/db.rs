//! The database: pools that need none to be made, and what one statement by itself takes of them. No statement about the chat's own tables
//! stands here; transactions are `transaction`'s.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use log::LevelFilter;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::pool::PoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Database, Executor as _, MySql, Sqlite};
use tokio::time::{Instant, sleep};

use super::conn::{Conn, Done, Inner};
use super::dialect::Dialect;
use super::fault::Fault;
use super::pool::{Connections, Held};
use super::query::{Query, Row};
use super::transaction::ATTEMPTS;
use crate::gate::{Gate, Pass};
use crate::store::{InvalidUrl, Settings};

/// Prepared statements a connection keeps: all of this program's, each in its few lengths, fit.
const STATEMENT_CACHE: usize = 256;

/// How many calls may wait for each connection. Where one is held for 5 ms, as usual, the last in line waits a sixth of a
/// second; where it is held so long that the last would wait in vain, a longer line helps nobody.
const WAITING: usize = 32;

/// How long MySQL keeps a connection that nobody uses, seconds. It is what ends the transaction of a node that vanished
/// without a word, and frees what that has locked. The pool lets go of idle connections before.
const IDLE_SECONDS: u64 = 60;

/// The pools of one database.
pub(super) struct Db {
    pools: Pools,
    /// For one statement, on this side; the server is told to give up first.
    pub(super) timeout: Duration,
    /// How long a call waits for a connection.
    pub(super) acquire_timeout: Duration,
    /// The calls that have a connection or wait for one.
    pub(super) calls: Gate,
}

enum Pools {
    MySql(Connections<MySql>, MySqlConnectOptions),
    /// SQLite has one writer at a time anyway: waiting for the only writing connection is fair and wakes at once,
    /// waiting for the file's lock is neither.
    Sqlite {
        reading: Connections<Sqlite>,
        writing: Connections<Sqlite>,
        options: SqliteConnectOptions,
    },
}

impl Db {
    /// Reads an address and makes the pools. Nothing is connected yet.
    pub(super) fn open(url: &str, settings: &Settings) -> Result<Self, InvalidUrl> {
        let pools = if url.starts_with("mysql://") || url.starts_with("mariadb://") {
            mysql_pools(url, settings)?
        } else if url.starts_with("sqlite:") {
            sqlite_pools(url, settings)?
        } else {
            return Err(InvalidUrl(
                "must begin with sqlite:// or mysql://".to_owned(),
            ));
        };
        Ok(Self {
            pools,
            timeout: settings.statement_timeout + Duration::from_millis(500),
            acquire_timeout: settings.acquire_timeout,
            calls: Gate::new(
                "database",
                settings.pool_size.max(1) as usize * (1 + WAITING),
            ),
        })
    }

    pub(super) const fn dialect(&self) -> Dialect {
        match self.pools {
            Pools::MySql(..) => Dialect::MySql,
            Pools::Sqlite { .. } => Dialect::Sqlite,
        }
    }

    /// A reading statement's rows. Where its connection is lost under it, it is asked once more.
    pub(super) async fn all(&self, query: Query) -> Result<Vec<Row>, Fault> {
        let by = Instant::now() + self.acquire_timeout;
        let place = self.calls.enter()?;
        let answer = self.reader(by, None).await?.all(query.clone()).await;
        match answer {
            Err(fault) if fault.is_lost_connection() && Instant::now() < by => {
                self.reader(by, Some(place)).await?.all(query).await
            }
            answer => answer,
        }
    }

    /// The same for the node's own questions: after the database's health, or for what all calls need to know. No crowd of
    /// callers may keep them out.
    pub(super) async fn first_of_all(&self, query: Query) -> Result<Option<Row>, Fault> {
        let by = Instant::now() + self.acquire_timeout;
        self.reader(by, None).await?.first(query).await
    }

    /// A reading statement's first row.
    pub(super) async fn first(&self, query: Query) -> Result<Option<Row>, Fault> {
        Ok(self.all(query).await?.into_iter().next())
    }

    /// A writing statement by itself, committed when it returns. Where others stand in its way it is tried again; where its
    /// connection is lost under it, it is unknown whether it took effect.
    pub(super) async fn run(&self, query: Query) -> Result<Done, Fault> {
        let mut tries = self.tries();
        let place = self.calls.enter()?;
        let mut conn = self.writer(tries.by, Some(place)).await?;
        loop {
            match conn.run(query.clone()).await {
                Err(fault) if fault.is_contention() && tries.next() => {}
                done => return done,
            }
        }
    }

    /// A connection of its own, without time limits, for migrations. It is closed when dropped.
    pub(super) async fn unhurried(&self) -> Result<Conn, Fault> {
        /// One node migrates, the others wait for the lock on the SQLite file this long.
        const TURN: Duration = Duration::from_secs(3600);
        /// Before a new SQLite file that somebody else is setting up is tried again.
        const LOCKED_PAUSE: Duration = Duration::from_millis(10);
        let inner = match &self.pools {
            Pools::MySql(_, options) => Inner::MySql(Held::own(
                MySqlPoolOptions::new()
                    .max_connections(1)
                    .acquire_timeout(self.timeout)
                    .after_connect(|conn, _| {
                        Box::pin(async move { prepare_mysql(conn, None).await })
                    })
                    .connect_lazy_with(options.clone())
                    .acquire()
                    .await?,
            )),
            Pools::Sqlite { options, .. } => {
                make_folder(options.get_filename())?;
                let options = options.clone().busy_timeout(TURN);
                // A new file turns to WAL at its first connection, and for that SQLite waits for nobody: of several that
                // open it at once, all but one are told that it is locked.
                let give_up = Instant::now() + self.timeout;
                loop {
                    let conn = PoolOptions::new()
                        .max_connections(1)
                        .acquire_timeout(self.timeout)
                        .connect_lazy_with(options.clone())
                        .acquire()
                        .await
                        .map_err(Fault::from);
                    match conn {
                        Err(fault) if fault.is_worth_a_retry() && Instant::now() < give_up => {
                            sleep(LOCKED_PAUSE).await;
                        }
                        conn => break Inner::Sqlite(Held::own(conn?)),
                    }
                }
            }
        };
        let mut conn = Conn::new(inner, None, None);
        conn.close_on_drop();
        Ok(conn)
    }

    pub(super) async fn close(&self) {
        match &self.pools {
            Pools::MySql(pool, _) => pool.close().await,
            Pools::Sqlite {
                reading, writing, ..
            } => {
                reading.close().await;
                writing.close().await;
            }
        }
    }

    async fn reader(&self, by: Instant, place: Option<Pass>) -> Result<Conn, Fault> {
        let inner = match &self.pools {
            Pools::MySql(pool, _) => Inner::MySql(pool.acquire(by).await?),
            Pools::Sqlite {
                reading, options, ..
            } => {
                make_folder(options.get_filename())?;
                Inner::Sqlite(reading.acquire(by).await?)
            }
        };
        Ok(Conn::new(inner, Some(self.timeout), place))
    }

    pub(super) async fn writer(&self, by: Instant, place: Option<Pass>) -> Result<Conn, Fault> {
        let Pools::Sqlite {
            writing, options, ..
        } = &self.pools
        else {
            return self.reader(by, place).await;
        };
        make_folder(options.get_filename())?;
        let inner = Inner::Sqlite(writing.acquire(by).await?);
        Ok(Conn::new(inner, Some(self.timeout), place))
    }
}

fn pool_options<D: Database>(settings: &Settings) -> PoolOptions<D> {
    PoolOptions::new()
        .max_connections(settings.pool_size.max(1))
        .acquire_timeout(settings.acquire_timeout)
        .idle_timeout(Duration::from_secs(IDLE_SECONDS - 10))
}

fn mysql_pools(url: &str, settings: &Settings) -> Result<Pools, InvalidUrl> {
    let url = url.replacen("mariadb://", "mysql://", 1);
    let options = MySqlConnectOptions::from_str(&url)
        .map_err(|_| InvalidUrl("is no mysql://user:password@host:port/database".to_owned()))?;
    if options.get_database().is_none() {
        return Err(InvalidUrl("names no database".to_owned()));
    }
    let options = options
        .charset("utf8mb4")
        .statement_cache_capacity(STATEMENT_CACHE)
        .disable_statement_logging();
    let limits = SessionLimits {
        statement: settings.statement_timeout,
        transaction: settings.acquire_timeout + settings.statement_timeout,
    };
    let pool = pool_options(settings)
        .after_connect(move |conn, _| {
            Box::pin(async move { prepare_mysql(conn, Some(limits)).await })
        })
        .connect_lazy_with(options.clone());
    Ok(Pools::MySql(Connections::new(pool), options))
}

/// How long the server lets a connection take for something.
#[derive(Clone, Copy)]
struct SessionLimits {
    statement: Duration,
    /// As long as a transaction takes with all its attempts.
    transaction: Duration,
}

/// Makes a session fit: reads see what others have committed (a batch must see a repeat that was stored while it waited
/// for its lock), nothing is cut to fit a column, nothing runs for ever.
async fn prepare_mysql(
    conn: &mut sqlx::MySqlConnection,
    limits: Option<SessionLimits>,
) -> Result<(), sqlx::Error> {
    conn.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        .await?;
    conn.execute("SET SESSION sql_mode = CONCAT_WS(',', @@sql_mode, 'STRICT_TRANS_TABLES')")
        .await?;
    let Some(limits) = limits else {
        return Ok(());
    };
    let version: String = sqlx::query_scalar("SELECT VERSION()")
        .fetch_one(&mut *conn)
        .await?;
    let statement = limits.statement;
    let limit = if version.contains("MariaDB") {
        // A node that vanished without a word holds its locks no longer than one that is alive.
        let idle = limits.transaction.as_secs().max(1);
        format!(
            "max_statement_time = {}, SESSION idle_transaction_timeout = {idle}",
            statement.as_secs_f64()
        )
    } else {
        // MySQL has nothing for idle transactions alone.
        format!(
            "max_execution_time = {}, SESSION wait_timeout = {IDLE_SECONDS}",
            statement.as_millis()
        )
    };
    // So that all attempts of a transaction together stay near the limit of one statement.
    let lock_wait = (statement.as_secs() / u64::from(ATTEMPTS)).max(1);
    let sql = format!("SET SESSION {limit}, SESSION innodb_lock_wait_timeout = {lock_wait}");
    conn.execute(AssertSqlSafe(sql)).await?;
    Ok(())
}

fn sqlite_pools(url: &str, settings: &Settings) -> Result<Pools, InvalidUrl> {
    let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
    if path.is_empty() || path.starts_with(":memory:") || path.contains("mode=memory") {
        return Err(InvalidUrl("must name a file".to_owned()));
    }
    let options = SqliteConnectOptions::from_str(url)
        .map_err(|_| InvalidUrl("is no sqlite://path".to_owned()))?
        .create_if_missing(true)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        // In WAL mode only FULL syncs at every commit: what was acknowledged survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(settings.statement_timeout)
        .statement_cache_capacity(STATEMENT_CACHE)
        // At the lowest level, without values: who looks into what is asked can listen (`sqlx::query=trace`).
        .log_statements(LevelFilter::Trace)
        .log_slow_statements(LevelFilter::Off, Duration::MAX);
    Ok(Pools::Sqlite {
        reading: Connections::new(pool_options(settings).connect_lazy_with(options.clone())),
        writing: Connections::new(
            pool_options(settings)
                .max_connections(1)
                .connect_lazy_with(options.clone()),
        ),
        options,
    })
}

/// SQLite makes its file, not the folders above it.
fn make_folder(file: &Path) -> Result<(), Fault> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.exists() => {
            std::fs::create_dir_all(folder).map_err(|error| Fault::Sql(sqlx::Error::Io(error)))
        }
        _ => Ok(()),
    }
}
