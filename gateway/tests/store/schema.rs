//! Making the schema, and a database that is not there.

use std::time::Duration;

use gateway::store::{SchemaState, Settings, StoreError, open};

use crate::harness::{Database, Kind};

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
