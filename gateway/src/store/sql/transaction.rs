//! Transactions: what they may take, how often they are tried, and what becomes of one whose commit was lost. No statement
//! about the chat's own tables stands here.

use tokio::time::Instant;

use super::conn::{Answer, Conn, Done};
use super::db::Db;
use super::fault::Fault;
use super::query::{Query, Row};
use crate::gate::Pass;

/// How often a transaction is tried that failed for no fault of its own. Deadlocks are rare, since rows are locked in
/// order; three in a row mean trouble the caller should hear of.
pub(super) const ATTEMPTS: u32 = 4;

/// A transaction. Dropped without an end it takes its connection with it, which ends it on the server too: so a caller
/// that goes away leaves no lock behind.
pub(super) struct Tx {
    conn: Conn,
    state: State,
    /// What is to be asked together with the commit.
    last: Vec<Query>,
}

/// How a transaction was not committed.
pub(super) enum Uncommitted {
    /// It did not take effect: a statement before the commit failed.
    Failed(Fault),
    /// Nobody knows whether it took effect: the connection may have been lost on the way there or on the way back.
    InDoubt(Fault),
}

impl From<Uncommitted> for Fault {
    fn from(uncommitted: Uncommitted) -> Self {
        match uncommitted {
            Uncommitted::Failed(fault) | Uncommitted::InDoubt(fault) => fault,
        }
    }
}

#[derive(PartialEq, Eq)]
enum State {
    /// Nothing was asked yet. It begins with its first statement, in the same call if that is one.
    New,
    Begun,
    Ended,
}

/// What may still be tried for one transaction.
pub(super) struct Tries {
    pub(super) by: Instant,
    left: u32,
}

impl Db {
    /// What a transaction that begins now may take, in time and in attempts, to find a connection and to come to its end.
    pub(super) fn tries(&self) -> Tries {
        Tries {
            by: Instant::now() + self.acquire_timeout + self.timeout,
            left: ATTEMPTS,
        }
    }

    /// Takes a place among the calls, for a transaction with all its attempts.
    pub(super) fn enter(&self) -> Result<Pass, Fault> {
        Ok(self.calls.enter()?)
    }

    /// A transaction that may write.
    pub(super) async fn begin(&self, tries: &Tries) -> Result<Tx, Fault> {
        let by = tries.by.min(Instant::now() + self.acquire_timeout);
        let mut conn = self.writer(by, None).await?;
        conn.by = Some(tries.by);
        Ok(Tx {
            conn,
            state: State::New,
            last: Vec::new(),
        })
    }
}

impl Tries {
    /// Uses one up; false where none is left.
    pub(super) fn next(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left > 0 && Instant::now() < self.by
    }
}

impl Tx {
    async fn begin(&mut self) -> Result<(), Fault> {
        if self.state == State::New {
            self.state = State::Begun;
            let begun = self.conn.begin().await;
            if begun.is_err() && !self.conn.spoiled {
                // Somebody stood in the way: there is nothing to end.
                self.state = State::New;
            }
            begun?;
        }
        Ok(())
    }

    pub(super) async fn all(&mut self, query: Query) -> Result<Vec<Row>, Fault> {
        self.begin().await?;
        self.conn.all(query).await
    }

    pub(super) async fn first(&mut self, query: Query) -> Result<Option<Row>, Fault> {
        self.begin().await?;
        self.conn.first(query).await
    }

    pub(super) async fn run(&mut self, query: Query) -> Result<Done, Fault> {
        self.begin().await?;
        self.conn.run(query).await
    }

    /// Several statements in one call, see [`Conn::call`]. On MySQL only.
    pub(super) async fn call(&mut self, mut queries: Vec<Query>) -> Result<Vec<Answer>, Fault> {
        let begins = self.state == State::New;
        if begins {
            self.state = State::Begun;
            queries.insert(0, Query::new("BEGIN"));
        }
        let mut answers = Vec::with_capacity(queries.len());
        self.conn.call(&queries, &mut answers).await?;
        if answers.len() != queries.len() {
            return Err(unasked(answers.len(), queries.len()));
        }
        if begins {
            answers.remove(0);
        }
        Ok(answers)
    }

    /// Leaves the last statements of a transaction that has begun to be asked with its commit, in one call. On MySQL only.
    pub(super) fn ask_with_commit(&mut self, queries: Vec<Query>) {
        self.last = queries;
    }

    /// Answers what the statements did that were left for the commit.
    pub(super) async fn commit(mut self) -> Result<Vec<Answer>, Uncommitted> {
        let mut queries = std::mem::take(&mut self.last);
        let left = queries.len();
        let mut answers = Vec::with_capacity(left + 1);
        if self.state != State::Begun {
            return Ok(answers);
        }
        let asked = if left == 0 {
            self.conn.raw("COMMIT").await
        } else {
            queries.push(Query::new("COMMIT"));
            self.conn.call(&queries, &mut answers).await
        };
        if let Err(fault) = asked {
            // MySQL leaves out what stands after a statement that it refuses. Where the connection is of no more use, nobody says
            // how far it came: what has reached the server may yet be carried out.
            if answers.len() < left && !self.conn.spoiled {
                self.rollback().await;
                return Err(Uncommitted::Failed(fault));
            }
            return Err(Uncommitted::InDoubt(fault));
        }
        if left > 0 {
            if answers.len() != left + 1 {
                return Err(Uncommitted::InDoubt(unasked(answers.len(), left + 1)));
            }
            answers.truncate(left);
        }
        self.state = State::Ended;
        Ok(answers)
    }

    /// A connection that is of no more use is not asked: its end is the transaction's.
    pub(super) async fn rollback(mut self) {
        if self.state == State::Begun
            && !self.conn.spoiled
            && self.conn.raw("ROLLBACK").await.is_ok()
        {
            self.state = State::Ended;
        }
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if self.state == State::Begun {
            self.conn.close_on_drop();
        }
    }
}

fn unasked(answers: usize, asked: usize) -> Fault {
    Fault::Sql(sqlx::Error::Protocol(format!(
        "{answers} answers to {asked} statements"
    )))
}

/// Runs a body in a transaction: commits what it answers, rolls back and perhaps tries again when it fails. A macro,
/// since a future that borrows both the transaction and the caller's arguments can't be named in a bound.
///
/// Where the commit itself fails, nobody knows whether it took effect: the connection may have been lost on the way there or
/// on the way back. The next attempt then begins with `stands`: whether the answer of the one before holds, because its
/// transaction took effect. That must lock what the body locks, so that a transaction that is still under way on the
/// server comes to its end before it is looked for. Where it does not hold, the body is run again.
///
/// `with_answers`: with what the statements did that the body left for the commit ([`Tx::ask_with_commit`]); `None` where the
/// commit's answer was lost, and `stands` said that it took effect.
macro_rules! transact {
    ($db:expr, |$tx:ident| $body:expr, stands: |$value:ident| $stands:expr) => {{
        // Held for all attempts: who has begun is not sent back to the end of the line.
        let _place = $db.enter()?;
        $crate::store::sql::transaction::transact!(unqueued $db, |$tx| $body, stands: |$value| $stands)
    }};
    (unqueued $db:expr, |$tx:ident| $body:expr, stands: |$value:ident| $stands:expr) => {
        $crate::store::sql::transaction::transact!(with_answers $db, |$tx| $body, stands: |$value| $stands)
            .map(|(value, _)| value)
    };
    (with_answers $db:expr, |$tx:ident| $body:expr, stands: |$value:ident| $stands:expr) => {{
        let mut tries = $db.tries();
        let mut in_doubt = None;
        loop {
            let mut tx = match $db.begin(&tries).await {
                Ok(tx) => tx,
                Err(fault) if fault.is_worth_a_retry() && tries.next() => continue,
                Err(fault) => break Err::<_, $crate::store::sql::fault::Fault>(fault),
            };
            let stands = match &mut in_doubt {
                Some($value) => {
                    let $tx = &mut tx;
                    $stands.await
                }
                None => Ok(false),
            };
            let outcome = match stands {
                Ok(true) => {
                    tx.rollback().await;
                    match in_doubt.take() {
                        Some(value) => break Ok((value, None)),
                        None => continue,
                    }
                }
                Ok(false) => {
                    in_doubt = None;
                    let $tx = &mut tx;
                    $body.await
                }
                Err(fault) => Err(fault),
            };
            match outcome {
                Ok(value) => match tx.commit().await {
                    Ok(answers) => break Ok((value, Some(answers))),
                    Err($crate::store::sql::transaction::Uncommitted::InDoubt(fault)) => {
                        if !tries.next() {
                            break Err(fault);
                        }
                        in_doubt = Some(value);
                    }
                    Err($crate::store::sql::transaction::Uncommitted::Failed(fault)) => {
                        if !fault.is_worth_a_retry() || !tries.next() {
                            break Err(fault);
                        }
                    }
                },
                Err(fault) => {
                    let again = fault.is_worth_a_retry() && tries.next();
                    tx.rollback().await;
                    if !again {
                        break Err(fault);
                    }
                }
            }
        }
    }};
}
pub(super) use transact;
