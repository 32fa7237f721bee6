//! SQLite: the driver tells each statement that it runs, without its values, and the plan does not depend on them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};
use tracing::field::{Field, Visit};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::harness::{Database, Kind};
use crate::rules::{Exception, Finding, assert_all_used, not_excepted};
use crate::{assert_none, calls, crowd};

/// Those whose absence shows in a plan: what MySQL's suite says of the others holds here, too.
const NEEDED: [&str; 14] = [
    "users_email_lower",
    "users_role",
    "clients_user",
    "conversations_activity",
    "conversations_agency",
    "conversations_unread",
    "messages_seq",
    "messages_client_message",
    "archived_messages_seq",
    "archived_messages_client_message",
    "conversation_events_age",
    "outbox_age",
    "outbox_conversation",
    "sessions_user",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_on_sqlite_reads_a_whole_table() {
    let asked = Asked::default();
    let subscriber =
        tracing_subscriber::registry().with(asked.clone().with_filter(LevelFilter::TRACE));
    // The driver works on threads of its own, so for all of them.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let database = Database::new(Kind::Sqlite).await;
    let store = database.store();
    store.migrate().await.unwrap();
    crowd::fill(&database).await;
    asked.0.lock().unwrap().clear();
    calls::all(&store).await;
    store.close().await;

    let statements: Vec<String> = asked.0.lock().unwrap().iter().cloned().collect();
    assert!(
        statements.len() > 60,
        "{}: {statements:#?}",
        statements.len()
    );
    let mut sql = SqliteConnection::connect(&database.url).await.unwrap();
    let exceptions = exceptions();
    let findings = findings(&mut sql, &statements).await;
    assert_none(&not_excepted(findings, &exceptions));
    assert_all_used(&exceptions);

    for index in NEEDED {
        // Undone afterwards: no plan is kept that was made without it.
        let run = async |sql: &mut SqliteConnection, statement: String| {
            sqlx::raw_sql(AssertSqlSafe(statement))
                .execute(sql)
                .await
                .unwrap();
        };
        run(&mut sql, format!("BEGIN; DROP INDEX {index}")).await;
        let missed = not_excepted(self::findings(&mut sql, &statements).await, &exceptions);
        assert!(!missed.is_empty(), "nobody misses {index}");
        run(&mut sql, "ROLLBACK".to_owned()).await;
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
            &["WHERE 1 = 1 ORDER BY p.activityMs DESC, p.id DESC LIMIT ?"],
            "SCAN p USING INDEX conversations_activity",
            "the first page, in the order of the index: it ends at its limit",
        ),
        Exception::new(
            &["WHERE 1 = 1", "ORDER BY cv.activityMs DESC"],
            "USE TEMP B-TREE FOR ORDER BY",
            "a page, once it is found; and a client's few conversations",
        ),
        Exception::new(
            &["isActive <> 0 ORDER BY activityMs DESC"],
            "USE TEMP B-TREE FOR ORDER BY",
            "a client's few open conversations",
        ),
        Exception::new(
            &["WHERE u.role = 'admin' GROUP BY u.id"],
            "USE TEMP B-TREE FOR ORDER BY",
            "the agent with the fewest open conversations: all agents are counted, once for each new conversation",
        ),
        Exception::new(
            &["SELECT DISTINCT cu.id"],
            "USE TEMP B-TREE FOR DISTINCT",
            "an agent's own conversations, made distinct by client",
        ),
        Exception::new(
            &["SELECT conversationId, MIN(eventSeq) FROM ConversationEvents"],
            "USE TEMP B-TREE FOR GROUP BY",
            "what changed in the last seconds, put in another order than that of time",
        ),
        Exception::new(
            &["kind = 'deleted' AND conversationId IN"],
            "(conversationId=?)",
            "of a conversation that is gone the log has this row alone",
        ),
    ]
}

async fn findings(sql: &mut SqliteConnection, statements: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for statement in statements {
        let explained = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let mut find = |what: String| {
            findings.push(Finding {
                statement: statement.clone(),
                what,
            });
        };
        match sqlx::raw_sql(explained).fetch_all(&mut *sql).await {
            Ok(steps) => {
                for step in steps {
                    let step: String = step.try_get("detail").unwrap();
                    if is_wrong(&step, statement) {
                        find(step);
                    }
                }
            }
            Err(error) => find(error.to_string()),
        }
    }
    findings
}

/// Whether a step of a plan reads a whole table, sorts, or walks along a whole conversation.
fn is_wrong(step: &str, statement: &str) -> bool {
    let own = ["CONSTANT ROW", "VALUES CLAUSE", "SCAN page"];
    let scans = step.starts_with("SCAN") && !own.iter().any(|part| step.contains(part));
    let sorts = step.contains("TEMP B-TREE");
    let long = ["m ", "e ", "Messages ", "ConversationEvents "]
        .iter()
        .any(|table| step.starts_with(&format!("SEARCH {table}")));
    let walks = long && step.ends_with("(conversationId=?)") && !statement.starts_with("DELETE");
    scans || sorts || walks
}

/// What was asked.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<BTreeSet<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Asked {
    fn on_event(&self, event: &tracing::Event<'_>, _context: Context<'_, S>) {
        if event.metadata().target() != "sqlx::query" {
            return;
        }
        let mut seen = Statement::default();
        event.record(&mut seen);
        // The driver tells a long one whole, a short one as its own summary.
        let text = if seen.whole.is_empty() {
            seen.summary
        } else {
            seen.whole
        };
        let text = text.trim().to_owned();
        let verb = text.split_whitespace().next().unwrap_or_default();
        if ["SELECT", "UPDATE", "DELETE", "INSERT", "REPLACE"].contains(&verb) {
            self.0.lock().unwrap().insert(text);
        }
    }
}

#[derive(Default)]
struct Statement {
    summary: String,
    whole: String,
}

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.whole),
            _ => {}
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}
