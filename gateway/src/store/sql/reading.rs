//! Marking messages as read: only the range between a side's last mark and the new one is touched.

use shared::envelope::Position;
use shared::{EventSeq, SenderType, Seq, Timestamp};

use super::SqlStore;
use super::conversations::{lock_conversation, read_conversation};
use super::dialect::Dialect;
use super::fault::Fault;
use super::log::{NewChange, is_logged, log_change};
use super::query::Query;
use super::rows::{ReadPayload, kind, to_payload};
use super::transaction::{Tx, transact};
use crate::store::{Change, Logged, ReadMark, ReadOutcome};

/// The columns in which a side's reading is kept: what it has not read, and up to where it has.
const fn columns(side: SenderType) -> (&'static str, &'static str) {
    match side {
        SenderType::Agency => ("unreadCount", "agencyReadSeq"),
        SenderType::Client => ("clientUnreadCount", "clientReadSeq"),
    }
}

impl SqlStore {
    pub(super) async fn mark(&self, mark: &ReadMark) -> Result<Option<ReadOutcome>, Fault> {
        self.note_writers([mark.reader]).await?;
        let at = self.keepable(mark.at).await?;
        let dialect = self.dialect();
        transact!(
            self.db,
            |tx| mark_read(tx, dialect, mark, at),
            stands: |outcome| marked(tx, dialect, outcome)
        )
    }
}

/// Whether the outcome of a transaction in doubt holds.
async fn marked(
    tx: &mut Tx,
    dialect: Dialect,
    outcome: &Option<ReadOutcome>,
) -> Result<bool, Fault> {
    match outcome {
        Some(ReadOutcome {
            logged: Some(logged),
            ..
        }) => is_logged(tx, dialect, logged).await,
        // A place moved at the most: moving it again does no harm.
        _ => Ok(false),
    }
}

async fn mark_read(
    tx: &mut Tx,
    dialect: Dialect,
    mark: &ReadMark,
    at: Timestamp,
) -> Result<Option<ReadOutcome>, Fault> {
    if !lock_conversation(tx, dialect, mark.conversation).await? {
        return Ok(None);
    }
    let Some(record) = read_conversation(tx, mark.conversation).await? else {
        return Ok(None);
    };
    let (unread_column, position_column) = columns(mark.side);
    let query = Query::new(format!(
        "SELECT {position_column}, archivedSeq FROM Conversations WHERE id = ?"
    ))
    .bind(mark.conversation);
    let (read, archived) = match tx.first(query).await? {
        Some(row) => {
            let mut cells = row.cells();
            (cells.int()?, cells.int()?)
        }
        None => (0, 0),
    };
    let conversation = &record.conversation;
    let last = conversation.last_seq;
    let up_to = mark.up_to.map_or(last, |seq| seq.min(last));
    if up_to.get() <= read {
        return Ok(Some(nothing(up_to)));
    }
    let mut count = turn_read(tx, "Messages", mark, (read, up_to), at).await?;
    if read < archived {
        count += turn_read(tx, "ArchivedMessages", mark, (read, up_to), at).await?;
    }

    let before = match mark.side {
        SenderType::Agency => conversation.unread_count,
        SenderType::Client => record.client_unread_count,
    };
    // Reading to the end leaves nothing unread, even where the old system had lost count.
    let unread = if up_to == last {
        0
    } else {
        (before - count).max(0)
    };
    let event_seq: Option<EventSeq> = (count > 0).then(|| conversation.last_event_seq.next());
    let query = Query::new(format!(
        "UPDATE Conversations SET {unread_column} = ?, {position_column} = ?, lastEventSeq = ? WHERE id = ?"
    ))
    .bind(unread)
    .bind(up_to)
    .bind(event_seq.unwrap_or(conversation.last_event_seq))
    .bind(mark.conversation);
    tx.run(query).await?;
    let Some(event_seq) = event_seq else {
        return Ok(Some(nothing(up_to)));
    };
    let payload = to_payload(&ReadPayload {
        side: mark.side,
        up_to_seq: up_to,
        count,
    })?;
    let change = NewChange {
        conversation: mark.conversation,
        event_seq,
        kind: kind::READ,
        actor: mark.reader,
        payload: &payload,
        at,
    };
    let outbox = log_change(tx, dialect, change).await?;
    Ok(Some(ReadOutcome {
        up_to,
        count,
        logged: Some(Logged {
            position: Position {
                conversation: mark.conversation,
                event_seq,
            },
            at,
            actor: mark.reader,
            parties: record.parties(),
            change: Change::Read {
                side: mark.side,
                up_to,
                count,
            },
            outbox: Some(outbox),
        }),
    }))
}

/// Marks the other side's messages of a table as read, those after one place up to another; how many turned.
async fn turn_read(
    tx: &mut Tx,
    table: &str,
    mark: &ReadMark,
    (after, up_to): (i64, Seq),
    at: Timestamp,
) -> Result<i64, Fault> {
    let query = Query::new(format!(
        "UPDATE {table} SET isRead = 1, readAt = ?, updatedAt = ? WHERE conversationId = ? AND seq > ? AND seq <= ? \
         AND senderType = ? AND COALESCE(isRead, 0) = 0"
    ))
    .bind(at)
    .bind(at)
    .bind(mark.conversation)
    .bind(after)
    .bind(up_to)
    .bind(mark.side.other().as_str());
    Ok(i64::try_from(tx.run(query).await?.rows).unwrap_or(i64::MAX))
}

/// All of it was read before.
const fn nothing(up_to: Seq) -> ReadOutcome {
    ReadOutcome {
        up_to,
        count: 0,
        logged: None,
    }
}
