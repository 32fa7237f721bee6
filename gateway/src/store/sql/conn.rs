//! One connection: a statement at a time, each bounded in time, or several in one call. No statement about the chat's own tables
//! stands here.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::mysql::MySqlQueryResult;
use sqlx::sqlite::SqliteQueryResult;
use sqlx::{AssertSqlSafe, Either, Executor as _, MySql, Sqlite};
use tokio::time::Instant;

use super::dialect::Dialect;
use super::fault::Fault;
use super::pool::Held;
use super::query::{Query, Row};
use crate::gate::Pass;

/// What a statement did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    /// Rows changed.
    pub(super) rows: u64,
    /// The id of the row inserted. Of several, MySQL's first, SQLite's last.
    pub(super) last_id: i64,
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

impl From<MySqlQueryResult> for Done {
    fn from(done: MySqlQueryResult) -> Self {
        Self {
            rows: done.rows_affected(),
            last_id: i64::try_from(done.last_insert_id()).unwrap_or(0),
        }
    }
}

impl From<SqliteQueryResult> for Done {
    fn from(done: SqliteQueryResult) -> Self {
        Self {
            rows: done.rows_affected(),
            last_id: done.last_insert_rowid(),
        }
    }
}

/// What one statement of several came to.
pub(super) struct Answer {
    pub(super) rows: Vec<Row>,
    pub(super) done: Done,
}

/// A connection, which runs one statement at a time.
pub(super) struct Conn {
    inner: Inner,
    /// For one statement.
    timeout: Option<Duration>,
    /// When the transaction it is used for must have come to its end.
    pub(super) by: Option<Instant>,
    /// It is of no more use.
    pub(super) spoiled: bool,
    /// Its place among the calls, where it takes one.
    _place: Option<Pass>,
}

pub(super) enum Inner {
    MySql(Held<MySql>),
    Sqlite(Held<Sqlite>),
}

impl Conn {
    pub(super) fn new(inner: Inner, timeout: Option<Duration>, place: Option<Pass>) -> Self {
        Self {
            inner,
            timeout,
            by: None,
            spoiled: false,
            _place: place,
        }
    }

    pub(super) async fn all(&mut self, query: Query) -> Result<Vec<Row>, Fault> {
        let timeout = self.begins();
        let inner = &mut self.inner;
        let answer = async move {
            match inner {
                Inner::MySql(conn) => {
                    let (sql, arguments) = query.into_mysql()?;
                    let rows = sqlx::query_with(sql, arguments).fetch(conn.conn());
                    Ok(rows.map_ok(Row::MySql).try_collect().await?)
                }
                Inner::Sqlite(conn) => {
                    let (sql, arguments) = query.into_sqlite()?;
                    let rows = sqlx::query_with(sql, arguments).fetch(conn.conn());
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
        let timeout = self.begins();
        let inner = &mut self.inner;
        let answer = async move {
            match inner {
                Inner::MySql(conn) => {
                    let (sql, arguments) = query.into_mysql()?;
                    let done = sqlx::query_with(sql, arguments).execute(conn.conn());
                    Ok(done.await?.into())
                }
                Inner::Sqlite(conn) => {
                    let (sql, arguments) = query.into_sqlite()?;
                    let done = sqlx::query_with(sql, arguments).execute(conn.conn());
                    Ok(done.await?.into())
                }
            }
        };
        let answer = within(timeout, answer).await;
        self.give_up_after(answer)
    }

    /// Several statements that go to MySQL in one call, their values written into the text: one round trip, and for each value
    /// the work of reading it, so this is for a few short ones. Where one fails, those after it are not run; those before it
    /// have put their answers into `answers`.
    pub(super) async fn call(
        &mut self,
        queries: &[Query],
        answers: &mut Vec<Answer>,
    ) -> Result<(), Fault> {
        if matches!(self.inner, Inner::Sqlite(_)) {
            return Err(Fault::Sql(sqlx::Error::Protocol(
                "SQLite takes one statement at a time".to_owned(),
            )));
        }
        let timeout = self.begins();
        let inner = &mut self.inner;
        let answer = async move {
            let Inner::MySql(conn) = inner else {
                return Ok(());
            };
            let sql = Query::in_one_text(queries);
            let mut parts = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(conn.conn());
            let mut rows = Vec::new();
            while let Some(part) = parts.try_next().await? {
                match part {
                    Either::Right(row) => rows.push(Row::MySql(row)),
                    Either::Left(done) => answers.push(Answer {
                        rows: std::mem::take(&mut rows),
                        done: done.into(),
                    }),
                }
            }
            Ok(())
        };
        let answer = within(timeout, answer).await;
        self.give_up_after(answer)
    }

    /// Statements without values, not prepared: DDL and the ends of transactions.
    pub(super) async fn raw(&mut self, sql: &str) -> Result<(), Fault> {
        let timeout = self.begins();
        let inner = &mut self.inner;
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let answer = async move {
            match inner {
                Inner::MySql(conn) => conn.conn().execute(sql).await.map(drop)?,
                Inner::Sqlite(conn) => conn.conn().execute(sql).await.map(drop)?,
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
    pub(super) fn inner(&mut self) -> &mut Inner {
        &mut self.inner
    }

    /// A statement begins: how long it may take.
    fn begins(&mut self) -> Option<Duration> {
        self.rests(false);
        let whole = self
            .by
            .map(|by| by.saturating_duration_since(Instant::now()));
        self.timeout
            .map(|one| whole.map_or(one, |whole| whole.min(one)))
    }

    fn rests(&mut self, rests: bool) {
        match &mut self.inner {
            Inner::MySql(conn) => conn.rests = rests,
            Inner::Sqlite(conn) => conn.rests = rests,
        }
    }

    pub(super) fn close_on_drop(&mut self) {
        self.spoiled = true;
        match &mut self.inner {
            Inner::MySql(conn) => conn.discard(),
            Inner::Sqlite(conn) => conn.discard(),
        }
    }

    /// A statement has ended. Some faults leave a connection that is of no more use.
    fn give_up_after<T>(&mut self, answer: Result<T, Fault>) -> Result<T, Fault> {
        self.rests(true);
        if let Err(fault) = &answer
            && fault.spoils_connection()
        {
            self.close_on_drop();
            if let Inner::MySql(conn) = &self.inner {
                conn.suspect_others();
            }
        }
        answer
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
