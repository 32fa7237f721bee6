//! What is added to the old system's four tables. Each column is nullable, computed or has a default, so that the old
//! system can go on inserting rows without knowing of it. Also indexes that came to this program's own tables later: MySQL
//! can't add one unless it is there already, so a numbered file that was cut short could not be run again.

use super::Conn;
use crate::store::sql::dialect::Dialect;
use crate::store::sql::fault::Fault;
use crate::store::sql::query::Query;

/// A column to be added.
struct Column {
    table: &'static str,
    name: &'static str,
    mysql: &'static str,
    sqlite: &'static str,
}

/// An index to be added.
struct Index {
    table: &'static str,
    name: &'static str,
    columns: &'static [&'static str],
    /// Wanted unique. Where an adopted table has duplicates it becomes an ordinary index.
    unique: bool,
}

/// An address without case, byte for byte whatever the table's collation: what addresses are compared by.
const EMAIL_LOWER: (&str, &str) = (
    "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin GENERATED ALWAYS AS (LOWER(email)) VIRTUAL",
    "VARCHAR(255) GENERATED ALWAYS AS (LOWER(email)) VIRTUAL",
);

/// Computed, so it is right for rows that the old system writes, too.
const ACTIVITY: (&str, &str) = (
    "BIGINT GENERATED ALWAYS AS (COALESCE(\
     TIMESTAMPDIFF(MICROSECOND, TIMESTAMP'1970-01-01 00:00:00', COALESCE(lastMessageTime, createdAt)) DIV 1000, 0)) \
     VIRTUAL",
    "INTEGER GENERATED ALWAYS AS (COALESCE(\
     CAST(strftime('%s', lastMessageTime) AS INTEGER) * 1000 + CAST(substr(strftime('%f', lastMessageTime), 4) AS INTEGER), \
     CAST(strftime('%s', createdAt) AS INTEGER) * 1000 + CAST(substr(strftime('%f', createdAt), 4) AS INTEGER), 0)) \
     VIRTUAL",
);

const COLUMNS: [Column; 13] = [
    column("Users", "emailLower", EMAIL_LOWER.0, EMAIL_LOWER.1),
    column("Clients", "emailLower", EMAIL_LOWER.0, EMAIL_LOWER.1),
    column("Clients", "userId", "INT NULL", "INTEGER NULL"),
    counter("lastSeq"),
    counter("lastEventSeq"),
    counter("clientUnreadCount"),
    counter("agencyReadSeq"),
    counter("clientReadSeq"),
    // Messages up to here are in `ArchivedMessages`.
    counter("archivedSeq"),
    column("Conversations", "activityMs", ACTIVITY.0, ACTIVITY.1),
    column("Messages", "seq", "BIGINT NULL", "INTEGER NULL"),
    column("Messages", "eventSeq", "BIGINT NULL", "INTEGER NULL"),
    // 64 characters of four bytes. Bytes: two names are the same only if they are exactly.
    column(
        "Messages",
        "clientMessageId",
        "VARBINARY(256) NULL",
        "BLOB NULL",
    ),
];

const INDEXES: [Index; 11] = [
    index("Users", "users_email_lower", &["emailLower"], true),
    index("Users", "users_role", &["role"], false),
    index("Clients", "clients_email_lower", &["emailLower"], false),
    index("Clients", "clients_user", &["userId"], false),
    index(
        "Conversations",
        "unique_conversation",
        &["clientId", "agencyId"],
        true,
    ),
    index(
        "Conversations",
        "conversations_activity",
        &["activityMs", "id"],
        false,
    ),
    index(
        "Conversations",
        "conversations_agency",
        &["agencyId", "isActive"],
        false,
    ),
    index(
        "Conversations",
        "conversations_unread",
        &["unreadCount", "agencyId"],
        false,
    ),
    index("Messages", "messages_seq", &["conversationId", "seq"], true),
    index(
        "Messages",
        "messages_client_message",
        &["conversationId", "senderId", "clientMessageId"],
        true,
    ),
    index(
        "ConversationEvents",
        LOG_AGE,
        &["createdAt", "conversationId", "eventSeq"],
        false,
    ),
];

/// The index of the log by age. It holds all that a search for what was missed asks first.
pub(in crate::store::sql) const LOG_AGE: &str = "conversation_events_age";

/// `Messages` and its log last: see `add`.
const TABLES: [&str; 5] = [
    "Users",
    "Clients",
    "Conversations",
    "Messages",
    "ConversationEvents",
];

/// Adds what is missing, but for the indexes of `Messages` and of the log where old rows can be found by their conversation without
/// them: numbering a million rows is far faster while no index has to follow, and so is building one afterwards.
pub(super) async fn add(conn: &mut Conn, dialect: Dialect) -> Result<(), Fault> {
    let found = indexes_of(conn, dialect, "Messages")
        .await?
        .iter()
        .filter_map(|index| index.columns.first())
        .any(|first| first.eq_ignore_ascii_case("conversationId"));
    add_to(conn, dialect, if found { &TABLES[..3] } else { &TABLES }).await
}

/// Adds the rest, once all messages are numbered.
pub(super) async fn finish(conn: &mut Conn, dialect: Dialect) -> Result<(), Fault> {
    add_to(conn, dialect, &TABLES[3..]).await
}

/// In MySQL every ALTER is committed by itself, and the next run goes on after it.
async fn add_to(conn: &mut Conn, dialect: Dialect, indexed: &[&str]) -> Result<(), Fault> {
    if dialect == Dialect::MySql {
        return add_missing(conn, dialect, indexed).await;
    }
    conn.begin().await?;
    match add_missing(conn, dialect, indexed).await {
        Ok(()) => conn.raw("COMMIT").await,
        Err(fault) => {
            let _ = conn.raw("ROLLBACK").await;
            Err(fault)
        }
    }
}

async fn add_missing(conn: &mut Conn, dialect: Dialect, indexed: &[&str]) -> Result<(), Fault> {
    for table in TABLES {
        add_columns(conn, dialect, table).await?;
    }
    for table in indexed {
        add_indexes(conn, dialect, table).await?;
    }
    if dialect == Dialect::MySql {
        widen_text(conn, "Messages", "content", "NOT NULL").await?;
        widen_text(conn, "Conversations", "lastMessage", "NULL").await?;
    }
    Ok(())
}

async fn add_columns(conn: &mut Conn, dialect: Dialect, table: &str) -> Result<(), Fault> {
    let present = columns_of(conn, dialect, table).await?;
    let additions: Vec<String> = COLUMNS
        .iter()
        .filter(|column| column.table == table)
        .filter(|column| {
            !present
                .iter()
                .any(|name| name.eq_ignore_ascii_case(column.name))
        })
        .map(|column| {
            let definition = match dialect {
                Dialect::MySql => column.mysql,
                Dialect::Sqlite => column.sqlite,
            };
            format!("ADD COLUMN {} {definition}", column.name)
        })
        .collect();
    alter(conn, dialect, table, &additions).await
}

async fn add_indexes(conn: &mut Conn, dialect: Dialect, table: &str) -> Result<(), Fault> {
    let present = indexes_of(conn, dialect, table).await?;
    let mut additions = Vec::new();
    for index in INDEXES.iter().filter(|index| index.table == table) {
        let mut same = present.iter().filter(|have| {
            have.columns.len() == index.columns.len()
                && have
                    .columns
                    .iter()
                    .zip(index.columns)
                    .all(|(one, other)| one.eq_ignore_ascii_case(other))
        });
        if same.clone().any(|have| have.unique || !index.unique) {
            continue;
        }
        let unique = index.unique && !has_duplicates(conn, index).await?;
        if !unique && same.next().is_some() {
            continue;
        }
        let (name, columns) = (index.name, index.columns.join(", "));
        let unique = if unique { "UNIQUE " } else { "" };
        additions.push(match dialect {
            Dialect::MySql => format!("ADD {unique}INDEX {name} ({columns})"),
            Dialect::Sqlite => format!("CREATE {unique}INDEX {name} ON {table} ({columns})"),
        });
    }
    match dialect {
        Dialect::MySql => alter(conn, dialect, table, &additions).await,
        Dialect::Sqlite => {
            for statement in additions {
                conn.raw(&statement).await?;
            }
            Ok(())
        }
    }
}

/// MySQL makes all additions of one statement in one pass, SQLite takes them one by one.
async fn alter(
    conn: &mut Conn,
    dialect: Dialect,
    table: &str,
    additions: &[String],
) -> Result<(), Fault> {
    let statements = match dialect {
        _ if additions.is_empty() => return Ok(()),
        Dialect::MySql => vec![additions.join(", ")],
        Dialect::Sqlite => additions.to_vec(),
    };
    for statement in statements {
        conn.raw(&format!("ALTER TABLE {table} {statement}"))
            .await?;
    }
    Ok(())
}

/// A text column of an old character set gets room for every character, since a message is kept exactly as it was sent.
/// MEDIUMTEXT: the same text may need more bytes.
async fn widen_text(conn: &mut Conn, table: &str, name: &str, null: &str) -> Result<(), Fault> {
    let query = Query::new(
        "SELECT CHARACTER_SET_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() \
         AND LOWER(TABLE_NAME) = LOWER(?) AND COLUMN_NAME = ?",
    )
    .bind(table)
    .bind(name);
    let charset = match conn.first(query).await? {
        Some(row) => row.cells().opt_text()?,
        None => None,
    };
    match charset.as_deref() {
        None | Some("utf8mb4") => Ok(()),
        Some(_) => {
            let sql = format!(
                "ALTER TABLE {table} MODIFY COLUMN {name} MEDIUMTEXT CHARACTER SET utf8mb4 {null}"
            );
            conn.raw(&sql).await
        }
    }
}

/// The names of a table's columns.
pub(in crate::store::sql) async fn columns_of(
    conn: &mut Conn,
    dialect: Dialect,
    table: &str,
) -> Result<Vec<String>, Fault> {
    let query = Query::new(match dialect {
        Dialect::MySql => {
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() \
             AND LOWER(TABLE_NAME) = LOWER(?)"
        }
        // `table_info` would leave out computed columns.
        Dialect::Sqlite => "SELECT name FROM pragma_table_xinfo(?)",
    })
    .bind(table);
    let mut names = Vec::new();
    for row in conn.all(query).await? {
        names.push(row.cells().text()?);
    }
    Ok(names)
}

/// An index that is there.
struct Present {
    name: String,
    unique: bool,
    columns: Vec<String>,
}

async fn indexes_of(conn: &mut Conn, dialect: Dialect, table: &str) -> Result<Vec<Present>, Fault> {
    let query = Query::new(match dialect {
        Dialect::MySql => {
            "SELECT INDEX_NAME, 1 - NON_UNIQUE, COLUMN_NAME FROM information_schema.STATISTICS \
             WHERE TABLE_SCHEMA = DATABASE() AND LOWER(TABLE_NAME) = LOWER(?) \
             ORDER BY INDEX_NAME, SEQ_IN_INDEX"
        }
        Dialect::Sqlite => {
            "SELECT l.name, l.\"unique\", i.name FROM pragma_index_list(?) l, pragma_index_info(l.name) i \
             ORDER BY l.name, i.seqno"
        }
    })
    .bind(table);
    let mut indexes: Vec<Present> = Vec::new();
    for row in conn.all(query).await? {
        let mut cells = row.cells();
        let name = cells.text()?;
        let unique = cells.bool()?;
        let column = cells.opt_text()?.unwrap_or_default();
        match indexes.last_mut() {
            Some(last) if last.name == name => last.columns.push(column),
            _ => indexes.push(Present {
                name,
                unique,
                columns: vec![column],
            }),
        }
    }
    Ok(indexes)
}

async fn has_duplicates(conn: &mut Conn, index: &Index) -> Result<bool, Fault> {
    let columns = index.columns.join(", ");
    let filled: Vec<String> = index
        .columns
        .iter()
        .map(|column| format!("{column} IS NOT NULL"))
        .collect();
    let sql = format!(
        "SELECT 1 FROM {} WHERE {} GROUP BY {columns} HAVING COUNT(*) > 1 LIMIT 1",
        index.table,
        filled.join(" AND ")
    );
    Ok(conn.first(Query::new(sql)).await?.is_some())
}

const fn column(
    table: &'static str,
    name: &'static str,
    mysql: &'static str,
    sqlite: &'static str,
) -> Column {
    Column {
        table,
        name,
        mysql,
        sqlite,
    }
}

const fn counter(name: &'static str) -> Column {
    column(
        "Conversations",
        name,
        "BIGINT NOT NULL DEFAULT 0",
        "INTEGER NOT NULL DEFAULT 0",
    )
}

const fn index(
    table: &'static str,
    name: &'static str,
    columns: &'static [&'static str],
    unique: bool,
) -> Index {
    Index {
        table,
        name,
        columns,
        unique,
    }
}
