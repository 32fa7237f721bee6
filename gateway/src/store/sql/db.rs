//! Connections: pools that need no database to be made, statements bounded in time. No statement about the chat's own tables
//! stands here; transactions are `transaction`'s.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use log::LevelFilter;
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions};
use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Database, Executor as _, Pool};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::dialect::Dialect;
use super::fault::Fault;
use super::query::{MySqlConn, Query, Row, SqliteConn};
use super::transaction::ATTEMPTS;
use crate::gate::{Gate, Pass};
use crate::store::{InvalidUrl, Settings};

/// Prepared statements a connection keeps: all of this program's, each in its few lengths, fit.
const STATEMENT_CACHE: usize = 256;

/// How many calls may wait for each connection. Where one is held for 5 ms, as usual, the last in line waits a sixth of a
/// second; where it is held so long that the last would wait in vain, a longer line helps nobody.
const WAITING: usize = 32;

/// How long to wait before a server that lets nobody in is asked again; a connection of our own may be free before.
const DOOR_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may take to come back into its pool, where it is tried once more: on a link that died silently
/// it never would, and its place in the pool would be lost with it.
const RETURN: Duration = Duration::from_secs(5);

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
    MySql(MySqlPool, MySqlConnectOptions),
    /// SQLite has one writer at a time anyway: waiting for the only writing connection is fair and wakes at once,
    /// waiting for the file's lock is neither.
    Sqlite {
        reading: SqlitePool,
        writing: SqlitePool,
        options: SqliteConnectOptions,
    },
}

/// What a statement did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    /// Rows changed.
    pub(super) rows: u64,
    /// The id of the row inserted. Of several, MySQL's first, SQLite's last.
    last_id: i64,
}

impl Done {
    /// The id of the first of `rows` rows that one INSERT made. Both databases number the rows of one INSERT whose
    /// number of rows is known beforehand in one go: MySQL in steps of `auto_increment_increment` in every
    /// `innodb_autoinc_lock_mode` (MySQL manual, "AUTO_INCREMENT Handling in InnoDB", simple inserts), SQLite because
    /// nobody else writes.
    pub(super) fn first_id(self, dialect: Dialect, rows: usize) -> i64 {
        match dialect {
            Dialect::MySql => self.last_id,
            Dialect::Sqlite => self.last_id - i64::try_from(rows).unwrap_or(1) + 1,
        }
    }

    /// The id of the one row inserted.
    pub(super) fn id(self) -> i64 {
        self.last_id
    }
}

/// A connection, which runs one statement at a time.
pub(super) struct Conn {
    inner: Inner,
    timeout: Option<Duration>,
    /// When the transaction it is used for must have come to its end.
    pub(super) by: Option<Instant>,
    /// It is of no more use.
    pub(super) spoiled: bool,
    /// Its place among the calls, where it takes one.
    _place: Option<Pass>,
}

pub(super) enum Inner {
    MySql(MySqlConn),
    Sqlite(SqliteConn),
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
        let place = self.calls.enter()?;
        self.run_in(query, Some(place)).await
    }

    /// The same, not in line with the others: for what others wait for, and must be small.
    pub(super) async fn run_of_all(&self, query: Query) -> Result<Done, Fault> {
        self.run_in(query, None).await
    }

    async fn run_in(&self, query: Query, place: Option<Pass>) -> Result<Done, Fault> {
        let mut tries = self.tries();
        let mut conn = self.writer(tries.by, place).await?;
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
            Pools::MySql(_, options) => Inner::MySql(
                MySqlPoolOptions::new()
                    .max_connections(1)
                    .acquire_timeout(self.timeout)
                    .after_connect(|conn, _| {
                        Box::pin(async move { prepare_mysql(conn, None).await })
                    })
                    .connect_lazy_with(options.clone())
                    .acquire()
                    .await?,
            ),
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
                        conn => break Inner::Sqlite(conn?),
                    }
                }
            }
        };
        let mut conn = Conn {
            inner,
            timeout: None,
            by: None,
            spoiled: false,
            _place: None,
        };
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

    pub(super) async fn reader(&self, by: Instant, place: Option<Pass>) -> Result<Conn, Fault> {
        let inner = match &self.pools {
            Pools::MySql(pool, _) => Inner::MySql(acquire(pool, by).await?),
            Pools::Sqlite {
                reading, options, ..
            } => {
                make_folder(options.get_filename())?;
                Inner::Sqlite(acquire(reading, by).await?)
            }
        };
        Ok(self.conn(inner, place))
    }

    pub(super) async fn writer(&self, by: Instant, place: Option<Pass>) -> Result<Conn, Fault> {
        let Pools::Sqlite {
            writing, options, ..
        } = &self.pools
        else {
            return self.reader(by, place).await;
        };
        make_folder(options.get_filename())?;
        let inner = Inner::Sqlite(acquire(writing, by).await?);
        Ok(self.conn(inner, place))
    }

    fn conn(&self, inner: Inner, place: Option<Pass>) -> Conn {
        Conn {
            inner,
            timeout: Some(self.timeout),
            by: None,
            spoiled: false,
            _place: place,
        }
    }
}

/// Waits for a connection. A server that lets nobody in just now is asked again: one that restarts is back in a moment,
/// and where it has too many connections, one of ours will do.
async fn acquire<D: Database>(pool: &Pool<D>, by: Instant) -> Result<PoolConnection<D>, Fault> {
    loop {
        let answer = timeout_at(by, pool.acquire()).await;
        match answer
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
            .map_err(Fault::Sql)
        {
            Err(fault) if fault.is_closed_door() && Instant::now() + DOOR_PAUSE < by => {
                sleep(DOOR_PAUSE).await;
            }
            answer => return answer,
        }
    }
}

impl Conn {
    pub(super) async fn all(&mut self, query: Query) -> Result<Vec<Row>, Fault> {
        let timeout = self.time_left();
        let inner = &mut self.inner;
        let answer = async move {
            match inner {
                Inner::MySql(conn) => {
                    let (sql, arguments) = query.into_mysql()?;
                    let rows = sqlx::query_with(sql, arguments).fetch(&mut **conn);
                    Ok(rows.map_ok(Row::MySql).try_collect().await?)
                }
                Inner::Sqlite(conn) => {
                    let (sql, arguments) = query.into_sqlite()?;
                    let rows = sqlx::query_with(sql, arguments).fetch(&mut **conn);
                    Ok(rows.map_ok(Row::Sqlite).try_collect().await?)
                }
            }
        };
        let answer = within(timeout, answer).await;
        self.give_up_after(answer)
    }

    pub(super) async fn first(&mut self, query: Query) -> Result<Option<Row>, Fault> {
        Ok(self.all(query).await?.into_iter().next())
    }

    pub(super) async fn run(&mut self, query: Query) -> Result<Done, Fault> {
        let timeout = self.time_left();
        let inner = &mut self.inner;
        let answer = async move {
            match inner {
                Inner::MySql(conn) => {
                    let (sql, arguments) = query.into_mysql()?;
                    let done = sqlx::query_with(sql, arguments)
                        .execute(&mut **conn)
                        .await?;
                    Ok(Done {
                        rows: done.rows_affected(),
                        last_id: i64::try_from(done.last_insert_id()).unwrap_or(0),
                    })
                }
                Inner::Sqlite(conn) => {
                    let (sql, arguments) = query.into_sqlite()?;
                    let done = sqlx::query_with(sql, arguments)
                        .execute(&mut **conn)
                        .await?;
                    Ok(Done {
                        rows: done.rows_affected(),
                        last_id: done.last_insert_rowid(),
                    })
                }
            }
        };
        let answer = within(timeout, answer).await;
        self.give_up_after(answer)
    }

    /// Statements without values, not prepared: DDL and the ends of transactions.
    pub(super) async fn raw(&mut self, sql: &str) -> Result<(), Fault> {
        let timeout = self.time_left();
        let inner = &mut self.inner;
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let answer = async move {
            match inner {
                Inner::MySql(conn) => conn.execute(sql).await.map(drop)?,
                Inner::Sqlite(conn) => conn.execute(sql).await.map(drop)?,
            }
            Ok(())
        };
        let answer = within(timeout, answer).await;
        self.give_up_after(answer)
    }

    /// Begins a transaction on this connection, to be ended with `raw("COMMIT")`.
    pub(super) async fn begin(&mut self) -> Result<(), Fault> {
        self.raw(match self.inner {
            Inner::MySql(_) => "BEGIN",
            // Locks at once: a transaction that reads before it writes could not be allowed to write otherwise.
            Inner::Sqlite(_) => "BEGIN IMMEDIATE",
        })
        .await
    }

    /// The driver's own connection, for its migrator.
    pub(super) const fn inner(&mut self) -> &mut Inner {
        &mut self.inner
    }

    /// For the next statement.
    fn time_left(&self) -> Option<Duration> {
        let whole = self
            .by
            .map(|by| by.saturating_duration_since(Instant::now()));
        self.timeout
            .map(|one| whole.map_or(one, |whole| whole.min(one)))
    }

    pub(super) fn close_on_drop(&mut self) {
        self.spoiled = true;
        match &mut self.inner {
            Inner::MySql(conn) => conn.close_on_drop(),
            Inner::Sqlite(conn) => conn.close_on_drop(),
        }
    }

    /// Some faults leave a connection that is of no more use.
    fn give_up_after<T>(&mut self, answer: Result<T, Fault>) -> Result<T, Fault> {
        if answer.as_ref().is_err_and(Fault::spoils_connection) {
            self.close_on_drop();
        }
        answer
    }
}

impl Drop for Conn {
    /// Back into the pool, in bounded time. The pool would do it by itself, and wait for as long as its check of the
    /// connection takes.
    fn drop(&mut self) {
        if let (false, Inner::MySql(conn)) = (self.spoiled, &mut self.inner) {
            tokio::spawn(timeout(RETURN, conn.return_to_pool()));
        }
    }
}

async fn within<T>(
    timeout: Option<Duration>,
    answer: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    match timeout {
        Some(timeout) => tokio::time::timeout(timeout, answer)
            .await
            .unwrap_or(Err(Fault::TooSlow)),
        None => answer.await,
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
    files_are_there(&url)?;
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
    Ok(Pools::MySql(pool, options))
}

/// Whether the files of TLS can be read: a wrong path is a wrong setting, and the driver would not say which. Its own affair is
/// what they hold: it reads them for each new connection, so that they can be replaced.
fn files_are_there(url: &str) -> Result<(), InvalidUrl> {
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    for (name, path) in parameters.split('&').filter_map(|one| one.split_once('=')) {
        let is_file = ["ca", "cert", "key"]
            .into_iter()
            .any(|end| name.trim_start_matches("ssl").trim_start_matches('-') == end);
        // What is escaped is left to the driver.
        if is_file
            && !path.contains('%')
            && let Err(error) = std::fs::File::open(path)
        {
            return Err(InvalidUrl(format!("{name}={path}: {error}")));
        }
    }
    Ok(())
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
        reading: pool_options(settings).connect_lazy_with(options.clone()),
        writing: pool_options(settings)
            .max_connections(1)
            .connect_lazy_with(options.clone()),
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
