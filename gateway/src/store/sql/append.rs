//! How messages get in: a batch, one transaction, a number of statements that hardly grows with the batch.
//!
//! 1. lock the conversations, in the order of their ids, which also reads their counters; read their clients; find repeats, where
//!    messages bear a `clientMessageId`;
//! 2. decide and number here, then insert messages and log rows, update the conversations, note it in the outbox.
//!
//! On MySQL a small batch asks each of the two in one call ([`CALLED`]), the second with its commit: so a message by itself takes two
//! round trips. A larger one asks statement by statement, prepared: there a round trip is shared by many, and to read literals
//! would cost the server more than it saves.

mod write;

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
use super::query::{Query, Row};
use super::rows::{self, CLIENT_USER, MESSAGE};
use super::transaction::{Tx, transact};
use crate::store::{
    Admission, AppendOutcome, Appended, Change, Logged, NewMessage, OutboxEntry, Parties, Rejection,
};
use write::{
    changes, insert_events, insert_messages, note, number_as_written, number_messages,
    update_conversations, write_with_commit,
};

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
        let (mut drawn_up, answers) = transact!(
            with_answers self.db,
            |tx| append(tx, dialect, batch, &times, admit, &mark),
            stands: |drawn_up| is_stored(tx, dialect, drawn_up, &mark)
        )?;
        // None where the commit was in doubt, and the batch was found.
        if let (Some(answers), true) = (answers, drawn_up.awaits_ids) {
            number_as_written(
                &answers,
                drawn_up.step,
                &mut drawn_up.fresh,
                &mut drawn_up.noted,
            )?;
        }
        Ok(drawn_up.outcome())
    }
}

/// Whether a batch is stored whose transaction is in doubt. Its first message speaks for all, and is known by the mark that
/// its change bears in the log: where a server died, another sender's message may have taken its number and even its id. Where
/// ids were to come with the commit, they are found here; the outbox entries are then left to the sweep.
async fn is_stored(
    tx: &mut Tx,
    dialect: Dialect,
    drawn_up: &mut DrawnUp,
    mark: &str,
) -> Result<bool, Fault> {
    let Some((first, _)) = drawn_up.fresh.first() else {
        return Ok(true);
    };
    lock_conversation(tx, dialect, first.conversation_id).await?;
    let query = Query::new(
        "SELECT messageId, payload FROM ConversationEvents WHERE conversationId = ? AND eventSeq = ?",
    )
    .bind(first.conversation_id)
    .bind(first.event_seq);
    let Some(row) = tx.first(query).await? else {
        return Ok(false);
    };
    let mut cells = row.cells();
    let (first_id, payload) = (cells.opt_int()?, cells.opt_text()?);
    if payload.as_deref() != Some(mark) {
        return Ok(false);
    }
    if let (Some(first_id), true) = (first_id, drawn_up.awaits_ids) {
        number_messages(&mut drawn_up.fresh, first_id, drawn_up.step);
        drawn_up.noted.clear();
    }
    Ok(true)
}

/// A batch that is decided, and written unless that was left for the commit.
struct DrawnUp {
    verdicts: Vec<Verdict>,
    /// The new messages, each with how many the agency had not read once it was there.
    fresh: Vec<(Message, i64)>,
    locked: HashMap<ConversationId, Locked>,
    noted: Vec<OutboxEntry>,
    /// By how much the ids of one INSERT's rows differ.
    step: i64,
    /// Whether ids are known only after the commit.
    awaits_ids: bool,
}

impl DrawnUp {
    async fn write(
        &mut self,
        tx: &mut Tx,
        dialect: Dialect,
        called: bool,
        mark: &str,
    ) -> Result<(), Fault> {
        let Self {
            fresh,
            locked,
            noted,
            step,
            ..
        } = self;
        if called && !fresh.is_empty() {
            write_with_commit(tx, *step, fresh, mark, locked, noted);
            self.awaits_ids = true;
            return Ok(());
        }
        insert_messages(tx, dialect, *step, fresh).await?;
        insert_events(tx, fresh, mark).await?;
        update_conversations(tx, locked, fresh).await?;
        note(tx, dialect, *step, noted).await
    }

    fn outcome(self) -> AppendOutcome {
        let Self {
            verdicts,
            fresh,
            locked,
            noted,
            ..
        } = self;
        let results = verdicts.into_iter().map(|verdict| match verdict {
            Verdict::Rejected(why) => Err(why),
            Verdict::Stored(message) => Ok(Appended::Repeat(message)),
            Verdict::Again(place) => Ok(Appended::Repeat(fresh[place].0.clone())),
            Verdict::New(place) => {
                let (message, unread) = &fresh[place];
                logged(message, *unread, &locked)
                    .map(Appended::New)
                    .ok_or(Rejection::ConversationNotFound)
            }
        });
        AppendOutcome {
            results: results.collect(),
            outbox: noted.into_iter().map(|entry| entry.id).collect(),
        }
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
) -> Result<DrawnUp, Fault> {
    let ids: BTreeSet<ConversationId> = batch.iter().map(|message| message.conversation).collect();
    let ids: Vec<ConversationId> = ids.into_iter().collect();
    let text: usize = batch.iter().map(|message| message.content.len()).sum();
    let called = dialect == Dialect::MySql && batch.len() <= CALLED && text <= CALLED_TEXT;
    let Read {
        mut locked,
        step,
        stored,
    } = read(tx, dialect, batch, &ids, called).await?;

    let mut fresh = Vec::with_capacity(batch.len());
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
    let mut drawn_up = DrawnUp {
        verdicts,
        noted: changes(&locked),
        fresh,
        locked,
        step,
        awaits_ids: false,
    };
    drawn_up.write(tx, dialect, called, mark).await?;
    Ok(drawn_up)
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
