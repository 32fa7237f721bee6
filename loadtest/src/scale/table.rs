//! How long a node takes over a large table of messages, and over a small one: lists, pages at the end and deep, counts,
//! sending. The rows are made by the database itself, as the gateway would have left them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::Stage;
use super::rest::Rest;
use crate::bench::systems::SECRET;
use crate::latency::{Latencies, Percentiles};
use crate::world::{self, Fault, Tokens, World};

/// Rows of the small table.
const SMALL: u64 = 10_000;
/// Messages of a conversation of the small table: a page. The large one has `LARGE_EACH`.
const SMALL_EACH: u64 = 50;
const LARGE_EACH: u64 = 1_000;
/// Rows of one INSERT, about: what is lost when it is cut short.
const CHUNK: u64 = 200_000;
/// How long filling may take.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// Both, by the name of the request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Tables {
    pub(super) small: Filled,
    pub(super) large: Filled,
}

/// A table, and what was measured on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Filled {
    pub(super) messages: u64,
    pub(super) conversations: u32,
    /// All tables and indexes, in bytes.
    pub(super) bytes: u64,
    pub(super) seconds_to_fill: f64,
    pub(super) requests: u32,
    /// p50 and p99 in milliseconds.
    pub(super) times: BTreeMap<String, (f64, f64)>,
}

pub(super) fn measure(stage: &mut Stage<'_>) -> Result<Tables, Fault> {
    Ok(Tables {
        small: one(stage, SMALL, SMALL_EACH)?,
        large: one(stage, stage.options.messages, LARGE_EACH)?,
    })
}

fn one(stage: &mut Stage<'_>, messages: u64, each: u64) -> Result<Filled, Fault> {
    let conversations = u32::try_from((messages / each).max(1))?;
    let world = World {
        agents: 1_000,
        clients: conversations,
        conversations,
        staff: conversations.min(50),
    };
    let (nodes, database) = stage.start(world, 1, true)?;
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let bytes = runtime.block_on(fill(&database, world, each))?;
    let seconds_to_fill = begun.elapsed().as_secs_f64();
    let server = *nodes.addresses.first().ok_or("no node")?;
    let requests = stage.options.requests;
    let times = ask_all(&mut Rest::connect(server)?, world, each, requests)?;
    for (name, p) in &times {
        eprintln!(
            "  {messages} messages, {name}: p50 {:.2} p99 {:.2} ms",
            p.p50, p.p99
        );
    }
    Ok(Filled {
        messages: u64::from(conversations) * each,
        conversations,
        bytes,
        seconds_to_fill,
        requests,
        times: times
            .into_iter()
            .map(|(name, p)| (name.to_owned(), (p.p50, p.p99)))
            .collect(),
    })
}

/// Fills what a node has migrated. Returns the size of it all.
async fn fill(database: &str, world: World, each: u64) -> Result<u64, Fault> {
    let mut sql = world::connect(database).await?;
    let begun = Instant::now();
    // Every row is right by the way it is made.
    run(&mut sql, "SET unique_checks = 0, foreign_key_checks = 0").await?;
    run(&mut sql, "SET GLOBAL innodb_flush_log_at_trx_commit = 2").await?;
    let block = u32::try_from((CHUNK / each).max(1))?;
    for first in (1..=world.conversations).step_by(block as usize) {
        if begun.elapsed() > PATIENCE {
            return Err("filling the table takes too long".into());
        }
        let last = world.conversations.min(first + block - 1);
        let range = format!("BETWEEN {first} AND {last}");
        run(&mut sql, &format!(
            "INSERT INTO Messages (conversationId, senderId, receiverId, senderType, content, isRead, createdAt, updatedAt, \
             seq, eventSeq, clientMessageId) \
             SELECT c.id, c.clientId + {agents}, c.agencyId, 'client', RPAD(CONCAT('Message ', s.seq, ' '), 100, 'x'), 1, \
             NOW(3) - INTERVAL {each} - s.seq MINUTE, NOW(3), s.seq, s.seq, CONCAT('message-', s.seq) \
             FROM Conversations c STRAIGHT_JOIN seq_1_to_{each} s WHERE c.id {range}",
            agents = world.agents
        )).await?;
        run(&mut sql, &format!(
            "INSERT INTO ConversationEvents (conversationId, eventSeq, kind, actorId, messageId, unreadCount, createdAt) \
             SELECT conversationId, eventSeq, 'message', senderId, id, 1, UNIX_TIMESTAMP(createdAt) * 1000 \
             FROM Messages WHERE conversationId {range}"
        )).await?;
        if first % (block * 5) == 1 {
            let rows = u64::from(last) * each;
            eprintln!(
                "  {rows} messages after {:.0} s",
                begun.elapsed().as_secs_f64()
            );
        }
    }
    // One conversation in a hundred has something unread.
    run(&mut sql, &format!(
        "UPDATE Conversations SET lastSeq = {each}, lastEventSeq = {each}, lastMessage = 'Message', agencyReadSeq = {each}, \
         lastMessageTime = NOW(3) - INTERVAL id SECOND, unreadCount = (id % 100 = 0)"
    )).await?;
    run(&mut sql, "SET GLOBAL innodb_flush_log_at_trx_commit = 1").await?;
    run(
        &mut sql,
        "ANALYZE TABLE Messages, ConversationEvents, Conversations",
    )
    .await?;
    let size = "SELECT CAST(SUM(DATA_LENGTH + INDEX_LENGTH) AS SIGNED) FROM information_schema.TABLES \
                WHERE TABLE_SCHEMA = DATABASE()";
    let bytes: i64 = sql.fetch_one(size).await?.try_get(0)?;
    Ok(bytes.unsigned_abs())
}

async fn run(sql: &mut MySqlConnection, statement: &str) -> Result<(), Fault> {
    sql.fetch_all(sqlx::raw_sql(AssertSqlSafe(statement.to_owned())))
        .await?;
    Ok(())
}

/// Asks for everything in turn, each time of another conversation.
fn ask_all(
    rest: &mut Rest,
    world: World,
    each: u64,
    requests: u32,
) -> Result<Vec<(&'static str, Percentiles)>, Fault> {
    let tokens = Tokens::new(SECRET, world);
    let agent = tokens.of(1)?;
    let first_page = rest
        .ask("GET", "/api/chat/conversations?limit=50", &agent, "")?
        .0;
    let first_page: serde_json::Value = serde_json::from_slice(&first_page)?;
    let cursor = first_page["data"]["nextCursor"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let mut found = Vec::new();
    let kinds = [
        "list of conversations, agent",
        "list of conversations, further on",
        "list of conversations, client",
        "page of messages at the end",
        "page of messages at the beginning",
        "unread count, agent",
        "unread count, client",
        "sync of one conversation",
        "send",
    ];
    for kind in kinds {
        let mut latencies = Latencies::new();
        let warm_up = requests / 10;
        for number in 0..requests + warm_up {
            // A prime stride: everywhere, and nowhere twice in a row.
            let conversation = number.wrapping_mul(7_919) % world.conversations + 1;
            let client = tokens.of(world.client(conversation))?;
            let messages = format!("/api/chat/conversations/{conversation}/messages");
            let get = |path: String, token: &std::rc::Rc<str>| {
                ("GET", path, token.clone(), String::new())
            };
            let conversations = "/api/chat/conversations?limit=50";
            let (method, path, token, body) = match kind {
                "list of conversations, agent" => get(conversations.to_owned(), &agent),
                "list of conversations, further on" => {
                    get(format!("{conversations}&cursor={cursor}"), &agent)
                }
                "list of conversations, client" => get(conversations.to_owned(), &client),
                "page of messages at the end" => get(format!("{messages}?limit=50"), &client),
                "page of messages at the beginning" => {
                    get(format!("{messages}?limit=50&beforeSeq=51"), &client)
                }
                "unread count, agent" => get("/api/chat/unread-count".to_owned(), &agent),
                "unread count, client" => get("/api/chat/unread-count".to_owned(), &client),
                "sync of one conversation" => (
                    "POST",
                    "/api/chat/sync".to_owned(),
                    client,
                    format!(
                        "{{\"conversations\":[{{\"conversationId\":{conversation},\"afterEventSeq\":{}}}],\"limit\":50}}",
                        each.saturating_sub(50)
                    ),
                ),
                _ => (
                    "POST",
                    messages,
                    client,
                    "{\"message\":\"What somebody says\"}".to_owned(),
                ),
            };
            let (_, took) = rest.ask(method, &path, &token, &body)?;
            if number >= warm_up {
                latencies.record(u64::try_from(took.as_nanos())?);
            }
        }
        found.push((kind, latencies.percentiles()));
    }
    Ok(found)
}
