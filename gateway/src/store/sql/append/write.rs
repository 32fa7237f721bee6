//! What a batch writes, once it is decided and numbered: messages, log rows, their conversations' state, the outbox.

use std::collections::HashMap;

use shared::model::Message;
use shared::{ConversationId, MessageId, Timestamp};

use super::Locked;
use crate::store::sql::conn::Answer;
use crate::store::sql::dialect::Dialect;
use crate::store::sql::fault::Fault;
use crate::store::sql::log::{insert_outbox, number, outbox_query};
use crate::store::sql::query::{Query, Value};
use crate::store::sql::rows::kind;
use crate::store::sql::transaction::Tx;
use crate::store::{OutboxEntry, OutboxId};

/// The most rows of one INSERT: below SQLite's 32,766 values.
const ROWS: usize = 128;

/// The most bytes of text in one statement: half of the smallest `max_allowed_packet` that is still met with, 1 MiB. A server
/// answers a longer one by hanging up.
const TEXT: usize = 512 << 10;

/// The most conversations of one UPDATE: each row walks the list of all, so longer lists would cost their square.
const UPDATED: usize = 64;

/// Leaves all of a small batch to be written with the commit. The log's rows name their messages by the id that MySQL has given
/// the first of them, which that table, having no numbers of its own to give, leaves as it is. Until the answer is there, a
/// message's id is how far it is from the first one's.
pub(super) fn write_with_commit(
    tx: &mut Tx,
    step: i64,
    fresh: &mut [(Message, i64)],
    mark: &str,
    locked: &HashMap<ConversationId, Locked>,
    noted: &[OutboxEntry],
) {
    for (nth, (message, _)) in (0..).zip(fresh.iter_mut()) {
        message.id = MessageId::new(nth * step);
    }
    tx.ask_with_commit(vec![
        messages_query(fresh),
        events_query(fresh, &mut Some(mark), "LAST_INSERT_ID() + ?"),
        conversations_query(&changed(locked, fresh)),
        outbox_query(Dialect::MySql, noted),
    ]);
}

/// Gives what [`write_with_commit`] has written its ids, by the answers.
pub(super) fn number_as_written(
    answers: &[Answer],
    step: i64,
    fresh: &mut [(Message, i64)],
    noted: &mut [OutboxEntry],
) -> Result<(), Fault> {
    let [messages, .., outbox] = answers else {
        return Err(Fault::Sql(sqlx::Error::RowNotFound));
    };
    number_messages(fresh, messages.done.last_id, step);
    number(noted, outbox.done.last_id, step);
    Ok(())
}

/// Gives the messages of one INSERT their ids.
pub(super) fn number_messages(fresh: &mut [(Message, i64)], first: i64, step: i64) {
    for (id, (message, _)) in (0..).map(|nth| first + nth * step).zip(fresh) {
        message.id = MessageId::new(id);
    }
}

/// Inserts the new messages and gives them their ids. Chunks are powers of two, as lists of values are: few lengths,
/// few prepared statements.
pub(super) async fn insert_messages(
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
        number_messages(chunk, first, step);
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
pub(super) async fn insert_events(
    tx: &mut Tx,
    fresh: &[(Message, i64)],
    mark: &str,
) -> Result<(), Fault> {
    let mut rest = fresh;
    let mut mark = Some(mark);
    while !rest.is_empty() {
        let (chunk, later) = rest.split_at(chunk_len(rest, ROWS, |_| 0));
        tx.run(events_query(chunk, &mut mark, "?")).await?;
        rest = later;
    }
    Ok(())
}

/// `message_id` says a message's id with one value: that id, or how far it is from the first one's.
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
type NewValue = fn(&Locked, &Message) -> Value;

pub(super) async fn update_conversations(
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
pub(super) fn changes(locked: &HashMap<ConversationId, Locked>) -> Vec<OutboxEntry> {
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

pub(super) async fn note(
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
