//! Opening a conversation: whose client it is, with which agent, and whether there is one already.

use shared::envelope::Position;
use shared::{ClientId, ConversationId, EventSeq, Timestamp, UserId};

use super::SqlStore;
use super::accounts::{
    ClientRow, insert_client, link_query, own_clients, own_clients_query, unlinked,
};
use super::conversations::read_conversation;
use super::dialect::Dialect;
use super::fault::Fault;
use super::log::{NewChange, is_logged, log_change};
use super::query::Query;
use super::rows::{self, USER, kind, to_payload};
use super::transaction::{Tx, transact};
use crate::store::{Change, ConversationRecord, Logged, OpenOutcome};

impl SqlStore {
    pub(super) async fn open(
        &self,
        client: UserId,
        agent: Option<UserId>,
        at: Timestamp,
    ) -> Result<OpenOutcome, Fault> {
        self.note_writers([client]).await?;
        let at = self.keepable(at).await?;
        let dialect = self.dialect();
        transact!(
            self.db,
            |tx| open(tx, dialect, client, agent, at),
            stands: |outcome| opened(tx, dialect, outcome)
        )
    }
}

/// Whether the outcome of a transaction in doubt holds.
async fn opened(tx: &mut Tx, dialect: Dialect, outcome: &OpenOutcome) -> Result<bool, Fault> {
    match outcome {
        OpenOutcome::Created(_, logged) => is_logged(tx, dialect, logged).await,
        // Nothing was written that matters.
        _ => Ok(true),
    }
}

/// The account's row is locked first, so that of two calls for one account the second finds what the first made.
async fn open(
    tx: &mut Tx,
    dialect: Dialect,
    account: UserId,
    agent: Option<UserId>,
    at: Timestamp,
) -> Result<OpenOutcome, Fault> {
    let sql = format!(
        "SELECT {USER} FROM Users u WHERE u.id = ?{}",
        dialect.for_update()
    );
    let Some(row) = tx.first(Query::new(sql).bind(account)).await? else {
        return Ok(OpenOutcome::ClientInactive);
    };
    let user = rows::user(&mut row.cells())?;
    let clients = own_clients(&tx.all(own_clients_query(account)).await?)?;
    for client in unlinked(&clients) {
        tx.run(link_query(client, account)).await?;
    }
    let ids: Vec<ClientId> = clients.iter().map(|client| client.id).collect();

    if agent.is_none()
        && let Some(open) = find_open(tx, &ids).await?
    {
        return Ok(OpenOutcome::Existing(open));
    }
    let Some(agent) = choose_agent(tx, agent).await? else {
        return Ok(match agent {
            Some(_) => OpenOutcome::UnknownAgent,
            None => OpenOutcome::NoAgent,
        });
    };
    if let Some(existing) = find(tx, &ids, agent).await? {
        return Ok(OpenOutcome::Existing(existing));
    }
    let client = if clients.is_empty() {
        insert_client(
            tx,
            ClientRow {
                user: account,
                email: &user.email,
                first_name: user.first_name.as_deref(),
                last_name: user.last_name.as_deref(),
                company: user.company.as_deref(),
                phone: user.phone.as_deref(),
                country: None,
                at,
            },
        )
        .await?
    } else {
        match clients.iter().find(|client| client.active) {
            Some(client) => client.id,
            None => return Ok(OpenOutcome::ClientInactive),
        }
    };
    create(tx, dialect, client, agent, account, at).await
}

/// The agent asked for, if there is one of that id; without a wish the one with the fewest open conversations, and of
/// several such the one who came last.
async fn choose_agent(tx: &mut Tx, wish: Option<UserId>) -> Result<Option<UserId>, Fault> {
    let query = match wish {
        Some(agent) => {
            Query::new("SELECT u.id FROM Users u WHERE u.id = ? AND u.role = 'admin'").bind(agent)
        }
        None => Query::new(
            "SELECT u.id FROM Users u LEFT JOIN Conversations cv ON cv.agencyId = u.id \
             WHERE u.role = 'admin' GROUP BY u.id \
             ORDER BY COALESCE(SUM(CASE WHEN cv.isActive <> 0 THEN 1 ELSE 0 END), 0), u.id DESC LIMIT 1",
        ),
    };
    Ok(match tx.first(query).await? {
        Some(row) => Some(UserId::new(row.int()?)),
        None => None,
    })
}

/// The open conversation in which something happened last: who asks for any agent wants to go on there.
async fn find_open(tx: &mut Tx, clients: &[ClientId]) -> Result<Option<ConversationRecord>, Fault> {
    let mut query = Query::new("SELECT id FROM Conversations WHERE clientId IN ");
    query.push_list(clients);
    query.push(" AND isActive <> 0 ORDER BY activityMs DESC, id DESC LIMIT 1");
    read_first(tx, query).await
}

async fn find(
    tx: &mut Tx,
    clients: &[ClientId],
    agent: UserId,
) -> Result<Option<ConversationRecord>, Fault> {
    let mut query = Query::new("SELECT id FROM Conversations WHERE clientId IN ");
    query.push_list(clients);
    query.push(" AND agencyId = ? ORDER BY id LIMIT 1");
    read_first(tx, query.bind(agent)).await
}

/// The conversation of the first id that a query answers.
async fn read_first(tx: &mut Tx, ids: Query) -> Result<Option<ConversationRecord>, Fault> {
    match tx.first(ids).await? {
        Some(row) => read_conversation(tx, ConversationId::new(row.int()?)).await,
        None => Ok(None),
    }
}

async fn create(
    tx: &mut Tx,
    dialect: Dialect,
    client: ClientId,
    agent: UserId,
    account: UserId,
    at: Timestamp,
) -> Result<OpenOutcome, Fault> {
    let event_seq = EventSeq::ZERO.next();
    let columns = "clientId, agencyId, unreadCount, isActive, createdAt, updatedAt, lastEventSeq";
    let query = match dialect {
        Dialect::MySql => Query::new(format!(
            "INSERT INTO Conversations ({columns}) VALUES (?, ?, 0, 1, ?, ?, ?)"
        )),
        // An adopted table may lack AUTOINCREMENT and would give a deleted conversation's id, with its tombstone, to a
        // new one.
        Dialect::Sqlite => Query::new(format!(
            "INSERT INTO Conversations (id, {columns}) VALUES (1 + MAX(\
             COALESCE((SELECT MAX(id) FROM Conversations), 0), \
             COALESCE((SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'Conversations'), 0), \
             COALESCE((SELECT MAX(conversationId) FROM ConversationEvents), 0)), ?, ?, 0, 1, ?, ?, ?)"
        )),
    };
    let query = query
        .bind(client)
        .bind(agent)
        .bind(at)
        .bind(at)
        .bind(event_seq);
    let id = match tx.run(query).await {
        Ok(done) => ConversationId::new(done.id()),
        // The old system, which takes none of our locks, was faster: look again.
        Err(fault) if fault.is_duplicate() => return Err(Fault::Overtaken),
        Err(fault) => return Err(fault),
    };
    let record = read_conversation(tx, id)
        .await?
        .ok_or(sqlx::Error::RowNotFound)?;
    let payload = to_payload(&record.conversation)?;
    let change = NewChange {
        conversation: id,
        event_seq,
        kind: kind::CREATED,
        actor: account,
        payload: &payload,
        at,
    };
    let outbox = log_change(tx, dialect, change).await?;
    let logged = Logged {
        position: Position {
            conversation: id,
            event_seq,
        },
        at,
        actor: account,
        parties: record.parties(),
        change: Change::Created(record.conversation.clone()),
        outbox: Some(outbox),
    };
    Ok(OpenOutcome::Created(record, logged))
}
