//! MySQL: the server's own log says what was asked, with its values; each statement is then run again with `ANALYZE`, which tells the way
//! taken and how many rows were read on it, in a transaction that is rolled back.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, Row as _};

use crate::harness::{Database, Kind};
use crate::mariadb_server::MariaDb;
use crate::rules::{Exception, Finding, assert_all_used, not_excepted};
use crate::{assert_none, calls, crowd};

/// The most rows that a step of a statement may read: pages of 100, an agent's conversations, and the batches of `calls` stay
/// below, whole tables and the long conversation far above.
const ROWS: f64 = 1_000.0;

/// Somebody by whom the store is told from the test in the log.
const USER: &str = "CREATE USER chat@'%'; GRANT ALL ON *.* TO chat@'%'";

/// The tables whose indexes are dropped, and those indexes that no request needs.
const TABLES: [&str; 10] = [
    "Users",
    "Clients",
    "Conversations",
    "Messages",
    "ArchivedMessages",
    "ConversationEvents",
    "Outbox",
    "Sessions",
    "RefreshTokens",
    "TokenRevocations",
];
const NOT_NEEDED: [(&str, &str); 3] = [
    // The old system's: addresses are compared by `emailLower`. It keeps them apart, too.
    ("Users", "email"),
    // Of foreign keys: checked when an account is deleted, which nobody does.
    ("Messages", "senderId"),
    ("Messages", "receiverId"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_on_mysql_reads_a_whole_table() {
    let server = MariaDb::start().await;
    server.sql(&[USER]).await;
    let address = server.url().trim_end_matches("chat").to_owned();
    let database = Database::on(Kind::MySql, address).await;
    let store = database.store();
    store.migrate().await.unwrap();
    store.close().await;
    crowd::fill(&database).await;
    // The server does this by itself in a moment; here it is awaited.
    let mut sql = database.mysql().await;
    for table in TABLES {
        let analyze = AssertSqlSafe(format!("ANALYZE TABLE {table}"));
        sql.fetch_all(analyze).await.unwrap();
    }

    server
        .sql(&[
            "SET GLOBAL log_output = 'TABLE'",
            "SET GLOBAL general_log = 1",
        ])
        .await;
    let url = database.url_at("chat", server.port);
    let store = gateway::store::open(&gateway::store::Settings::new(url)).unwrap();
    calls::all(&store).await;
    store.close().await;
    server.sql(&["SET GLOBAL general_log = 0"]).await;

    let statements = asked(&mut sql).await;
    assert!(statements.len() > 40, "{}", statements.len());
    let exceptions = exceptions();
    let findings = findings(&mut sql, &statements).await;
    assert_none(&not_excepted(findings, &exceptions));
    assert_all_used(&exceptions);

    for (table, index, unique, columns) in indexes(&mut sql).await {
        let alter = |what: String| AssertSqlSafe(format!("ALTER TABLE {table} {what}"));
        // Without this an index that a foreign key needs can't be dropped.
        sql.execute("SET foreign_key_checks = 0").await.unwrap();
        sql.execute(alter(format!("DROP INDEX {index}")))
            .await
            .unwrap();
        let missed = not_excepted(self::findings(&mut sql, &statements).await, &exceptions);
        let needed = !NOT_NEEDED.contains(&(table, index.as_str()));
        assert_eq!(!missed.is_empty(), needed, "{table}.{index}: {missed:?}");
        let unique = if unique { "UNIQUE " } else { "" };
        let add = alter(format!("ADD {unique}INDEX {index} ({columns})"));
        sql.execute(add).await.unwrap();
    }
    sql.close().await.unwrap();
    database.drop().await;
}

/// Ways that are right all the same.
fn exceptions() -> Vec<Exception> {
    vec![
        Exception::new(
            &[
                "SELECT cv.id, cv.lastSeq",
                "JOIN Users cu",
                "ORDER BY cv.id",
            ],
            "",
            "all that a person may see is asked for: of an agent every conversation, of a client its few",
        ),
        Exception::new(
            &["WHERE 1 = 1 AND p.clientId IN"],
            "p: ref by [unique_conversation]",
            "a client's few conversations; it may have several rows of Clients, so no index has them in order",
        ),
        Exception::new(
            &["isActive <> 0 ORDER BY activityMs DESC"],
            "by [unique_conversation]",
            "a client's few open conversations",
        ),
        Exception::new(
            &["WHERE u.role = 'admin' GROUP BY u.id"],
            "u: ref by [users_role]",
            "the agent with the fewest open conversations: all agents are counted, once for each new conversation",
        ),
        Exception::new(
            &["SELECT DISTINCT cu.id"],
            "cv: ref by [conversations_agency]",
            "an agent's own conversations, made distinct by client",
        ),
        Exception::new(
            &["SELECT conversationId, MIN(eventSeq) FROM ConversationEvents"],
            "range by [conversation_events_age]",
            "what changed in the last seconds, put in another order than that of time",
        ),
    ]
}

/// Every statement that the store has asked, one of each form.
async fn asked(sql: &mut MySqlConnection) -> Vec<String> {
    let log = "SELECT CAST(argument AS CHAR) FROM mysql.general_log \
               WHERE command_type IN ('Execute', 'Query') AND user_host LIKE '%[chat]%' ORDER BY event_time";
    let mut forms = BTreeMap::new();
    for row in sql.fetch_all(log).await.unwrap() {
        let statement: String = row.try_get(0).unwrap();
        let verb = statement.split_whitespace().next().unwrap_or_default();
        let reads = ["SELECT", "UPDATE", "DELETE"].contains(&verb)
            || (verb == "INSERT" && statement.contains("SELECT"));
        // What the server says of itself is asked once in a node's life.
        if reads && !statement.contains("information_schema") {
            // The longest stands for all: a list of many ids rather than of one.
            let kept: &mut String = forms.entry(form(&statement)).or_default();
            if kept.len() < statement.len() {
                *kept = statement;
            }
        }
    }
    forms.into_values().collect()
}

/// A statement without its values, so that those which differ in nothing else are one.
fn form(statement: &str) -> String {
    let mut form = String::new();
    let mut quoted = false;
    for character in statement.chars() {
        match character {
            '\'' => quoted = !quoted,
            _ if quoted || character.is_ascii_digit() || ", ?".contains(character) => {}
            other => form.push(other),
        }
    }
    form.replace("()", "")
        .replace("WHENTHEN", "")
        .replace("OR", "")
}

#[test]
fn values_and_the_lengths_of_lists_make_no_other_form() {
    assert_eq!(
        form("SELECT a FROM B WHERE c IN (1, 2, 3) AND d = 'x, y'"),
        form("SELECT a FROM B WHERE c IN (4) AND d = 'z'")
    );
    assert_ne!(form("SELECT a FROM B"), form("SELECT b FROM B"));
}

async fn findings(sql: &mut MySqlConnection, statements: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for statement in statements {
        let mut find = |what: String| {
            findings.push(Finding {
                statement: statement.clone(),
                what,
            });
        };
        sql.execute("BEGIN").await.unwrap();
        let explained = AssertSqlSafe(format!("ANALYZE {statement}"));
        match sql.fetch_all(sqlx::raw_sql(explained)).await {
            Ok(steps) => {
                for step in &steps {
                    if let Some(what) = wrong(step) {
                        find(what);
                    }
                }
            }
            Err(error) => find(error.to_string()),
        }
        sql.execute("ROLLBACK").await.unwrap();
    }
    findings
}

/// What is wrong about one step of a plan.
fn wrong(step: &sqlx::mysql::MySqlRow) -> Option<String> {
    let text = |column: &str| -> String {
        step.try_get_unchecked::<Option<String>, _>(column)
            .ok()
            .flatten()
            .unwrap_or_default()
    };
    let table = text("table");
    let (way, key, extra) = (text("type"), text("key"), text("Extra"));
    // What a statement has found itself is its own affair.
    if table.is_empty() || table.starts_with('<') {
        return None;
    }
    let read: f64 = text("r_rows").parse().unwrap_or(0.0);
    let told = format!("{table}: {way} by [{key}], {read} rows, {extra}");
    let whole = way == "ALL" || (way == "index" && read > ROWS);
    let sorted = extra.contains("filesort") || extra.contains("temporary");
    (whole || sorted || read > ROWS).then_some(told)
}

/// All indexes but the primary ones: table, name, whether it is unique, columns.
async fn indexes(sql: &mut MySqlConnection) -> Vec<(&'static str, String, bool, String)> {
    let mut indexes = Vec::new();
    for table in TABLES {
        let query = format!(
            "SELECT INDEX_NAME, MIN(NON_UNIQUE) = 0, GROUP_CONCAT(COLUMN_NAME ORDER BY SEQ_IN_INDEX) \
             FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '{table}' \
             AND INDEX_NAME <> 'PRIMARY' GROUP BY INDEX_NAME"
        );
        for row in sql.fetch_all(AssertSqlSafe(query)).await.unwrap() {
            let unique: i64 = row.try_get_unchecked(1).unwrap();
            indexes.push((
                table,
                row.try_get(0).unwrap(),
                unique == 1,
                row.try_get(2).unwrap(),
            ));
        }
    }
    assert!(indexes.len() > 15, "{indexes:?}");
    indexes
}
