//! Taking in rows that the old system wrote: whose clients are, and the numbers of messages. Set by set rather than row
//! by row, in batches of bounded size, each a transaction that leaves the conversations it touched complete: a run that
//! was cut short goes on with the next.

use super::{Conn, progress, set_progress};
use crate::store::sql::dialect::Dialect;
use crate::store::sql::fault::Fault;
use crate::store::sql::query::Query;
use crate::store::sql::transaction::ATTEMPTS;

/// How many message ids are looked through in one query.
const WINDOW: i64 = 200_000;

/// A batch ends with the conversation that reaches one of these. A conversation's messages lie scattered over the table,
/// so every batch may touch most of its pages: few large batches write them less often than many small ones. But MariaDB
/// turns a list of more than a thousand values (`in_predicate_conversion_threshold`) into a join, which is far slower.
const BATCH_MESSAGES: i64 = 100_000;
const BATCH_CONVERSATIONS: usize = 512;

/// Ids below the highest seen that are looked at again: the old system may have been about to commit them.
const MARGIN: i64 = 10_000;

/// Links clients to the accounts with their address; how many.
pub(super) async fn link_clients(conn: &mut Conn) -> Result<u64, Fault> {
    let account = "FROM Users u WHERE u.emailLower = Clients.emailLower AND u.role = 'user'";
    let sql = format!(
        "UPDATE Clients SET userId = (SELECT MIN(u.id) {account}) \
         WHERE userId IS NULL AND EXISTS (SELECT 1 {account})"
    );
    Ok(conn.run(Query::new(sql)).await?.rows)
}

/// Numbers the messages that have no `seq`; how many.
pub(super) async fn number_messages(conn: &mut Conn, dialect: Dialect) -> Result<u64, Fault> {
    let query = Query::new("SELECT COALESCE(MAX(id), 0) FROM Messages");
    let highest = conn.first(query).await?.map_or(Ok(0), |row| row.int())?;
    let mut from = (progress(conn, "messages").await? - MARGIN).max(0);
    let mut waiting = std::collections::BTreeMap::<i64, i64>::new();
    while from < highest {
        let to = from + WINDOW;
        for (conversation, count) in unnumbered(conn, dialect, from, to).await? {
            *waiting.entry(conversation).or_default() += count;
        }
        from = to;
    }
    let mut numbered = 0;
    let mut batch = Vec::new();
    let mut messages = 0;
    let mut waiting = waiting.into_iter().peekable();
    while let Some((conversation, count)) = waiting.next() {
        batch.push(conversation);
        messages += count;
        if waiting.peek().is_none()
            || messages >= BATCH_MESSAGES
            || batch.len() >= BATCH_CONVERSATIONS
        {
            numbered += number_batch(conn, dialect, &batch).await?;
            batch.clear();
            messages = 0;
        }
    }
    set_progress(conn, "messages", highest).await?;
    Ok(numbered)
}

/// Conversations with messages that have no number, of a range of message ids. Messages of no conversation are left.
async fn unnumbered(
    conn: &mut Conn,
    dialect: Dialect,
    from: i64,
    to: i64,
) -> Result<Vec<(i64, i64)>, Fault> {
    let by_id = match dialect {
        // Else the grouping tempts it to read another index whole.
        Dialect::MySql => " FORCE INDEX (PRIMARY)",
        Dialect::Sqlite => "",
    };
    let sql = format!(
        "SELECT conversationId, COUNT(*) FROM Messages{by_id} WHERE id > ? AND id <= ? AND seq IS NULL \
         GROUP BY conversationId"
    );
    let mut found = Vec::new();
    for row in conn.all(Query::new(sql).bind(from).bind(to)).await? {
        let mut cells = row.cells();
        found.push((cells.int()?, cells.int()?));
    }
    Ok(found)
}

async fn number_batch(
    conn: &mut Conn,
    dialect: Dialect,
    conversations: &[i64],
) -> Result<u64, Fault> {
    let mut attempt = 1;
    loop {
        conn.begin().await?;
        match number(conn, dialect, conversations).await {
            Ok(numbered) => {
                conn.raw("COMMIT").await?;
                return Ok(numbered);
            }
            Err(fault) => {
                let _ = conn.raw("ROLLBACK").await;
                if attempt >= ATTEMPTS || !fault.is_worth_a_retry() {
                    return Err(fault);
                }
                attempt += 1;
            }
        }
    }
}

async fn number(conn: &mut Conn, dialect: Dialect, conversations: &[i64]) -> Result<u64, Fault> {
    let within = |before: String, after: &str| {
        let mut query = Query::new(before);
        query.push(" IN ");
        query.push_list(conversations);
        query.push(after);
        query
    };
    // Nodes that serve meanwhile wait here, and then count on from what we leave.
    let lock = format!(" ORDER BY id{}", dialect.for_update());
    conn.all(within(
        "SELECT id FROM Conversations WHERE id".to_owned(),
        &lock,
    ))
    .await?;

    // Oldest first. A message without a time stands where its id puts it: after the latest time of those before it.
    let time = dialect.millis("x.createdAt");
    let ranked = within(
        format!(
            "SELECT o.id, cv.lastSeq + ROW_NUMBER() OVER (PARTITION BY o.conversationId ORDER BY o.shownMs, o.id) AS nextSeq, \
             cv.lastEventSeq + ROW_NUMBER() OVER (PARTITION BY o.conversationId ORDER BY o.shownMs, o.id) AS nextEvent \
             FROM (SELECT x.id, x.conversationId, \
             COALESCE({time}, MAX({time}) OVER (PARTITION BY x.conversationId ORDER BY x.id)) AS shownMs \
             FROM Messages x WHERE x.seq IS NULL AND x.conversationId"
        ),
        ") o JOIN Conversations cv ON cv.id = o.conversationId",
    );
    let (before, after) = match dialect {
        Dialect::MySql => (
            "UPDATE Messages m JOIN (",
            ") r ON r.id = m.id SET m.seq = r.nextSeq, m.eventSeq = r.nextEvent",
        ),
        Dialect::Sqlite => (
            "UPDATE Messages SET seq = r.nextSeq, eventSeq = r.nextEvent FROM (",
            ") r WHERE r.id = Messages.id",
        ),
    };
    let numbered = conn.run(ranked.wrap(before, after)).await?.rows;

    let added = "FROM Messages m JOIN Conversations cv ON cv.id = m.conversationId \
                 WHERE m.seq > cv.lastSeq AND m.conversationId";
    let events = format!(
        "INSERT INTO ConversationEvents (conversationId, eventSeq, kind, actorId, messageId, createdAt) \
         SELECT m.conversationId, m.eventSeq, 'message', m.senderId, m.id, COALESCE({}, {}, {}, 0) {added}",
        dialect.millis("m.createdAt"),
        dialect.millis("m.updatedAt"),
        dialect.millis("cv.createdAt"),
    );
    conn.run(within(events, "")).await?;
    // A bus that knows the conversation expects every one of its changes, in order.
    let outbox = format!(
        "INSERT INTO Outbox (conversationId, firstEventSeq, lastEventSeq, createdAt) \
         SELECT cv.id, cv.lastEventSeq + 1, MAX(m.eventSeq), {} {added}",
        dialect.now_ms()
    );
    let grouped = " AND cv.lastEventSeq > 0 GROUP BY cv.id, cv.lastEventSeq";
    conn.run(within(outbox, grouped)).await?;

    for statement in summaries(dialect) {
        conn.run(within(format!("{statement} AND id"), "")).await?;
    }
    Ok(numbered)
}

/// What conversations say of their messages. `lastMessage` changes only where it is missing or older than what came in.
fn summaries(dialect: Dialect) -> [String; 3] {
    let from = |table: &str, what: &str, which: &str| {
        format!("(SELECT {what} FROM {table} m WHERE m.conversationId = Conversations.id{which})")
    };
    let of = |what: &str, which: &str| from("Messages", what, which);
    // Unread ones may be in the archive, which is older than all that is not.
    let both = |what: &str, which: &str| {
        (
            from("ArchivedMessages", what, which),
            from("Messages", what, which),
        )
    };
    let count = |which: &str| {
        let (old, recent) = both("COUNT(*)", which);
        format!("{old} + {recent}")
    };
    let before_first = |which: &str| {
        let (old, recent) = both("MIN(m.seq) - 1", which);
        format!("{old}, {recent}")
    };
    let unread_of = |side: &str| {
        format!(" AND m.senderType = '{side}' AND COALESCE(m.isRead, 0) = 0 AND m.seq IS NOT NULL")
    };
    let (by_client, by_agency) = (unread_of("client"), unread_of("agency"));
    let newest = " AND m.seq = Conversations.lastSeq";
    let newest_ms = of(&dialect.millis("m.createdAt"), newest);
    let older = format!("{} < {newest_ms}", dialect.millis("lastMessageTime"));
    [
        format!(
            "UPDATE Conversations SET lastSeq = COALESCE({last}, 0), \
             lastEventSeq = COALESCE((SELECT MAX(e.eventSeq) FROM ConversationEvents e \
             WHERE e.conversationId = Conversations.id), 0), \
             unreadCount = {unread}, clientUnreadCount = {client_unread}, \
             agencyReadSeq = COALESCE({agency_first}, {last}, 0), clientReadSeq = COALESCE({client_first}, {last}, 0) \
             WHERE 1 = 1",
            last = of("MAX(m.seq)", ""),
            unread = count(&by_client),
            client_unread = count(&by_agency),
            agency_first = before_first(&by_client),
            client_first = before_first(&by_agency),
        ),
        format!(
            "UPDATE Conversations SET lastMessage = {} WHERE lastSeq > 0 AND (lastMessage IS NULL OR {older})",
            of("m.content", newest)
        ),
        format!(
            "UPDATE Conversations SET lastMessageTime = {} \
             WHERE lastSeq > 0 AND {newest_ms} IS NOT NULL AND (lastMessageTime IS NULL OR {older})",
            of("m.createdAt", newest)
        ),
    ]
}
