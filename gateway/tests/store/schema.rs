//! Making the schema, and a database that is not there.

use std::time::Duration;

use gateway::store::{SchemaState, Settings, StoreError, open};

use crate::harness::{Database, Fixture, Kind};

crate::on_both!(
    a_fresh_database_is_made_once,
    nodes_that_migrate_at_once_agree,
    a_migration_cut_short_is_taken_up_again,
);

async fn a_fresh_database_is_made_once(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.store();
    assert_eq!(store.check().await.unwrap(), SchemaState::Outdated);
    let first = store.migrate().await.unwrap();
    assert!(first.applied > 0 && !first.adopted, "{first:?}");
    assert_eq!(store.check().await.unwrap(), SchemaState::Current);
    let again = store.migrate().await.unwrap();
    assert_eq!(again, gateway::store::MigrationReport::default());
    store.close().await;
    database.drop().await;
}

async fn nodes_that_migrate_at_once_agree(kind: Kind) {
    let database = Database::new(kind).await;
    let stores: Vec<_> = (0..4).map(|_| database.store()).collect();
    let runs: Vec<_> = stores
        .iter()
        .cloned()
        .map(|store| tokio::spawn(async move { store.migrate().await }))
        .collect();
    let mut applied = 0;
    for run in runs {
        applied += run.await.unwrap().unwrap().applied;
    }
    assert!(applied > 0);
    for store in stores {
        assert_eq!(store.check().await.unwrap(), SchemaState::Current);
        store.close().await;
    }
    database.drop().await;
}

async fn a_migration_cut_short_is_taken_up_again(kind: Kind) {
    let database = Database::new(kind).await;
    let store = database.store();
    store.migrate().await.unwrap();
    database
        .sql("UPDATE _sqlx_migrations SET success = FALSE WHERE version = 2; DELETE FROM SchemaProgress;")
        .await;
    assert_eq!(store.check().await.unwrap(), SchemaState::Outdated);
    store.migrate().await.unwrap();
    assert_eq!(store.check().await.unwrap(), SchemaState::Current);
    store.close().await;
    database.drop().await;
}

#[tokio::test]
async fn a_store_opens_without_its_database_and_heals() {
    // Nobody listens on port 1.
    let mut settings = Settings::new("mysql://root@127.0.0.1:1/chat");
    settings.acquire_timeout = Duration::from_millis(300);
    let store = open(&settings).unwrap();
    assert!(matches!(
        store.check().await,
        Err(StoreError::Unavailable(_))
    ));
    assert!(matches!(
        store.migrate().await,
        Err(StoreError::Unavailable(_))
    ));

    // The database is created after the store was opened.
    let database = Database::new(Kind::MySql).await;
    database
        .sql(&format!("DROP DATABASE {}", name(&database.url)))
        .await;
    let mut settings = database.settings();
    settings.acquire_timeout = Duration::from_millis(300);
    let store = open(&settings).unwrap();
    let error = store.check().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let server = Database::new(Kind::MySql).await;
    server
        .sql(&format!("CREATE DATABASE {}", name(&database.url)))
        .await;
    store.migrate().await.unwrap();
    assert_eq!(store.check().await.unwrap(), SchemaState::Current);
    store.close().await;
    server.drop().await;
    database.drop().await;
}

/// What a restart or a failover of the server does to a pool.
#[tokio::test]
async fn killed_connections_are_replaced() {
    let fixture = Fixture::new(Kind::MySql).await;
    let talk = fixture.talk().await;
    fixture.say(talk.by_client("before")).await;
    let mut other = fixture.database.mysql().await;
    let ids: Vec<i64> = sqlx::query_scalar(
        "SELECT CAST(ID AS SIGNED) FROM information_schema.PROCESSLIST \
         WHERE DB = DATABASE() AND ID <> CONNECTION_ID()",
    )
    .fetch_all(&mut other)
    .await
    .unwrap();
    assert!(!ids.is_empty());
    for id in ids {
        // One may have gone by itself, the migration's.
        let _ = sqlx::query("KILL ?").bind(id).execute(&mut other).await;
    }
    fixture.say(talk.by_client("after")).await;
    let record = fixture.record(talk.conversation).await;
    assert_eq!(record.conversation.last_seq.get(), 2);
    fixture.end().await;
}

/// A row that somebody else has locked for longer than a statement may take is an answer in time, and no loss.
#[tokio::test]
async fn a_lock_that_is_not_given_up_is_unavailable() {
    use sqlx::Executor as _;
    let fixture = Fixture::new(Kind::MySql).await;
    let talk = fixture.talk().await;
    let mut settings = fixture.database.settings();
    settings.statement_timeout = Duration::from_secs(1);
    let hurried = open(&settings).unwrap();
    let mut other = fixture.database.mysql().await;
    other
        .execute("BEGIN; SELECT id FROM Conversations FOR UPDATE;")
        .await
        .unwrap();
    let batch = [talk.by_client("late")];
    let error = hurried
        .append(&batch, &crate::harness::anyone())
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    other.execute("ROLLBACK").await.unwrap();
    let outcome = hurried
        .append(&batch, &crate::harness::anyone())
        .await
        .unwrap();
    assert_eq!(crate::harness::stored(&outcome.results[0]).seq.get(), 1);
    hurried.close().await;
    fixture.end().await;
}

#[test]
fn addresses_that_are_none_are_refused_without_being_shown() {
    for url in [
        "",
        "postgres://secret@host/db",
        "mysql://root:secret@host/",
        "mysql://",
        "sqlite://",
        "sqlite::memory:",
        "chat-secret.db",
    ] {
        let error = open(&Settings::new(url)).err().unwrap().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}

fn name(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}
