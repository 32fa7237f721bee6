//! Transactions: what they may take, how often they are tried, and what becomes of one whose commit was lost. No statement
//! about the chat's own tables stands here.

use tokio::time::Instant;

use super::db::{Conn, Db, Done};
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
    ended: bool,
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

    /// Begins a transaction that may write.
    pub(super) async fn begin(&self, tries: &Tries) -> Result<Tx, Fault> {
        let by = tries.by.min(Instant::now() + self.acquire_timeout);
        let mut conn = self.writer(by, None).await?;
        conn.by = Some(tries.by);
        conn.begin().await?;
        Ok(Tx { conn, ended: false })
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
    pub(super) async fn all(&mut self, query: Query) -> Result<Vec<Row>, Fault> {
        self.conn.all(query).await
    }

    pub(super) async fn first(&mut self, query: Query) -> Result<Option<Row>, Fault> {
        self.conn.first(query).await
    }

    pub(super) async fn run(&mut self, query: Query) -> Result<Done, Fault> {
        self.conn.run(query).await
    }

    /// After an error here it is unknown whether the transaction took effect.
    pub(super) async fn commit(mut self) -> Result<(), Fault> {
        self.conn.raw("COMMIT").await?;
        self.ended = true;
        Ok(())
    }

    /// A connection that is of no more use is not asked: its end is the transaction's.
    pub(super) async fn rollback(mut self) {
        self.ended = !self.conn.spoiled && self.conn.raw("ROLLBACK").await.is_ok();
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        if !self.ended {
            self.conn.close_on_drop();
        }
    }
}

/// Runs a body in a transaction: commits what it answers, rolls back and perhaps tries again when it fails. A macro,
/// since a future that borrows both the transaction and the caller's arguments can't be named in a bound.
///
/// Where the commit itself fails, nobody knows whether it took effect: the connection may have been lost on the way there or
/// on the way back. The next attempt then begins with `stands`: whether the answer of the one before holds, because its
/// transaction took effect. That must lock what the body locks, so that a transaction that is still under way on the
/// server comes to its end before it is looked for. Where it does not hold, the body is run again.
macro_rules! transact {
    ($db:expr, |$tx:ident| $body:expr, stands: |$value:ident| $stands:expr) => {{
        // Held for all attempts: who has begun is not sent back to the end of the line.
        let _place = $db.enter()?;
        $crate::store::sql::transaction::transact!(unqueued $db, |$tx| $body, stands: |$value| $stands)
    }};
    (unqueued $db:expr, |$tx:ident| $body:expr, stands: |$value:ident| $stands:expr) => {{
        let mut tries = $db.tries();
        let mut in_doubt = None;
        loop {
            let mut tx = match $db.begin(&tries).await {
                Ok(tx) => tx,
                Err(fault) if fault.is_worth_a_retry() && tries.next() => continue,
                Err(fault) => break Err::<_, $crate::store::sql::fault::Fault>(fault),
            };
            let stands = match &in_doubt {
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
                        Some(value) => break Ok(value),
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
                    Ok(()) => break Ok(value),
                    Err(_) if tries.next() => in_doubt = Some(value),
                    Err(fault) => break Err(fault),
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
