//! `Conversations`: finding and listing them, who shares them, what is unread, and deleting one. Opening stands in
//! `opening`, marking as read in `reading`.

use async_trait::async_trait;
use shared::envelope::Position;
use shared::{ConversationId, Role, Timestamp, UserId};

use super::SqlStore;
use super::accounts::link_query;
use super::dialect::Dialect;
use super::fault::Fault;
use super::log::{NewChange, is_logged, log_change};
use super::query::Query;
use super::replica::Source;
use super::rows::{
    self, CLIENT_USER, CONVERSATION, ConversationRow, DeletedPayload, conversation_joins, kind,
    to_payload,
};
use super::transaction::{Tx, transact};
use crate::store::{
    Change, ConversationCursor, ConversationRecord, Conversations, Logged, OpenOutcome, ReadMark,
    ReadOutcome, StoreError, UnreadTotals, Viewer,
};

#[async_trait]
impl Conversations for SqlStore {
    async fn conversation(
        &self,
        id: ConversationId,
    ) -> Result<Option<ConversationRecord>, StoreError> {
        let Some(row) = self.db.first(conversation_query(id)).await? else {
            return Ok(None);
        };
        let found = rows::conversation(&mut row.cells())?;
        self.link(&found).await?;
        Ok(Some(found.record))
    }

    async fn conversations(
        &self,
        viewer: Viewer,
        after: Option<&ConversationCursor>,
        limit: u32,
    ) -> Result<Vec<ConversationRecord>, StoreError> {
        if let Some(mut replica) = self.replica_for(viewer.user).await
            && let Ok(records) = page(&mut replica, viewer, after, limit).await
        {
            return Ok(records);
        }
        Ok(page(&mut Source::Primary(self), viewer, after, limit).await?)
    }

    async fn open_conversation(
        &self,
        client: UserId,
        agent: Option<UserId>,
        at: Timestamp,
    ) -> Result<OpenOutcome, StoreError> {
        Ok(self.open(client, agent, at).await?)
    }

    async fn delete_conversation(
        &self,
        id: ConversationId,
        by: UserId,
        at: Timestamp,
    ) -> Result<Option<Logged>, StoreError> {
        self.note_writers([by]).await?;
        let dialect = self.dialect();
        let outcome: Result<_, Fault> = transact!(
            self.db,
            |tx| delete(tx, dialect, id, by, at),
            stands: |deleted| deleted_for_good(tx, dialect, deleted)
        );
        Ok(outcome?)
    }

    async fn mark_read(&self, mark: &ReadMark) -> Result<Option<ReadOutcome>, StoreError> {
        Ok(self.mark(mark).await?)
    }

    async fn unread(&self, viewer: Viewer) -> Result<UnreadTotals, StoreError> {
        if let Some(mut replica) = self.replica_for(viewer.user).await
            && let Ok(totals) = unread(&mut replica, viewer).await
        {
            return Ok(totals);
        }
        Ok(unread(&mut Source::Primary(self), viewer).await?)
    }

    async fn counterparts(&self, viewer: Viewer) -> Result<Vec<UserId>, StoreError> {
        if let Some(mut replica) = self.replica_for(viewer.user).await
            && let Ok(people) = counterparts(&mut replica, viewer).await
        {
            return Ok(people);
        }
        Ok(counterparts(&mut Source::Primary(self), viewer).await?)
    }
}

/// A page of the conversations a viewer may see.
async fn page(
    source: &mut Source<'_>,
    viewer: Viewer,
    after: Option<&ConversationCursor>,
    limit: u32,
) -> Result<Vec<ConversationRecord>, Fault> {
    // The page is cut from the index before anything is joined to it. To SQLite a CROSS JOIN says that it stays in this order:
    // it would walk all conversations instead, for the sake of theirs.
    let mut page = Query::new("SELECT p.id FROM Conversations p WHERE 1 = 1");
    if viewer.role == Role::User {
        let clients = source.clients_of(viewer.user).await?;
        page.push(" AND p.clientId IN ");
        page.push_list(&clients);
    }
    if let Some(after) = after {
        // The first condition is implied by the second, but only the first is a range of the index.
        page.push(" AND p.activityMs <= ? AND (p.activityMs < ? OR p.id < ?)");
        page.push_value(after.activity.unix_millis());
        page.push_value(after.activity.unix_millis());
        page.push_value(after.id);
    }
    page.push(" ORDER BY p.activityMs DESC, p.id DESC LIMIT ?");
    page.push_value(limit);
    let query = page.wrap(
        &format!("SELECT {CONVERSATION} FROM ("),
        &format!(
            ") page CROSS JOIN Conversations cv ON cv.id = page.id {} ORDER BY cv.activityMs DESC, cv.id DESC",
            conversation_joins()
        ),
    );
    let mut records = Vec::new();
    for row in source.all(query).await? {
        records.push(rows::conversation(&mut row.cells())?.record);
    }
    Ok(records)
}

/// The unread counts of a viewer's side.
async fn unread(source: &mut Source<'_>, viewer: Viewer) -> Result<UnreadTotals, Fault> {
    // SUM is a DECIMAL in MySQL.
    let query = match viewer.role {
            Role::Admin => Query::new(
                "SELECT CAST(COALESCE(SUM(unreadCount), 0) AS SIGNED), \
                 CAST(COALESCE(SUM(CASE WHEN agencyId = ? THEN unreadCount ELSE 0 END), 0) AS SIGNED) \
                 FROM Conversations WHERE unreadCount > 0",
            )
            .bind(viewer.user),
            Role::User => {
                let clients = source.clients_of(viewer.user).await?;
                let mut query = Query::new(
                    "SELECT CAST(COALESCE(SUM(clientUnreadCount), 0) AS SIGNED), \
                     CAST(COALESCE(SUM(clientUnreadCount), 0) AS SIGNED) \
                     FROM Conversations WHERE clientId IN ",
                );
                query.push_list(&clients);
                query
            }
        };
    let Some(row) = source.first(query).await? else {
        return Ok(UnreadTotals::default());
    };
    let mut cells = row.cells();
    Ok(UnreadTotals {
        all: cells.int()?,
        mine: cells.int()?,
    })
}

/// The people a viewer shares a conversation with.
async fn counterparts(source: &mut Source<'_>, viewer: Viewer) -> Result<Vec<UserId>, Fault> {
    let query = match viewer.role {
        Role::Admin => Query::new(format!(
            "SELECT DISTINCT cu.id FROM Conversations cv JOIN Clients cl ON cl.id = cv.clientId \
             JOIN Users cu ON cu.id = {CLIENT_USER} WHERE cv.agencyId = ?"
        ))
        .bind(viewer.user),
        Role::User => {
            let clients = source.clients_of(viewer.user).await?;
            let mut query =
                Query::new("SELECT DISTINCT agencyId FROM Conversations WHERE clientId IN ");
            query.push_list(&clients);
            query
        }
    };
    let mut people = Vec::new();
    for row in source.all(query).await? {
        people.push(UserId::new(row.int()?));
    }
    Ok(people)
}

/// Reads one conversation.
pub(super) fn conversation_query(id: ConversationId) -> Query {
    Query::new(format!(
        "SELECT {CONVERSATION} FROM Conversations cv {} WHERE cv.id = ?",
        conversation_joins()
    ))
    .bind(id)
}

/// Reads one conversation within a transaction.
pub(super) async fn read_conversation(
    tx: &mut Tx,
    id: ConversationId,
) -> Result<Option<ConversationRecord>, Fault> {
    match tx.first(conversation_query(id)).await? {
        Some(row) => Ok(Some(rows::conversation(&mut row.cells())?.record)),
        None => Ok(None),
    }
}

/// Locks one conversation; whether it is there.
pub(super) async fn lock_conversation(
    tx: &mut Tx,
    dialect: Dialect,
    id: ConversationId,
) -> Result<bool, Fault> {
    let sql = format!(
        "SELECT id FROM Conversations WHERE id = ?{}",
        dialect.for_update()
    );
    Ok(tx.first(Query::new(sql).bind(id)).await?.is_some())
}

impl SqlStore {
    /// Writes down whose the client is, where that was found by the address.
    async fn link(&self, found: &ConversationRow) -> Result<(), Fault> {
        let client = &found.record.conversation.client;
        if let (true, Some(user)) = (found.unlinked, client.user_id) {
            self.db.run(link_query(client.id, user)).await?;
        }
        Ok(())
    }
}

/// Whether the outcome of a deletion in doubt holds.
async fn deleted_for_good(
    tx: &mut Tx,
    dialect: Dialect,
    outcome: &Option<Logged>,
) -> Result<bool, Fault> {
    match outcome {
        Some(logged) => is_logged(tx, dialect, logged).await,
        None => Ok(true),
    }
}

async fn delete(
    tx: &mut Tx,
    dialect: Dialect,
    id: ConversationId,
    by: UserId,
    at: Timestamp,
) -> Result<Option<Logged>, Fault> {
    if !lock_conversation(tx, dialect, id).await? {
        return Ok(None);
    }
    let Some(record) = read_conversation(tx, id).await? else {
        return Ok(None);
    };
    for sql in [
        "DELETE FROM Messages WHERE conversationId = ?",
        "DELETE FROM ArchivedMessages WHERE conversationId = ?",
        "DELETE FROM ConversationEvents WHERE conversationId = ?",
        "DELETE FROM Outbox WHERE conversationId = ?",
        "DELETE FROM Conversations WHERE id = ?",
    ] {
        tx.run(Query::new(sql).bind(id)).await?;
    }
    let conversation = &record.conversation;
    let event_seq = conversation.last_event_seq.next();
    let payload = to_payload(&DeletedPayload {
        agency_id: conversation.agency_id,
        client_user_id: conversation.client.user_id,
        last_seq: conversation.last_seq,
    })?;
    let change = NewChange {
        conversation: id,
        event_seq,
        kind: kind::DELETED,
        actor: by,
        payload: &payload,
        at,
    };
    let outbox = log_change(tx, dialect, change).await?;
    Ok(Some(Logged {
        position: Position {
            conversation: id,
            event_seq,
        },
        at,
        actor: by,
        parties: record.parties(),
        change: Change::Deleted,
        outbox: Some(outbox),
    }))
}
