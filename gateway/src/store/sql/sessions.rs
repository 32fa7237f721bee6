//! `Sessions`, `RefreshTokens` and `TokenRevocations`: who is signed in, and which access tokens ended early.

use std::future::{Ready, ready};

use async_trait::async_trait;
use shared::envelope::{Revocation, RevocationScope};
use shared::{Timestamp, UserId};

use super::SqlStore;
use super::dialect::Dialect;
use super::fault::Fault;
use super::query::Query;
use super::rows::{self, USER};
use super::transaction::{Tx, transact};
use crate::store::{NewSession, RefreshRotation, RotationOutcome, Sessions, StoreError, TokenHash};

/// How long a revocation is kept: the hour an access token lives, and a quarter for clocks that differ.
const REVOCATION_LIFE_MS: i64 = 75 * 60 * 1000;

/// The most rows one call prunes of each kind, so that it never holds locks for long.
const PRUNED: u32 = 500;

#[async_trait]
impl Sessions for SqlStore {
    async fn begin_session(&self, session: &NewSession) -> Result<(), StoreError> {
        let dialect = self.dialect();
        let outcome: Result<_, Fault> = transact!(
            self.db,
            |tx| begin(tx, session),
            stands: |_begun| has_begun(tx, dialect, &session.id)
        );
        Ok(outcome?)
    }

    async fn rotate_refresh(
        &self,
        rotation: &RefreshRotation,
    ) -> Result<RotationOutcome, StoreError> {
        let dialect = self.dialect();
        let outcome: Result<_, Fault> = transact!(
            self.db,
            |tx| rotate(tx, dialect, rotation),
            stands: |outcome| is_rotated(tx, dialect, rotation, outcome)
        );
        Ok(outcome?)
    }

    async fn end_session(
        &self,
        session_id: &str,
        user: UserId,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let outcome: Result<_, Fault> = transact!(
            self.db,
            |tx| end(tx, session_id, user, at),
            stands: |_ended| again(tx)
        );
        outcome?;
        Ok(())
    }

    async fn change_password(
        &self,
        user: UserId,
        hash: &str,
        keep: Option<&str>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let updated_at = self.keepable(at).await?;
        let outcome: Result<_, Fault> = transact!(
            self.db,
            |tx| change_password(tx, user, hash, keep, at, updated_at),
            stands: |_changed| again(tx)
        );
        Ok(outcome?)
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<(), StoreError> {
        self.db.run(revocation_query(revocation)).await?;
        Ok(())
    }

    async fn revocations_since(&self, since: Timestamp) -> Result<Vec<Revocation>, StoreError> {
        let query = Query::new(
            "SELECT userId, scope, subject, revokedAt FROM TokenRevocations WHERE revokedAt >= ? \
             ORDER BY revokedAt, id",
        )
        .bind(since.unix_millis());
        let mut revocations = Vec::new();
        for row in self.db.all(query).await? {
            let mut cells = row.cells();
            let user = UserId::new(cells.int()?);
            let scope = cells.text()?;
            let subject = cells.opt_text()?;
            revocations.push(Revocation {
                user,
                scope: match (scope.as_str(), subject) {
                    ("session", Some(sid)) => RevocationScope::Session(sid),
                    ("token", Some(hash)) => RevocationScope::Token(hash),
                    (_, keep) => RevocationScope::AllBut(keep),
                },
                at: cells.int()?,
            });
        }
        Ok(revocations)
    }

    async fn prune_sessions(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut gone = self
            .prune(
                "TokenRevocations",
                "revokedAt",
                now.unix_millis() - REVOCATION_LIFE_MS,
            )
            .await?;
        // The tokens first: a session without tokens is harmless, tokens without a session would stay for ever.
        let query = Query::new(
            "SELECT t.hash FROM Sessions s JOIN RefreshTokens t ON t.sessionId = s.id WHERE s.expiresAt < ? LIMIT ?",
        )
        .bind(now.unix_millis())
        .bind(PRUNED);
        let tokens = self.db.all(query).await?;
        if !tokens.is_empty() {
            let mut delete = Query::new("DELETE FROM RefreshTokens WHERE hash IN (");
            for (index, row) in tokens.iter().enumerate() {
                delete.push(if index == 0 { "?" } else { ", ?" });
                delete.push_value(row.cells().opt_bytes()?.as_deref());
            }
            delete.push(")");
            gone += self.db.run(delete).await?.rows;
        }
        if tokens.len() < PRUNED as usize {
            gone += self
                .prune("Sessions", "expiresAt", now.unix_millis())
                .await?;
        }
        Ok(gone)
    }
}

impl SqlStore {
    /// Deletes rows whose `column` lies before a time. MySQL would walk the whole table for a subquery in a DELETE, and
    /// SQLite knows no LIMIT of one.
    async fn prune(&self, table: &str, column: &str, before: i64) -> Result<u64, Fault> {
        let sql = match self.dialect() {
            Dialect::MySql => format!("DELETE FROM {table} WHERE {column} < ? LIMIT ?"),
            Dialect::Sqlite => format!(
                "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {column} < ? LIMIT ?)"
            ),
        };
        let query = Query::new(sql).bind(before).bind(PRUNED);
        Ok(self.db.run(query).await?.rows)
    }
}

/// What may be done twice need not be looked for.
fn again(_: &Tx) -> Ready<Result<bool, Fault>> {
    ready(Ok(false))
}

/// Whether a session is there whose transaction is in doubt. No two have one id.
async fn has_begun(tx: &mut Tx, dialect: Dialect, id: &str) -> Result<bool, Fault> {
    let sql = format!(
        "SELECT userId FROM Sessions WHERE id = ?{}",
        dialect.for_update()
    );
    Ok(tx.first(Query::new(sql).bind(id)).await?.is_some())
}

/// Whether the outcome of a rotation in doubt holds.
async fn is_rotated(
    tx: &mut Tx,
    dialect: Dialect,
    rotation: &RefreshRotation,
    outcome: &RotationOutcome,
) -> Result<bool, Fault> {
    match outcome {
        RotationOutcome::Rotated { .. } => {
            let sql = format!(
                "SELECT createdAt FROM RefreshTokens WHERE hash = ?{}",
                dialect.for_update()
            );
            let query = Query::new(sql).bind(rotation.fresh.as_slice());
            Ok(tx.first(query).await?.is_some())
        }
        RotationOutcome::Reused(Revocation {
            scope: RevocationScope::Session(id),
            ..
        }) => {
            let sql = format!(
                "SELECT endedAt FROM Sessions WHERE id = ?{}",
                dialect.for_update()
            );
            let row = tx.first(Query::new(sql).bind(id)).await?;
            let ended_at = row.map_or(Ok(None), |row| row.cells().opt_int())?;
            Ok(ended_at == Some(rotation.at.unix_millis()))
        }
        // Nothing was written.
        _ => Ok(true),
    }
}

async fn begin(tx: &mut Tx, session: &NewSession) -> Result<(), Fault> {
    let query = Query::new(
        "INSERT INTO Sessions (id, userId, createdAt, expiresAt, endedAt) VALUES (?, ?, ?, ?, NULL)",
    )
    .bind(&session.id)
    .bind(session.user)
    .bind(session.at.unix_millis())
    .bind(session.expires_at.unix_millis());
    tx.run(query).await?;
    insert_token(tx, &session.refresh_hash, &session.id, session.at).await
}

async fn insert_token(
    tx: &mut Tx,
    hash: &TokenHash,
    session_id: &str,
    at: Timestamp,
) -> Result<(), Fault> {
    let query = Query::new(
        "INSERT INTO RefreshTokens (hash, sessionId, createdAt, spentAt) VALUES (?, ?, ?, NULL)",
    )
    .bind(hash.as_slice())
    .bind(session_id)
    .bind(at.unix_millis());
    tx.run(query).await?;
    Ok(())
}

/// The session's row is the lock for all that happens to its tokens.
async fn rotate(
    tx: &mut Tx,
    dialect: Dialect,
    rotation: &RefreshRotation,
) -> Result<RotationOutcome, Fault> {
    let token = |column: &str| {
        Query::new(format!("SELECT {column} FROM RefreshTokens WHERE hash = ?"))
            .bind(rotation.spent.as_slice())
    };
    let Some(row) = tx.first(token("sessionId")).await? else {
        return Ok(RotationOutcome::Unknown);
    };
    let session_id = row.cells().text()?;
    let sql = format!(
        "SELECT userId, expiresAt FROM Sessions WHERE id = ? AND endedAt IS NULL{}",
        dialect.for_update()
    );
    let Some(row) = tx.first(Query::new(sql).bind(&session_id)).await? else {
        return Ok(RotationOutcome::Unknown);
    };
    let mut cells = row.cells();
    let user_id = UserId::new(cells.int()?);
    let now = rotation.at.unix_millis();
    if cells.int()? <= now {
        return Ok(RotationOutcome::Unknown);
    }
    let Some(row) = tx.first(token("spentAt")).await? else {
        return Ok(RotationOutcome::Unknown);
    };
    let spent_at = row.cells().opt_int()?;
    let query = Query::new(format!("SELECT {USER} FROM Users u WHERE u.id = ?")).bind(user_id);
    let Some(row) = tx.first(query).await? else {
        return Ok(RotationOutcome::Unknown);
    };
    let user = rows::user(&mut row.cells())?;
    match spent_at {
        None => {
            let query = Query::new("UPDATE RefreshTokens SET spentAt = ? WHERE hash = ?")
                .bind(now)
                .bind(rotation.spent.as_slice());
            tx.run(query).await?;
            insert_token(tx, &rotation.fresh, &session_id, rotation.at).await?;
            let query = Query::new("UPDATE Sessions SET expiresAt = ? WHERE id = ?")
                .bind(rotation.expires_at.unix_millis())
                .bind(&session_id);
            tx.run(query).await?;
            Ok(RotationOutcome::Rotated { user, session_id })
        }
        // By the clocks of two nodes it may even lie ahead.
        Some(spent_at) if now - spent_at <= rotation.grace_ms => {
            Ok(RotationOutcome::Grace { user, session_id })
        }
        Some(_) => {
            let revocation = end(tx, &session_id, user_id, rotation.at).await?;
            Ok(revocation.map_or(RotationOutcome::Unknown, RotationOutcome::Reused))
        }
    }
}

/// Ends a session of that user, unless it has ended. It expires then and there, which is what prunes it.
async fn end(
    tx: &mut Tx,
    session_id: &str,
    user: UserId,
    at: Timestamp,
) -> Result<Option<Revocation>, Fault> {
    let query = Query::new(
        "UPDATE Sessions SET endedAt = ?, expiresAt = ? WHERE id = ? AND userId = ? AND endedAt IS NULL",
    )
    .bind(at.unix_millis())
    .bind(at.unix_millis())
    .bind(session_id)
    .bind(user);
    if tx.run(query).await?.rows == 0 {
        return Ok(None);
    }
    let revocation = Revocation {
        user,
        scope: RevocationScope::Session(session_id.to_owned()),
        at: at.unix_millis(),
    };
    tx.run(revocation_query(&revocation)).await?;
    Ok(Some(revocation))
}

async fn change_password(
    tx: &mut Tx,
    user: UserId,
    hash: &str,
    keep: Option<&str>,
    at: Timestamp,
    updated_at: Timestamp,
) -> Result<(), Fault> {
    let query = Query::new("UPDATE Users SET password = ?, updatedAt = ? WHERE id = ?")
        .bind(hash)
        .bind(updated_at)
        .bind(user);
    tx.run(query).await?;
    // No session has the empty id.
    let query = Query::new(
        "UPDATE Sessions SET endedAt = ?, expiresAt = ? WHERE userId = ? AND id <> ? AND endedAt IS NULL",
    )
    .bind(at.unix_millis())
    .bind(at.unix_millis())
    .bind(user)
    .bind(keep.unwrap_or(""));
    tx.run(query).await?;
    let revocation = Revocation {
        user,
        scope: RevocationScope::AllBut(keep.map(str::to_owned)),
        at: at.unix_millis(),
    };
    tx.run(revocation_query(&revocation)).await?;
    Ok(())
}

fn revocation_query(revocation: &Revocation) -> Query {
    let (scope, subject) = match &revocation.scope {
        RevocationScope::Session(sid) => ("session", Some(sid.as_str())),
        RevocationScope::Token(hash) => ("token", Some(hash.as_str())),
        RevocationScope::AllBut(keep) => ("allBut", keep.as_deref()),
    };
    Query::new(
        "INSERT INTO TokenRevocations (userId, scope, subject, revokedAt) VALUES (?, ?, ?, ?)",
    )
    .bind(revocation.user)
    .bind(scope)
    .bind(subject)
    .bind(revocation.at)
}
