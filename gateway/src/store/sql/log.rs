//! `ConversationEvents` and `Outbox`: the log of durable changes, and which of them may not have been published.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use shared::envelope::Position;
use shared::model::{ClientSummary, Message};
use shared::{ClientId, ConversationId, EventSeq, Role, Seq, Timestamp, UserId};

use super::SqlStore;
use super::conversations::lock_conversation;
use super::dialect::Dialect;
use super::fault::Fault;
use super::query::{Query, Row};
use super::rows::{
    self, CLIENT_USER, DeletedPayload, MESSAGE, ReadPayload, from_millis, from_payload, kind,
};
use super::schema::LOG_AGE;
use super::transaction::Tx;
use crate::store::{
    Change, Log, LogHead, Logged, OutboxEntry, OutboxId, Parties, StoreError, Viewer,
};

/// The most ids of one statement.
const IDS: usize = 256;

#[async_trait]
impl Log for SqlStore {
    async fn log_after(
        &self,
        conversation: ConversationId,
        after: EventSeq,
        limit: u32,
    ) -> Result<Vec<Logged>, StoreError> {
        // Of a message that somebody took out of the tables by hand there is nothing left to tell: what follows takes its place,
        // since a page that is not full is the last.
        let mut log = Vec::new();
        let (mut after, mut left) = (after, limit);
        loop {
            let rows = self.log_rows(conversation, after, left).await?;
            let Some((last, _)) = rows.last() else {
                return Ok(log);
            };
            after = *last;
            let is_last = rows.len() < left as usize;
            log.extend(rows.into_iter().filter_map(|(_, change)| change));
            left = limit.saturating_sub(u32::try_from(log.len()).unwrap_or(limit));
            if is_last || left == 0 {
                return Ok(log);
            }
        }
    }

    async fn changed_since(
        &self,
        since: Timestamp,
        after: ConversationId,
        limit: u32,
    ) -> Result<Vec<Position>, StoreError> {
        // By the wanted order alone, the whole log would be read along its primary key.
        let index = self.dialect().by_index(LOG_AGE);
        let sql = format!(
            "SELECT conversationId, MIN(eventSeq) FROM ConversationEvents {index} \
             WHERE createdAt >= ? AND conversationId > ? \
             GROUP BY conversationId ORDER BY conversationId LIMIT ?"
        );
        let query = Query::new(sql)
            .bind(since.unix_millis())
            .bind(after)
            .bind(limit);
        let mut changed = Vec::new();
        for row in self.db.all(query).await? {
            let mut cells = row.cells();
            changed.push(Position {
                conversation: ConversationId::new(cells.int()?),
                event_seq: EventSeq::new(cells.int()?),
            });
        }
        Ok(changed)
    }

    async fn heads(
        &self,
        viewer: Viewer,
        ids: Option<&[ConversationId]>,
    ) -> Result<Vec<LogHead>, StoreError> {
        let mut heads = Vec::new();
        match ids {
            Some(ids) => {
                for chunk in ids.chunks(IDS) {
                    let mut query = living_heads();
                    query.push(" WHERE cv.id IN ");
                    query.push_list(chunk);
                    read_heads(&self.db.all(query).await?, &mut heads)?;
                }
                self.add_tombstones(ids, &mut heads).await?;
            }
            None => {
                let mut query = living_heads();
                if viewer.role == Role::User {
                    let clients = self.clients_of(viewer.user).await?;
                    query.push(" WHERE cv.clientId IN ");
                    query.push_list(&clients);
                }
                query.push(" ORDER BY cv.id");
                read_heads(&self.db.all(query).await?, &mut heads)?;
            }
        }
        Ok(heads)
    }

    async fn stale_outbox(&self, age_ms: u64, limit: u32) -> Result<Vec<OutboxEntry>, StoreError> {
        let sql = format!(
            "SELECT id, conversationId, firstEventSeq, lastEventSeq FROM Outbox \
             WHERE createdAt <= {} - ? ORDER BY createdAt, id LIMIT ?",
            self.dialect().now_ms()
        );
        let query = Query::new(sql)
            .bind(i64::try_from(age_ms).unwrap_or(i64::MAX / 2))
            .bind(limit);
        let mut entries = Vec::new();
        for row in self.db.all(query).await? {
            let mut cells = row.cells();
            entries.push(OutboxEntry {
                id: OutboxId(cells.int()?),
                conversation: ConversationId::new(cells.int()?),
                first: EventSeq::new(cells.int()?),
                last: EventSeq::new(cells.int()?),
            });
        }
        Ok(entries)
    }

    async fn first_unpublished(
        &self,
        conversation: ConversationId,
    ) -> Result<Option<EventSeq>, StoreError> {
        let query = Query::new("SELECT MIN(firstEventSeq) FROM Outbox WHERE conversationId = ?")
            .bind(conversation);
        match self.db.first(query).await? {
            Some(row) => Ok(row.cells().opt_int()?.map(EventSeq::new)),
            None => Ok(None),
        }
    }

    async fn clear_outbox(&self, ids: &[OutboxId]) -> Result<(), StoreError> {
        let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
        for chunk in ids.chunks(IDS) {
            let mut query = Query::new("DELETE FROM Outbox WHERE id IN ");
            query.push_list(chunk);
            self.db.run(query).await?;
        }
        Ok(())
    }
}

/// A change to be logged by itself, with an outbox entry of its own.
pub(super) struct NewChange<'a> {
    pub(super) conversation: ConversationId,
    pub(super) event_seq: EventSeq,
    pub(super) kind: &'a str,
    pub(super) actor: UserId,
    pub(super) payload: &'a str,
    pub(super) at: Timestamp,
}

/// Logs one change and notes it in the outbox.
pub(super) async fn log_change(
    tx: &mut Tx,
    dialect: Dialect,
    change: NewChange<'_>,
) -> Result<OutboxId, Fault> {
    let query = Query::new(
        "INSERT INTO ConversationEvents (conversationId, eventSeq, kind, actorId, payload, createdAt) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(change.conversation)
    .bind(change.event_seq)
    .bind(change.kind)
    .bind(change.actor)
    .bind(change.payload)
    .bind(change.at.unix_millis());
    tx.run(query).await?;
    let mut entry = [OutboxEntry {
        id: OutboxId(0),
        conversation: change.conversation,
        first: change.event_seq,
        last: change.event_seq,
    }];
    insert_outbox(tx, dialect, 1, &mut entry).await?;
    Ok(entry[0].id)
}

/// Whether a change other than a message is in the log: asked where it is unknown whether the transaction that logged it was
/// committed. The conversation is locked first, as that transaction has locked it: so it has come to its end by then.
pub(super) async fn is_logged(
    tx: &mut Tx,
    dialect: Dialect,
    logged: &Logged,
) -> Result<bool, Fault> {
    lock_conversation(tx, dialect, logged.position.conversation).await?;
    let query = Query::new(
        "SELECT kind, actorId, createdAt FROM ConversationEvents WHERE conversationId = ? AND eventSeq = ?",
    )
    .bind(logged.position.conversation)
    .bind(logged.position.event_seq);
    let Some(row) = tx.first(query).await? else {
        return Ok(false);
    };
    let mut cells = row.cells();
    let (kind, actor, at) = (cells.text()?, UserId::new(cells.int()?), cells.int()?);
    // Another's change may have taken the number of one that was rolled back. The same person's same change of the same
    // millisecond is as good.
    let wanted = match &logged.change {
        Change::Message { .. } => kind::MESSAGE,
        Change::Read { .. } => kind::READ,
        Change::Created(_) => kind::CREATED,
        Change::Deleted => kind::DELETED,
    };
    Ok(kind == wanted && actor == logged.actor && at == logged.at.unix_millis())
}

/// Inserts entries in one statement and gives them their ids, which are `step` apart.
pub(super) async fn insert_outbox(
    tx: &mut Tx,
    dialect: Dialect,
    step: i64,
    entries: &mut [OutboxEntry],
) -> Result<(), Fault> {
    let done = tx.run(outbox_query(dialect, entries)).await?;
    number(entries, done.first_id(dialect, entries.len()), step);
    Ok(())
}

pub(super) fn outbox_query(dialect: Dialect, entries: &[OutboxEntry]) -> Query {
    let mut query = Query::new(
        "INSERT INTO Outbox (conversationId, firstEventSeq, lastEventSeq, createdAt) VALUES ",
    );
    query.push_rows(entries.len(), &format!("(?, ?, ?, {})", dialect.now_ms()));
    for entry in entries {
        query.push_value(entry.conversation);
        query.push_value(entry.first);
        query.push_value(entry.last);
    }
    query
}

/// Gives the entries of one INSERT their ids.
pub(super) fn number(entries: &mut [OutboxEntry], first: i64, step: i64) {
    for (id, entry) in (0..).map(|nth| first + nth * step).zip(entries) {
        entry.id = OutboxId(id);
    }
}

/// A row of the log, with its message where that is not among those of the table.
fn logged(
    conversation: ConversationId,
    row: &Row,
    archived: &HashMap<i64, Message>,
) -> Result<(EventSeq, Option<Logged>), Fault> {
    let mut cells = row.cells();
    let event_seq = EventSeq::new(cells.int()?);
    let kind = cells.text()?;
    let message_id = cells.opt_int()?;
    let is_there = cells.opt_int()?.is_some();
    let actor = UserId::new(cells.int()?);
    let at = from_millis(cells.int()?);
    let payload = cells.opt_text()?.unwrap_or_default();
    let (unread_then, unread_now) = (cells.opt_int()?, cells.int()?);
    let agency = UserId::new(cells.opt_int()?.unwrap_or(0));
    let client_id = cells.opt_int()?;
    let (name, company, email) = (cells.opt_text()?, cells.opt_text()?, cells.opt_text()?);
    let client_active = rows::is_client_active(cells.opt_text()?.as_deref());
    let client_user = cells.opt_int()?.map(UserId::new);
    let mut parties = Parties {
        agency,
        client_user,
        client_active,
    };
    let change = match kind.as_str() {
        kind::READ => {
            let read: ReadPayload = from_payload(&payload)?;
            Change::Read {
                side: read.side,
                up_to: read.up_to_seq,
                count: read.count,
            }
        }
        kind::CREATED => Change::Created(from_payload(&payload)?),
        kind::DELETED => {
            parties = from_payload::<DeletedPayload>(&payload)?.parties();
            Change::Deleted
        }
        _ => Change::Message {
            message: {
                let message = if is_there {
                    rows::message(&mut cells)?
                } else {
                    match message_id.and_then(|id| archived.get(&id)) {
                        Some(message) => message.clone(),
                        None => return Ok((event_seq, None)),
                    }
                };
                match unread_then {
                    Some(_) => as_written(message),
                    // Adopted: how it was when it was written is not known.
                    None => message,
                }
            },
            client: ClientSummary {
                id: ClientId::new(client_id.unwrap_or(0)),
                name: name.unwrap_or_default(),
                company,
                email: email.unwrap_or_default(),
                user_id: client_user,
            },
            unread_count: unread_then.unwrap_or(unread_now),
        },
    };
    let logged = Logged {
        position: Position {
            conversation,
            event_seq,
        },
        at,
        actor,
        parties,
        change,
        outbox: None,
    };
    Ok((event_seq, Some(logged)))
}

/// The log tells what happened: that a message was read later is a change of its own.
fn as_written(message: Message) -> Message {
    Message {
        is_read: false,
        read_at: None,
        updated_at: message.created_at,
        ..message
    }
}

fn living_heads() -> Query {
    Query::new(format!(
        "SELECT cv.id, cv.lastSeq, cv.lastEventSeq, cv.agencyId, cu.id, cl.status FROM Conversations cv \
         JOIN Clients cl ON cl.id = cv.clientId LEFT JOIN Users cu ON cu.id = {CLIENT_USER}"
    ))
}

fn read_heads(found: &[Row], heads: &mut Vec<LogHead>) -> Result<(), Fault> {
    for row in found {
        let mut cells = row.cells();
        heads.push(LogHead {
            conversation: ConversationId::new(cells.int()?),
            last_seq: Seq::new(cells.int()?),
            last_event_seq: EventSeq::new(cells.int()?),
            gone: false,
            parties: Parties {
                agency: UserId::new(cells.int()?),
                client_user: cells.opt_int()?.map(UserId::new),
                client_active: rows::is_client_active(cells.opt_text()?.as_deref()),
            },
        });
    }
    Ok(())
}

impl SqlStore {
    /// Rows of a conversation's log after a place, each with its number; without a change where its message is in no table.
    async fn log_rows(
        &self,
        conversation: ConversationId,
        after: EventSeq,
        limit: u32,
    ) -> Result<Vec<(EventSeq, Option<Logged>)>, Fault> {
        // A deleted conversation has no row and no client any more, only the tombstone in its log.
        let sql = format!(
            "SELECT e.eventSeq, e.kind, e.messageId, m.id, e.actorId, e.createdAt, e.payload, e.unreadCount, \
             COALESCE(cv.unreadCount, 0), cv.agencyId, cl.id, cl.name, cl.company, cl.email, cl.status, cu.id, {MESSAGE} \
             FROM ConversationEvents e \
             LEFT JOIN Messages m ON m.id = e.messageId \
             LEFT JOIN Conversations cv ON cv.id = e.conversationId \
             LEFT JOIN Clients cl ON cl.id = cv.clientId \
             LEFT JOIN Users cu ON cu.id = {CLIENT_USER} \
             WHERE e.conversationId = ? AND e.eventSeq > ? \
             ORDER BY e.eventSeq LIMIT ?"
        );
        let query = Query::new(sql).bind(conversation).bind(after).bind(limit);
        let rows = self.db.all(query).await?;
        let mut missing = Vec::new();
        for row in &rows {
            let mut cells = row.cells();
            let (_, kind) = (cells.int()?, cells.text()?);
            if let (kind::MESSAGE, Some(id), None) =
                (kind.as_str(), cells.opt_int()?, cells.opt_int()?)
            {
                missing.push(id);
            }
        }
        // Asked after the log: what was moved since then was found in the table.
        let archived = self.archived(&missing).await?;
        rows.iter()
            .map(|row| logged(conversation, row, &archived))
            .collect()
    }

    /// Those of some messages that are in the archive.
    async fn archived(&self, ids: &[i64]) -> Result<HashMap<i64, Message>, Fault> {
        let mut archived = HashMap::new();
        for chunk in ids.chunks(IDS) {
            let mut query = Query::new(format!(
                "SELECT {MESSAGE} FROM ArchivedMessages m WHERE m.id IN "
            ));
            query.push_list(chunk);
            for row in self.db.all(query).await? {
                let message = rows::message(&mut row.cells())?;
                archived.insert(message.id.get(), message);
            }
        }
        Ok(archived)
    }

    /// Adds the heads of those of `ids` that have none yet and were deleted.
    async fn add_tombstones(
        &self,
        ids: &[ConversationId],
        heads: &mut Vec<LogHead>,
    ) -> Result<(), Fault> {
        let living: HashSet<ConversationId> = heads.iter().map(|head| head.conversation).collect();
        let missing: Vec<ConversationId> = ids
            .iter()
            .copied()
            .filter(|id| !living.contains(id))
            .collect();
        for chunk in missing.chunks(IDS) {
            let mut query = Query::new(
                "SELECT conversationId, eventSeq, payload FROM ConversationEvents WHERE kind = 'deleted' \
                 AND conversationId IN ",
            );
            query.push_list(chunk);
            for row in self.db.all(query).await? {
                let mut cells = row.cells();
                let conversation = ConversationId::new(cells.int()?);
                let last_event_seq = EventSeq::new(cells.int()?);
                let payload: DeletedPayload = from_payload(&cells.opt_text()?.unwrap_or_default())?;
                heads.push(LogHead {
                    conversation,
                    last_seq: payload.last_seq,
                    last_event_seq,
                    gone: true,
                    parties: payload.parties(),
                });
            }
        }
        Ok(())
    }
}
