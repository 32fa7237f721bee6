//! How messages get in: a batch, one transaction, a number of statements that hardly grows with the batch.
//!
//! 1. lock the conversations, in the order of their ids, which also reads their counters; read their clients; find repeats, where
//!    messages bear a `clientMessageId`;
//! 2. decide and number here, then insert messages and log rows, update the conversations, note it in the outbox.
//!
//! On MySQL a small batch asks each of the two in one call ([`CALLED`]), so that a message by itself takes three round trips with its
//! commit. A larger one asks statement by statement, prepared: there a round trip is shared by many, and to read literals
//! would cost the server more than it saves.

use std::collections::{BTreeSet, HashMap};

use shared::envelope::Position;
use shared::model::{ClientSummary, Message};
use shared::{ClientId, ConversationId, EventSeq, MessageId, SenderType, Seq, Timestamp, UserId};

use super::SqlStore;
use super::accounts::link_query;
use super::conn::Answer;
use super::conversations::lock_conversation;
use super::dialect::Dialect;
use super::fault::Fault;
use super::log::{insert_outbox, number, outbox_query};
use super::query::{Query, Row};
use super::rows::{self, CLIENT_USER, MESSAGE, kind};
use super::transaction::{Tx, transact};
use crate::store::{
    Admission, AppendOutcome, Appended, Change, Logged, NewMessage, OutboxEntry, OutboxId, Parties,
    Rejection,
};

/// The most rows of one INSERT: below SQLite's 32,766 values.
const ROWS: usize = 128;

/// The most bytes of text in one statement: half of the smallest `max_allowed_packet` that is still met with, 1 MiB. A server
/// answers a longer one by hanging up.
const TEXT: usize = 512 << 10;

/// The most conversations of one UPDATE: each row walks the list of all, so longer lists would cost their square.
const UPDATED: usize = 64;

/// The most keys of one look-up.
const KEYS: usize = 128;

/// The most messages of a batch that is asked in calls, and of their text, in bytes.
const CALLED: usize = 8;
const CALLED_TEXT: usize = 16 << 10;

impl SqlStore {
    pub(super) async fn append_batch(
        &self,
        batch: &[NewMessage],
        admit: &Admission,
    ) -> Result<AppendOutcome, Fault> {
        if batch.is_empty() {
            return Ok(AppendOutcome {
                results: Vec::new(),
                outbox: Vec::new(),
            });
        }
        self.note_writers(batch.iter().map(|message| message.sender))
            .await?;
        // Known before the transaction, which must not ask for anything else while it holds locks.
        let mut times = Vec::with_capacity(batch.len());
        for message in batch {
            times.push(self.keepable(message.at).await?);
        }
        let dialect = self.dialect();
        let mark = format!("{:016x}", rand::random::<u64>());
        // Not in line with the others: there are as many of these at once as writers, with many callers' messages each.
        transact!(
            unqueued self.db,
            |tx| append(tx, dialect, batch, &times, admit, &mark),
            stands: |outcome| is_stored(tx, dialect, outcome, &mark)
        )
    }
}

/// Whether a batch is stored whose transaction is in doubt. Its first message speaks for all, and is known by the mark that
/// its change bears in the log: where a server died, another sender's message may have taken its number and even its id.
async fn is_stored(
    tx: &mut Tx,
    dialect: Dialect,
    outcome: &AppendOutcome,
    mark: &str,
) -> Result<bool, Fault> {
    let new = outcome.results.iter().find_map(|result| match result {
        Ok(Appended::New(logged)) => Some(logged.position),
        _ => None,
    });
    let Some(Position {
        conversation,
        event_seq,
    }) = new
    else {
        return Ok(true);
    };
    lock_conversation(tx, dialect, conversation).await?;
    let query = Query::new(
        "SELECT payload FROM ConversationEvents WHERE conversationId = ? AND eventSeq = ?",
    )
    .bind(conversation)
    .bind(event_seq);
    match tx.first(query).await? {
        Some(row) => Ok(row.cells().opt_text()?.as_deref() == Some(mark)),
        None => Ok(false),
    }
}

/// A conversation while it is locked, as the batch so far leaves it.
struct Locked {
    parties: Parties,
    client_id: ClientId,
    client: Option<ClientSummary>,
    unread: i64,
    client_unread: i64,
    first_event: EventSeq,
    last_seq: Seq,
    last_event: EventSeq,
    /// Whether old messages of it are in the archive.
    has_archive: bool,
    /// The newest of the batch: which message of it, by its place among the new ones.
    newest: Option<usize>,
}

/// What one message of the batch comes to, before ids are known.
enum Verdict {
    Rejected(Rejection),
    Stored(Message),
    /// A new one, or a repeat of a new one, by its place among the new ones.
    New(usize),
    Again(usize),
}

/// What tells a repeat: where, who, and the sender's own name for it, as bytes.
type Key<'a> = (ConversationId, UserId, &'a str);

async fn append(
    tx: &mut Tx,
    dialect: Dialect,
    batch: &[NewMessage],
    times: &[Timestamp],
    admit: &Admission,
    mark: &str,
) -> Result<AppendOutcome, Fault> {
    let ids: BTreeSet<ConversationId> = batch.iter().map(|message| message.conversation).collect();
    let ids: Vec<ConversationId> = ids.into_iter().collect();
    let text: usize = batch.iter().map(|message| message.content.len()).sum();
    let called = dialect == Dialect::MySql && batch.len() <= CALLED && text <= CALLED_TEXT;
    let Read {
        mut locked,
        step,
        stored,
    } = read(tx, dialect, batch, &ids, called).await?;

    let mut fresh: Vec<(Message, i64)> = Vec::with_capacity(batch.len());
    let mut named: HashMap<Key<'_>, usize> = HashMap::new();
    let mut verdicts = Vec::with_capacity(batch.len());
    for (message, at) in batch.iter().zip(times) {
        verdicts.push(decide(
            message,
            *at,
            admit,
            &mut locked,
            &stored,
            &mut named,
            &mut fresh,
        ));
    }
    let mut noted = changes(&locked);
    if called && !fresh.is_empty() {
        write_in_one_call(tx, step, &mut fresh, mark, &locked, &mut noted).await?;
    } else {
        insert_messages(tx, dialect, step, &mut fresh).await?;
        insert_events(tx, &fresh, mark).await?;
        update_conversations(tx, &locked, &fresh).await?;
        note(tx, dialect, step, &mut noted).await?;
    }

    Ok(AppendOutcome {
        results: verdicts
            .into_iter()
            .map(|verdict| match verdict {
                Verdict::Rejected(why) => Err(why),
                Verdict::Stored(message) => Ok(Appended::Repeat(message)),
                Verdict::Again(place) => Ok(Appended::Repeat(fresh[place].0.clone())),
                Verdict::New(place) => {
                    let (message, unread) = &fresh[place];
                    logged(message, *unread, &locked)
                        .map(Appended::New)
                        .ok_or(Rejection::ConversationNotFound)
                }
            })
            .collect(),
        outbox: noted.into_iter().map(|entry| entry.id).collect(),
    })
}

/// What is known of a batch before it is decided.
struct Read {
    /// Those of its conversations that exist.
    locked: HashMap<ConversationId, Locked>,
    /// By how much the ids of one INSERT's rows differ on this connection.
    step: i64,
    /// The stored messages of which it has repeats. The conversations are locked, so there will be no others.
    stored: HashMap<(ConversationId, UserId, String), Message>,
}

/// Locks the conversations, then reads the rest. None of the statements needs the answer of another.
async fn read(
    tx: &mut Tx,
    dialect: Dialect,
    batch: &[NewMessage],
    ids: &[ConversationId],
    called: bool,
) -> Result<Read, Fault> {
    let keys: Vec<Key<'_>> = batch.iter().filter_map(key).collect();
    let locks = ids.chunks(KEYS).map(|chunk| lock(dialect, chunk));
    let clients = ids.chunks(KEYS).map(clients_of);
    let repeats = keys.chunks(KEYS).map(|chunk| repeats_of("Messages", chunk));
    let (locks, clients, repeats) = if called {
        let (locks, clients) = (locks.collect::<Vec<_>>(), clients.collect::<Vec<_>>());
        let (first, second) = (locks.len(), locks.len() + clients.len());
        let queries = locks.into_iter().chain(clients).chain(repeats).collect();
        let mut answers = tx.call(queries).await?;
        let repeats = rows_of(answers.split_off(second));
        let clients = rows_of(answers.split_off(first));
        (rows_of(answers), clients, repeats)
    } else {
        (
            all(tx, locks).await?,
            all(tx, clients).await?,
            all(tx, repeats).await?,
        )
    };
    let mut read = Read {
        locked: HashMap::with_capacity(ids.len()),
        step: 1,
        stored: HashMap::new(),
    };
    for row in locks {
        read.take_conversation(&row)?;
    }
    read.take_clients(tx, &clients).await?;
    read.take_repeats(&repeats)?;
    let archived: Vec<Key<'_>> = keys
        .into_iter()
        .filter(|(conversation, sender, name)| {
            let locked = read.locked.get(conversation);
            locked.is_some_and(|one| one.has_archive)
                && !read
                    .stored
                    .contains_key(&(*conversation, *sender, (*name).to_owned()))
        })
        .collect();
    let archived = archived
        .chunks(KEYS)
        .map(|chunk| repeats_of("ArchivedMessages", chunk));
    let archived = all(tx, archived).await?;
    read.take_repeats(&archived)?;
    Ok(read)
}

/// The rows of several statements, one after another.
async fn all(tx: &mut Tx, queries: impl Iterator<Item = Query>) -> Result<Vec<Row>, Fault> {
    let mut rows = Vec::new();
    for query in queries {
        rows.append(&mut tx.all(query).await?);
    }
    Ok(rows)
}

fn rows_of(answers: Vec<Answer>) -> Vec<Row> {
    answers.into_iter().flat_map(|answer| answer.rows).collect()
}

fn lock(dialect: Dialect, ids: &[ConversationId]) -> Query {
    let mut query = Query::new(format!(
        "SELECT id, clientId, agencyId, COALESCE(unreadCount, 0), clientUnreadCount, lastSeq, lastEventSeq, archivedSeq, {} \
         FROM Conversations WHERE id IN ",
        dialect.id_step()
    ));
    query.push_list(ids);
    query.push(" ORDER BY id");
    query.push(dialect.for_update());
    query
}

/// Who the clients are and whether they may write. A query of its own: joined to the first it would lock these rows as
/// well, and conversations of one client would wait for each other.
fn clients_of(ids: &[ConversationId]) -> Query {
    let mut query = Query::new(format!(
        "SELECT cl.id, cl.name, cl.company, cl.email, cl.status, cl.userId, cu.id FROM Clients cl \
         LEFT JOIN Users cu ON cu.id = {CLIENT_USER} WHERE cl.id IN (SELECT clientId FROM Conversations WHERE id IN "
    ));
    query.push_list(ids);
    query.push(")");
    query
}

fn repeats_of(table: &str, keys: &[Key<'_>]) -> Query {
    let mut query = Query::new(format!("SELECT {MESSAGE} FROM {table} m WHERE "));
    for index in 0..keys.len().next_power_of_two() {
        let (conversation, sender, name) = keys[index.min(keys.len() - 1)];
        query.push(if index == 0 { "" } else { " OR " });
        query.push("(m.conversationId = ? AND m.senderId = ? AND m.clientMessageId = ?)");
        query.push_value(conversation);
        query.push_value(sender);
        query.push_value(name.as_bytes());
    }
    query
}

impl Read {
    fn take_conversation(&mut self, row: &Row) -> Result<(), Fault> {
        let mut cells = row.cells();
        let id = ConversationId::new(cells.int()?);
        let client_id = ClientId::new(cells.int()?);
        let agency = UserId::new(cells.int()?);
        let (unread, client_unread) = (cells.int()?, cells.int()?);
        let last_seq = Seq::new(cells.int()?);
        let last_event = EventSeq::new(cells.int()?);
        let has_archive = cells.int()? > 0;
        self.step = cells.int()?.max(1);
        let locked = Locked {
            parties: Parties {
                agency,
                client_user: None,
                client_active: false,
            },
            client_id,
            client: None,
            unread,
            client_unread,
            first_event: last_event.next(),
            last_seq,
            last_event,
            has_archive,
            newest: None,
        };
        self.locked.insert(id, locked);
        Ok(())
    }

    fn take_repeats(&mut self, rows: &[Row]) -> Result<(), Fault> {
        for row in rows {
            let message = rows::message(&mut row.cells())?;
            if let Some(name) = message.client_message_id.clone() {
                let key = (message.conversation_id, message.sender_id, name);
                self.stored.insert(key, message);
            }
        }
        Ok(())
    }

    async fn take_clients(&mut self, tx: &mut Tx, rows: &[Row]) -> Result<(), Fault> {
        let mut clients = HashMap::with_capacity(rows.len());
        for row in rows {
            let mut cells = row.cells();
            let id = ClientId::new(cells.int()?);
            let (name, company, email) = (cells.text()?, cells.opt_text()?, cells.text()?);
            let active = rows::is_client_active(cells.opt_text()?.as_deref());
            let linked = cells.opt_int()?;
            let user_id = cells.opt_int()?.map(UserId::new);
            if let (None, Some(user)) = (linked, user_id) {
                tx.run(link_query(id, user)).await?;
            }
            let summary = ClientSummary {
                id,
                name,
                company,
                email,
                user_id,
            };
            clients.insert(id, (summary, active));
        }
        for one in self.locked.values_mut() {
            if let Some((summary, active)) = clients.get(&one.client_id) {
                one.parties.client_user = summary.user_id;
                one.parties.client_active = *active;
                one.client = Some(summary.clone());
            }
        }
        Ok(())
    }
}

fn key(message: &NewMessage) -> Option<Key<'_>> {
    let name = message.client_message_id.as_deref()?;
    Some((message.conversation, message.sender, name))
}

fn decide<'a>(
    message: &'a NewMessage,
    at: Timestamp,
    admit: &Admission,
    locked: &mut HashMap<ConversationId, Locked>,
    stored: &HashMap<(ConversationId, UserId, String), Message>,
    named: &mut HashMap<Key<'a>, usize>,
    fresh: &mut Vec<(Message, i64)>,
) -> Verdict {
    let Some(conversation) = locked.get_mut(&message.conversation) else {
        return Verdict::Rejected(Rejection::ConversationNotFound);
    };
    if conversation.client.is_none() {
        return Verdict::Rejected(Rejection::ConversationNotFound);
    }
    let receiver = match admit(message, &conversation.parties) {
        Ok(receiver) => receiver,
        Err(why) => return Verdict::Rejected(why),
    };
    let key = key(message);
    if let Some((place, sender, name)) = key {
        if let Some(earlier) = stored.get(&(place, sender, name.to_owned())) {
            return Verdict::Stored(earlier.clone());
        }
        if let Some(earlier) = named.get(&(place, sender, name)) {
            return Verdict::Again(*earlier);
        }
    }
    let side = message.role.side();
    match side {
        SenderType::Client => conversation.unread += 1,
        SenderType::Agency => conversation.client_unread += 1,
    }
    conversation.last_seq = conversation.last_seq.next();
    conversation.last_event = conversation.last_event.next();
    let place = fresh.len();
    conversation.newest = Some(place);
    if let Some(key) = key {
        named.insert(key, place);
    }
    let row = Message {
        // Known once it is inserted.
        id: MessageId::new(0),
        conversation_id: message.conversation,
        sender_id: message.sender,
        receiver_id: receiver,
        sender_type: side,
        content: message.content.clone(),
        is_read: false,
        read_at: None,
        created_at: Some(at),
        updated_at: Some(at),
        seq: conversation.last_seq,
        event_seq: conversation.last_event,
        client_message_id: message.client_message_id.clone(),
    };
    fresh.push((row, conversation.unread));
    Verdict::New(place)
}

/// Writes all of a small batch. The log's rows name their messages by the id that MySQL has given the first of them, which that
/// table, having no numbers of its own to give, leaves as it is.
async fn write_in_one_call(
    tx: &mut Tx,
    step: i64,
    fresh: &mut [(Message, i64)],
    mark: &str,
    locked: &HashMap<ConversationId, Locked>,
    noted: &mut [OutboxEntry],
) -> Result<(), Fault> {
    for (nth, (message, _)) in (0..).zip(fresh.iter_mut()) {
        message.id = MessageId::new(nth * step);
    }
    let answers = tx
        .call(vec![
            messages_query(fresh),
            events_query(fresh, &mut Some(mark), "LAST_INSERT_ID() + ?"),
            conversations_query(&changed(locked, fresh)),
            outbox_query(Dialect::MySql, noted),
        ])
        .await?;
    let [messages, .., outbox] = answers.as_slice() else {
        return Err(Fault::Sql(sqlx::Error::RowNotFound));
    };
    for (message, _) in fresh.iter_mut() {
        message.id = MessageId::new(messages.done.last_id + message.id.get());
    }
    number(noted, outbox.done.last_id, step);
    Ok(())
}

/// Inserts the new messages and gives them their ids. Chunks are powers of two, as lists of values are: few lengths,
/// few prepared statements.
async fn insert_messages(
    tx: &mut Tx,
    dialect: Dialect,
    step: i64,
    fresh: &mut [(Message, i64)],
) -> Result<(), Fault> {
    let mut rest = fresh;
    while !rest.is_empty() {
        let len = chunk_len(rest, ROWS, |(message, _)| message.content.len());
        let (chunk, later) = rest.split_at_mut(len);
        let done = tx.run(messages_query(chunk)).await?;
        let first = done.first_id(dialect, chunk.len());
        for (id, (message, _)) in (0..).map(|nth| first + nth * step).zip(chunk) {
            message.id = MessageId::new(id);
        }
        rest = later;
    }
    Ok(())
}

fn messages_query(fresh: &[(Message, i64)]) -> Query {
    let mut query = Query::new(
        "INSERT INTO Messages (conversationId, senderId, receiverId, senderType, content, isRead, createdAt, \
         updatedAt, seq, eventSeq, clientMessageId) VALUES ",
    );
    query.push_rows(fresh.len(), "(?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?)");
    for (message, _) in fresh {
        query.push_value(message.conversation_id);
        query.push_value(message.sender_id);
        query.push_value(message.receiver_id);
        query.push_value(message.sender_type.as_str());
        query.push_value(&message.content);
        query.push_value(message.created_at);
        query.push_value(message.updated_at);
        query.push_value(message.seq);
        query.push_value(message.event_seq);
        query.push_value(message.client_message_id.as_deref().map(str::as_bytes));
    }
    query
}

/// Logs the new messages, the first of them with the batch's mark.
async fn insert_events(tx: &mut Tx, fresh: &[(Message, i64)], mark: &str) -> Result<(), Fault> {
    let mut rest = fresh;
    let mut mark = Some(mark);
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(chunk_len(rest, ROWS, |_| 0));
        tx.run(events_query(chunk, &mut mark, "?")).await?;
        rest = later;
    }
    Ok(())
}

/// `message_id` is a message's id, said with its value.
fn events_query(fresh: &[(Message, i64)], mark: &mut Option<&str>, message_id: &str) -> Query {
    let mut query = Query::new(
        "INSERT INTO ConversationEvents (conversationId, eventSeq, kind, actorId, messageId, unreadCount, \
         payload, createdAt) VALUES ",
    );
    query.push_rows(fresh.len(), &format!("(?, ?, ?, ?, {message_id}, ?, ?, ?)"));
    for (message, unread) in fresh {
        query.push_value(message.conversation_id);
        query.push_value(message.event_seq);
        query.push_value(kind::MESSAGE);
        query.push_value(message.sender_id);
        query.push_value(message.id);
        query.push_value(*unread);
        query.push_value(mark.take());
        query.push_value(message.created_at.map(Timestamp::unix_millis));
    }
    query
}

/// How many of `rest` one statement takes: the longest power of two that is left and allowed, in rows and in text.
fn chunk_len<T>(rest: &[T], rows: usize, text: impl Fn(&T) -> usize) -> usize {
    let mut len = rows;
    while len > 1 && (len > rest.len() || rest[..len].iter().map(&text).sum::<usize>() > TEXT) {
        len /= 2;
    }
    len
}

/// What a column of a conversation becomes, given its state and its newest message.
type NewValue = fn(&Locked, &Message) -> super::query::Value;

async fn update_conversations(
    tx: &mut Tx,
    locked: &HashMap<ConversationId, Locked>,
    fresh: &[(Message, i64)],
) -> Result<(), Fault> {
    let changed = changed(locked, fresh);
    let mut rest = changed.as_slice();
    while !rest.is_empty() {
        let len = chunk_len(rest, UPDATED, |(_, message)| message.content.len());
        let (chunk, later) = rest.split_at(len);
        tx.run(conversations_query(chunk)).await?;
        rest = later;
    }
    Ok(())
}

/// The conversations that have new messages, each with its newest.
fn changed<'a>(
    locked: &'a HashMap<ConversationId, Locked>,
    fresh: &'a [(Message, i64)],
) -> Vec<(&'a Locked, &'a Message)> {
    locked
        .values()
        .filter_map(|one| Some((one, &fresh[one.newest?].0)))
        .collect()
}

fn conversations_query(changed: &[(&Locked, &Message)]) -> Query {
    let mut query = Query::new("UPDATE Conversations SET ");
    let columns: [(&str, NewValue); 7] = [
        ("lastMessage", |_, message| (&message.content).into()),
        ("lastMessageTime", |_, message| message.created_at.into()),
        ("updatedAt", |_, message| message.created_at.into()),
        ("unreadCount", |one, _| one.unread.into()),
        ("clientUnreadCount", |one, _| one.client_unread.into()),
        ("lastSeq", |one, _| one.last_seq.into()),
        ("lastEventSeq", |one, _| one.last_event.into()),
    ];
    for (index, (column, value)) in columns.iter().enumerate() {
        query.push(if index == 0 { "" } else { ", " });
        query.push(column);
        query.push(" = CASE id");
        for (one, message) in changed {
            query.push(" WHEN ? THEN ?");
            query.push_value(message.conversation_id);
            query.push_value(value(one, message));
        }
        query.push(" END");
    }
    query.push(" WHERE id IN ");
    let ids: Vec<ConversationId> = changed.iter().map(|(_, one)| one.conversation_id).collect();
    query.push_list(&ids);
    query
}

/// What is to be noted in the outbox: each conversation's new changes.
fn changes(locked: &HashMap<ConversationId, Locked>) -> Vec<OutboxEntry> {
    locked
        .iter()
        .filter(|(_, one)| one.newest.is_some())
        .map(|(id, one)| OutboxEntry {
            id: OutboxId(0),
            conversation: *id,
            first: one.first_event,
            last: one.last_event,
        })
        .collect()
}

async fn note(
    tx: &mut Tx,
    dialect: Dialect,
    step: i64,
    entries: &mut [OutboxEntry],
) -> Result<(), Fault> {
    let mut rest = entries;
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at_mut(chunk_len(rest, ROWS, |_| 0));
        insert_outbox(tx, dialect, step, chunk).await?;
        rest = later;
    }
    Ok(())
}

fn logged(
    message: &Message,
    unread_count: i64,
    locked: &HashMap<ConversationId, Locked>,
) -> Option<Logged> {
    let one = locked.get(&message.conversation_id)?;
    Some(Logged {
        position: Position {
            conversation: message.conversation_id,
            event_seq: message.event_seq,
        },
        at: message.created_at?,
        actor: message.sender_id,
        parties: one.parties,
        change: Change::Message {
            message: message.clone(),
            client: one.client.clone()?,
            unread_count,
        },
        outbox: None,
    })
}
