//! Moving old messages out of `Messages` into `ArchivedMessages`, while the chat goes on.
//!
//! Of each conversation a beginning moves: what is archived is older than all that is not, and `Conversations.archivedSeq`
//! says how far it reaches. Readers take the table first and the archive where the table does not reach (`messages`, `log`,
//! `append`); nothing is asked of the archive where a conversation has none there. A batch is one transaction, which locks its
//! conversations as the writers do: cut short, it was never begun.

use std::time::Instant;

use shared::{ConversationId, Seq, Timestamp};

use super::SqlStore;
use super::conn::Conn;
use super::dialect::Dialect;
use super::fault::Fault;
use super::query::Query;
use super::schema::columns_of;
use super::transaction::{Tx, transact};
use crate::store::{ArchiveOrder, ArchiveOutcome, Archived};

/// Conversations that are looked at in one query.
const PAGE: u32 = 256;

/// The most conversations that one transaction locks: their senders wait for it.
const LOCKED: usize = 16;

/// The columns of `Messages` that move along.
const COLUMNS: [&str; 13] = [
    "id",
    "conversationId",
    "senderId",
    "receiverId",
    "senderType",
    "content",
    "isRead",
    "readAt",
    "createdAt",
    "updatedAt",
    "seq",
    "eventSeq",
    "clientMessageId",
];

impl SqlStore {
    /// See `Upkeep::archive`.
    pub(super) async fn move_old(&self, order: ArchiveOrder) -> Result<ArchiveOutcome, Fault> {
        let dialect = self.dialect();
        let mut turn = self.db.unhurried().await?;
        if dialect == Dialect::MySql && !take_turn(&mut turn).await? {
            return Ok(ArchiveOutcome::Busy);
        }
        let unknown: Vec<String> = columns_of(&mut turn, dialect, "Messages")
            .await?
            .into_iter()
            .filter(|name| !COLUMNS.iter().any(|known| known.eq_ignore_ascii_case(name)))
            .collect();
        if !unknown.is_empty() {
            return Ok(ArchiveOutcome::UnknownColumns(unknown));
        }
        let mut done = Archived::default();
        let mut last = ConversationId::new(0);
        loop {
            let (page, end) = self.candidates(last, order.before).await?;
            for group in page.chunks(LOCKED) {
                if order.dry_run {
                    for conversation in group {
                        self.count(*conversation, order, &mut done).await?;
                    }
                } else {
                    self.move_all(group, order, &mut done).await?;
                }
            }
            match end {
                Some(end) => last = end,
                None => return Ok(ArchiveOutcome::Done(done)),
            }
        }
    }
}

/// Whether no other archives this database. The lock ends with the connection, which the server notices a moment later. SQLite has one writer at a time anyway, and of two
/// that archive each takes up where the other is.
async fn take_turn(conn: &mut Conn) -> Result<bool, Fault> {
    let query = Query::new("SELECT GET_LOCK(CONCAT('chat-archive-', MD5(DATABASE())), 5)");
    let row = conn.first(query).await?.ok_or(sqlx::Error::RowNotFound)?;
    Ok(row.cells().opt_int()? == Some(1))
}

/// What one transaction moved.
struct Moved {
    messages: u64,
    /// Up to where, of each conversation of which something moved.
    to: Vec<(ConversationId, Seq)>,
    /// Those of which nothing is left to move.
    done: Vec<ConversationId>,
}

impl SqlStore {
    /// The conversations after an id whose oldest message that is not archived is old enough, of one page of all; and where
    /// the next page begins, if there is one.
    async fn candidates(
        &self,
        after: ConversationId,
        before: Timestamp,
    ) -> Result<(Vec<ConversationId>, Option<ConversationId>), Fault> {
        let query = Query::new(format!(
            "SELECT c.id, (SELECT {} FROM Messages m WHERE m.conversationId = c.id AND m.seq > c.archivedSeq \
             ORDER BY m.seq LIMIT 1) FROM Conversations c \
             WHERE c.id > ? AND c.lastSeq > c.archivedSeq + 1 ORDER BY c.id LIMIT ?",
            self.dialect().millis("m.createdAt")
        ))
        .bind(after)
        .bind(PAGE);
        let rows = self.db.all(query).await?;
        let mut found = Vec::new();
        let mut last = None;
        for row in &rows {
            let mut cells = row.cells();
            let id = ConversationId::new(cells.int()?);
            last = Some(id);
            if is_old(cells.opt_int()?, before) {
                found.push(id);
            }
        }
        let is_last = rows.len() < PAGE as usize;
        Ok((found, last.filter(|_| !is_last)))
    }

    /// Adds up what would move of a conversation.
    async fn count(
        &self,
        conversation: ConversationId,
        order: ArchiveOrder,
        done: &mut Archived,
    ) -> Result<(), Fault> {
        let query = Query::new("SELECT archivedSeq, lastSeq FROM Conversations WHERE id = ?")
            .bind(conversation);
        let Some(row) = self.db.first(query).await? else {
            return Ok(());
        };
        let mut cells = row.cells();
        let (mut after, last) = (Seq::new(cells.int()?), Seq::new(cells.int()?));
        let mut messages = 0;
        loop {
            let query = old_query(self.dialect(), conversation, after, last, order.batch);
            let rows = self.db.all(query).await?;
            let mut seen = Vec::with_capacity(rows.len());
            for row in &rows {
                let mut cells = row.cells();
                seen.push((Seq::new(cells.int()?), cells.opt_int()?));
            }
            let Some((to, count)) = old_ones(&seen, order.before) else {
                break;
            };
            messages += count as u64;
            after = to;
            if count < order.batch as usize {
                break;
            }
        }
        done.messages += messages;
        done.conversations += u64::from(messages > 0);
        Ok(())
    }

    /// Moves all that is old of some conversations, in batches. After each it rests as long as that took: half of the time
    /// is the senders' alone.
    async fn move_all(
        &self,
        conversations: &[ConversationId],
        order: ArchiveOrder,
        done: &mut Archived,
    ) -> Result<(), Fault> {
        let dialect = self.dialect();
        let mut left = conversations.to_vec();
        let mut touched = std::collections::HashSet::new();
        while !left.is_empty() {
            let begun = Instant::now();
            let moved: Result<Moved, Fault> = transact!(
                self.db,
                |tx| move_batch(tx, dialect, &left, order),
                stands: |moved| has_moved(tx, dialect, moved)
            );
            let moved = moved?;
            done.messages += moved.messages;
            touched.extend(moved.to.iter().map(|(id, _)| *id));
            left.retain(|id| !moved.done.contains(id));
            tokio::time::sleep(begun.elapsed()).await;
        }
        done.conversations += touched.len() as u64;
        Ok(())
    }
}

/// Whether a batch in doubt was moved: its conversations are locked, so that its transaction has come to its end.
async fn has_moved(tx: &mut Tx, dialect: Dialect, moved: &Moved) -> Result<bool, Fault> {
    let Some((conversation, to)) = moved.to.first() else {
        return Ok(true);
    };
    let locked = lock(tx, dialect, &[*conversation]).await?;
    Ok(locked.first().is_none_or(|(_, archived, _)| archived >= to))
}

/// Locks those conversations that exist, in the order of their ids; how far each is archived, and its last message.
async fn lock(
    tx: &mut Tx,
    dialect: Dialect,
    ids: &[ConversationId],
) -> Result<Vec<(ConversationId, Seq, Seq)>, Fault> {
    let mut query = Query::new("SELECT id, archivedSeq, lastSeq FROM Conversations WHERE id IN ");
    query.push_list(ids);
    query.push(" ORDER BY id");
    query.push(dialect.for_update());
    let mut locked = Vec::with_capacity(ids.len());
    for row in tx.all(query).await? {
        let mut cells = row.cells();
        locked.push((
            ConversationId::new(cells.int()?),
            Seq::new(cells.int()?),
            Seq::new(cells.int()?),
        ));
    }
    Ok(locked)
}

async fn move_batch(
    tx: &mut Tx,
    dialect: Dialect,
    conversations: &[ConversationId],
    order: ArchiveOrder,
) -> Result<Moved, Fault> {
    let locked = lock(tx, dialect, conversations).await?;
    let mut moved = Moved {
        messages: 0,
        to: Vec::new(),
        // One that was deleted meanwhile has nothing left.
        done: conversations
            .iter()
            .copied()
            .filter(|id| !locked.iter().any(|(there, ..)| there == id))
            .collect(),
    };
    let mut left = order.batch;
    for (conversation, archived, last) in locked {
        if left == 0 {
            break;
        }
        let mut seen = Vec::new();
        for row in tx
            .all(old_query(dialect, conversation, archived, last, left))
            .await?
        {
            let mut cells = row.cells();
            seen.push((Seq::new(cells.int()?), cells.opt_int()?));
        }
        let Some((to, count)) = old_ones(&seen, order.before) else {
            moved.done.push(conversation);
            continue;
        };
        if count < left as usize {
            moved.done.push(conversation);
        }
        move_range(tx, dialect, conversation, archived, to).await?;
        moved.messages += count as u64;
        moved.to.push((conversation, to));
        left -= u32::try_from(count).unwrap_or(left);
    }
    Ok(moved)
}

/// The first messages after a place, each with its time. Never the newest of the conversation, which is shown with it; none that is still
/// to be published; and none from the one on that has the highest id of all, which an adopted table may give again: it is not always a
/// conversation's newest, as the old system's messages are numbered by their times.
fn old_query(
    dialect: Dialect,
    conversation: ConversationId,
    after: Seq,
    last: Seq,
    limit: u32,
) -> Query {
    Query::new(format!(
        "SELECT m.seq, {} FROM Messages m WHERE m.conversationId = ? AND m.seq > ? AND m.seq < ? \
         AND m.seq < COALESCE((SELECT n.seq FROM Messages n WHERE n.conversationId = ? \
         AND n.id = (SELECT MAX(h.id) FROM Messages h)), {max}) \
         AND m.eventSeq < COALESCE((SELECT MIN(o.firstEventSeq) FROM Outbox o WHERE o.conversationId = ?), {max}) \
         ORDER BY m.seq LIMIT ?",
        dialect.millis("m.createdAt"),
        max = i64::MAX
    ))
    .bind(conversation)
    .bind(after)
    .bind(last)
    .bind(conversation)
    .bind(conversation)
    .bind(limit)
}

/// Up to where messages are old, and how many that are. What has no time is as old as what comes after it.
fn old_ones(seen: &[(Seq, Option<i64>)], before: Timestamp) -> Option<(Seq, usize)> {
    let old = seen
        .iter()
        .take_while(|(_, at)| is_old(*at, before))
        .count();
    old.checked_sub(1).map(|last| (seen[last].0, old))
}

fn is_old(at: Option<i64>, before: Timestamp) -> bool {
    at.is_none_or(|at| at < before.unix_millis())
}

/// Moves the messages of a conversation after one place up to another.
async fn move_range(
    tx: &mut Tx,
    dialect: Dialect,
    conversation: ConversationId,
    after: Seq,
    to: Seq,
) -> Result<(), Fault> {
    let columns = COLUMNS.join(", ");
    // MySQL's zero dates, which strict servers don't take again, are read as missing everywhere.
    let values = COLUMNS.map(|name| match (dialect, name) {
        (Dialect::MySql, "readAt" | "createdAt" | "updatedAt") => {
            format!("CASE WHEN {name} >= '1000-01-01' THEN {name} END")
        }
        _ => name.to_owned(),
    });
    let range = "FROM Messages WHERE conversationId = ? AND seq > ? AND seq <= ?";
    let bound = |sql: String| Query::new(sql).bind(conversation).bind(after).bind(to);
    let copied = tx
        .run(bound(format!(
            "INSERT INTO ArchivedMessages ({columns}) SELECT {} {range}",
            values.join(", ")
        )))
        .await?;
    let deleted = tx.run(bound(format!("DELETE {range}"))).await?;
    if copied.rows != deleted.rows {
        // Somebody who takes none of our locks was here in between: try again.
        return Err(Fault::Overtaken);
    }
    let query = Query::new("UPDATE Conversations SET archivedSeq = ? WHERE id = ?")
        .bind(to)
        .bind(conversation);
    tx.run(query).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_time_goes_with_what_follows() {
        let before = Timestamp(chrono::DateTime::from_timestamp_millis(100).unwrap());
        let seen = |times: &[Option<i64>]| -> Option<(Seq, usize)> {
            let seen: Vec<_> = (1..).map(Seq::new).zip(times.iter().copied()).collect();
            old_ones(&seen, before)
        };
        assert_eq!(seen(&[]), None);
        assert_eq!(seen(&[Some(100)]), None);
        assert_eq!(seen(&[Some(99), None, Some(98)]), Some((Seq::new(3), 3)));
        // What is old again after something young stays: only a beginning moves.
        assert_eq!(seen(&[Some(1), Some(100), Some(1)]), Some((Seq::new(1), 1)));
    }
}
