//! Many people and much talk, by plain SQL in the words both databases share: so many rows that no wrong way is as cheap
//! as the right one, and one conversation far longer than the others, so that walking along one shows as well.

use crate::harness::{Database, Kind};

/// Accounts 1 to `AGENTS` are agents, those after them clients.
pub(crate) const AGENTS: i64 = 20;
/// Clients, each with a conversation of the same number.
pub(crate) const CLIENTS: i64 = 2_000;
/// Messages in each of them.
const MESSAGES: i64 = 30;
/// The conversation that is longer: its client is linked to its account, as most are.
pub(crate) const LONG: i64 = 1;
/// Messages in it.
pub(crate) const LONG_MESSAGES: i64 = 20_000;
/// How many of them are in the archive, and up to where its client has read: into the archive's end.
const ARCHIVED: i64 = 10_000;
const CLIENT_READ: i64 = ARCHIVED - 100;
/// Sessions, refresh tokens, revocations and entries of the outbox.
const OTHERS: i64 = 2_000;

/// When it all began, milliseconds since 1970. Message *n* of a conversation comes *n* minutes later.
pub(crate) const BEGUN: i64 = 1_700_000_000_000;
/// When all of it is over: after the last message of the long conversation.
pub(crate) const OVER: i64 = BEGUN + (LONG_MESSAGES + 1) * 60_000;
/// Who expires does so here, far in the future.
pub(crate) const NEVER: i64 = 4_000_000_000_000;

/// The account of a client.
pub(crate) const fn user_of(client: i64) -> i64 {
    AGENTS + client
}

/// The agent of a conversation.
pub(crate) const fn agent_of(conversation: i64) -> i64 {
    1 + conversation % AGENTS
}

/// A time so many minutes after the beginning; two texts as one.
type Time = fn(&str) -> String;
type Concat = fn(&str, &str) -> String;

/// Fills a migrated, empty database.
pub(crate) async fn fill(database: &Database) {
    let (time, concat): (Time, Concat) = match database.kind {
        Kind::MySql => (
            |minutes| format!("FROM_UNIXTIME({} + 60 * ({minutes}))", BEGUN / 1000),
            |one, other| format!("CONCAT({one}, {other})"),
        ),
        Kind::Sqlite => (
            |minutes| {
                format!(
                    "strftime('%Y-%m-%d %H:%M:%S.000 +00:00', {} + 60 * ({minutes}), 'unixepoch')",
                    BEGUN / 1000
                )
            },
            |one, other| format!("({one} || {other})"),
        ),
    };
    let at = time("0");
    let users = AGENTS + CLIENTS;
    let mut sql = vec![
        "CREATE TABLE Numbers (i INTEGER NOT NULL PRIMARY KEY)".to_owned(),
        "INSERT INTO Numbers VALUES (1)".to_owned(),
    ];
    // Doubled until there are enough.
    for power in 0..15 {
        let so_far = 1_i64 << power;
        sql.push(format!(
            "INSERT INTO Numbers SELECT i + {so_far} FROM Numbers"
        ));
    }
    sql.extend([
        format!(
            "INSERT INTO Users (id, email, password, role, firstName, createdAt, updatedAt) \
             SELECT i, {}, 'hash', CASE WHEN i <= {AGENTS} THEN 'admin' ELSE 'user' END, 'Name', {at}, {at} \
             FROM Numbers WHERE i <= {users}",
            concat("'user'", &concat("i", "'@crowd.test'"))
        ),
        // One in ten is known by its address only.
        format!(
            "INSERT INTO Clients (id, name, email, country, status, userId, createdAt, updatedAt) \
             SELECT i, 'Name', {}, 'Unknown', 'active', CASE WHEN i % 10 = 0 THEN NULL ELSE i + {AGENTS} END, {at}, {at} \
             FROM Numbers WHERE i <= {CLIENTS}",
            concat("'user'", &concat(&format!("(i + {AGENTS})"), "'@crowd.test'"))
        ),
        format!(
            "INSERT INTO Conversations (id, clientId, agencyId, lastMessage, lastMessageTime, unreadCount, createdAt, \
             updatedAt, lastSeq, lastEventSeq, agencyReadSeq) \
             SELECT i, i, 1 + i % {AGENTS}, 'text', {}, CASE WHEN i % 50 = 1 THEN 1 ELSE 0 END, {at}, {at}, {length}, \
             {length}, {length} - 1 FROM Numbers WHERE i <= {CLIENTS}",
            time("i"),
            length = format_args!("CASE WHEN i = {LONG} THEN {LONG_MESSAGES} ELSE {MESSAGES} END"),
        ),
        format!(
            "INSERT INTO Messages (conversationId, senderId, receiverId, senderType, content, isRead, createdAt, \
             updatedAt, seq, eventSeq, clientMessageId) \
             SELECT c.id, c.id + {AGENTS}, c.agencyId, 'client', 'text', n.i <= c.agencyReadSeq, {at}, {at}, n.i, n.i, {} \
             FROM Numbers n JOIN Conversations c ON n.i <= c.lastSeq WHERE n.i <= {MESSAGES} OR c.id = {LONG}",
            concat("'m'", "n.i"),
        ),
        format!(
            "INSERT INTO ConversationEvents (conversationId, eventSeq, kind, actorId, messageId, unreadCount, createdAt) \
             SELECT conversationId, eventSeq, 'message', senderId, id, 1, {BEGUN} + 60000 * seq FROM Messages"
        ),
        format!(
            "INSERT INTO Outbox (conversationId, firstEventSeq, lastEventSeq, createdAt) \
             SELECT i, 1, 1, {NEVER} FROM Numbers WHERE i <= {OTHERS} AND i > 10"
        ),
        format!(
            "INSERT INTO Sessions (id, userId, createdAt, expiresAt) SELECT {}, i, {BEGUN}, {NEVER} \
             FROM Numbers WHERE i <= {OTHERS}",
            concat("'session'", "i")
        ),
        format!(
            "INSERT INTO TokenRevocations (userId, scope, subject, revokedAt) SELECT i, 'session', {}, {NEVER} + i \
             FROM Numbers WHERE i <= {OTHERS}",
            concat("'session'", "i")
        ),
    ]);
    let hash = match database.kind {
        Kind::MySql => "RPAD(i, 32, 'x')",
        Kind::Sqlite => "CAST(substr(i || 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx', 1, 32) AS BLOB)",
    };
    sql.push(format!(
        "INSERT INTO RefreshTokens (hash, sessionId, createdAt) SELECT {hash}, {}, {BEGUN} \
         FROM Numbers WHERE i <= {OTHERS}",
        concat("'session'", "i")
    ));
    sql.push("DROP TABLE Numbers".to_owned());
    let archived = format!("FROM Messages WHERE conversationId = {LONG} AND seq <= {ARCHIVED}");
    let columns = "id, conversationId, senderId, receiverId, senderType, content, isRead, readAt, createdAt, updatedAt, \
                   seq, eventSeq, clientMessageId";
    sql.extend([
        format!("INSERT INTO ArchivedMessages ({columns}) SELECT {columns} {archived}"),
        format!("DELETE {archived}"),
        format!(
            "UPDATE Conversations SET archivedSeq = {ARCHIVED}, clientReadSeq = {CLIENT_READ} WHERE id = {LONG}"
        ),
    ]);
    database.sql(&sql.join("; ")).await;
}

/// The hash of session *n*'s refresh token, as `fill` wrote it.
pub(crate) fn refresh_hash(session: i64) -> [u8; 32] {
    let text = format!("{session:x<32}");
    text.as_bytes().try_into().unwrap()
}
