//! Backups, and the way back.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use gateway::store::{ArchiveOrder, PagePosition, SchemaState, SharedStore, UpkeepError};
use shared::EventSeq;

use crate::harness::{Database, Fixture, Kind, Talk, admin, at, named, seq};

crate::on_both!(
    what_comes_back_is_what_was_there,
    what_was_handed_out_since_never_means_something_else,
    what_was_handed_out_after_one_restore_means_nothing_else_after_the_next,
    a_database_that_is_not_empty_is_left_alone,
    a_node_that_is_connected_stops_a_restore,
    what_is_no_whole_backup_is_refused,
);

/// How far numbers jump at the least: no test, and no house between two backups, writes so much.
const FAR: i64 = 100_000;

/// A place for files, gone with the test that succeeds.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("chat_backup_{}", uuid::Uuid::new_v4().simple());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Twenty messages, ten of them archived, with characters and names that are hard on a text file.
async fn filled(kind: Kind) -> (Fixture, Talk) {
    let fixture = Fixture::new(kind).await;
    let talk = fixture.talk().await;
    for nth in 1..=20 {
        let text = format!("{nth}: it's \"quoted\" \\ \n\u{1f980}\0");
        let mut message = named(talk.by_client(&text), &format!("é\\'{nth}"));
        message.at = at(nth);
        fixture.say(message).await;
    }
    fixture.database.sql("DELETE FROM Outbox").await;
    let order = ArchiveOrder {
        before: at(11),
        batch: 100,
        dry_run: false,
    };
    fixture.store.archive(order).await.unwrap();
    (fixture, talk)
}

async fn back(from: &Path, kind: Kind) -> (Database, SharedStore) {
    let database = Database::new(kind).await;
    let store = database.store();
    let restored = store.restore(from, false).await.unwrap();
    assert_eq!((restored.messages, restored.archived), (10, 10));
    assert_eq!((restored.users, restored.conversations), (2, 1));
    assert_eq!(restored.incomplete, 0);
    store.close().await;
    let store = database.store();
    (database, store)
}

async fn what_comes_back_is_what_was_there(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    // Bytes that are no text.
    let bytes = "x'00FF27225CC328A01A0D0A80FE00FF27225CC328A01A0D0A80FE00FF27225CC3'";
    let session =
        format!("INSERT INTO RefreshTokens (hash, sessionId, createdAt) VALUES ({bytes}, 's', 0)");
    fixture.database.sql(&session).await;
    let folder = Folder::new();
    let file = folder.file("backup");
    let size = fixture.store.backup(&file).await.unwrap();
    let data = std::fs::metadata(&file).unwrap();
    assert_eq!(data.len(), size);
    assert_eq!(data.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
    // One that is there is not overwritten.
    let again = fixture.store.backup(&file).await.unwrap_err();
    assert!(matches!(again, UpkeepError::Hindered(_)), "{again}");

    let (database, store) = back(&file, kind).await;
    let page = gateway::store::MessagePage {
        position: PagePosition::Latest,
        limit: 100,
        as_of: None,
    };
    let theirs = store.messages(talk.conversation, page).await.unwrap();
    let ours = fixture
        .page(talk.conversation, PagePosition::Latest, 100)
        .await;
    assert_eq!(ours.len(), 20);
    assert_eq!(theirs, ours);
    let token = format!("SELECT COUNT(*) FROM RefreshTokens WHERE hash = {bytes}");
    assert_eq!(database.number(&token).await, 1);
    assert_eq!(
        store.unread(admin(talk.agent)).await.unwrap(),
        fixture.store.unread(admin(talk.agent)).await.unwrap()
    );
    store.close().await;
    database.drop().await;
    fixture.end().await;
}

async fn what_was_handed_out_since_never_means_something_else(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    let folder = Folder::new();
    let file = folder.file("backup");
    // Something was about to be published just then.
    let waiting = format!(
        "INSERT INTO Outbox (conversationId, firstEventSeq, lastEventSeq, createdAt) VALUES ({}, 20, 21, 0)",
        talk.conversation
    );
    fixture.database.sql(&waiting).await;
    fixture.store.backup(&file).await.unwrap();
    // Life went on, and is lost.
    let lost = fixture.say(talk.by_client("lost")).await;
    let newcomer = fixture.client("late@example.com").await;
    let lost_talk = fixture.open(newcomer.id, Some(talk.agent)).await;

    let (database, store) = back(&file, kind).await;
    let fixture_of_old = fixture;
    let fixture = Fixture { database, store };
    // To a bus that has forgotten all, the jump would come after it, as a gap without an end.
    let waiting = "SELECT COUNT(*) FROM Outbox";
    assert_eq!(fixture.database.number(waiting).await, 0);
    let next = fixture.say(talk.by_client("next")).await;
    assert_eq!(next.seq, seq(21));
    assert!(next.event_seq.get() > lost.event_seq.get() + FAR);
    assert!(next.id.get() > lost.id.get() + FAR);
    // Who had heard the lost one hears the next.
    let heard = fixture
        .store
        .log_after(talk.conversation, lost.event_seq, 10)
        .await;
    let heard: Vec<_> = heard
        .unwrap()
        .iter()
        .map(|one| one.position.event_seq)
        .collect();
    assert_eq!(heard, [next.event_seq]);
    let all = fixture
        .store
        .log_after(talk.conversation, EventSeq::new(0), 100)
        .await;
    assert_eq!(all.unwrap().len(), 22);
    let other = fixture.client("other@example.com").await;
    assert!(other.id.get() > newcomer.id.get() + FAR);
    let open = fixture.open(other.id, Some(talk.agent)).await;
    assert!(open.conversation.id.get() > lost_talk.conversation.id.get() + FAR);
    fixture.end().await;
    fixture_of_old.end().await;
}

/// One backup is restored, people chat on, and it is restored again: into the same database, or into a new one that knows of nothing. Then
/// the same with a backup of what was restored, whose numbers have jumped already.
async fn what_was_handed_out_after_one_restore_means_nothing_else_after_the_next(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    let folder = Folder::new();
    let file = folder.file("backup");
    fixture.store.backup(&file).await.unwrap();
    fixture.end().await;
    let (database, store) = back(&file, kind).await;
    let jumped = folder.file("jumped");
    store.backup(&jumped).await.unwrap();
    store.close().await;
    database.drop().await;
    let mut handed_out = (0, 0, 0);
    for file in [&file, &file, &jumped, &jumped] {
        let (database, store) = back(file, kind).await;
        let fixture = Fixture { database, store };
        let message = fixture.say(talk.by_client("between")).await;
        let user = fixture.client("between@example.com").await;
        let open = fixture.open(user.id, Some(talk.agent)).await;
        let now = (
            message.event_seq.get(),
            user.id.get(),
            open.conversation.id.get(),
        );
        assert!(
            now.0 > handed_out.0 && now.1 > handed_out.1 && now.2 > handed_out.2,
            "{now:?} after {handed_out:?}"
        );
        handed_out = now;
        fixture.end().await;
        // An id of these tables a second is more than any house hands out.
        tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    }
}

async fn a_database_that_is_not_empty_is_left_alone(kind: Kind) {
    let (fixture, _) = filled(kind).await;
    let folder = Folder::new();
    let file = folder.file("backup");
    fixture.store.backup(&file).await.unwrap();
    let others = Fixture::new(kind).await;
    others.client("mine@example.com").await;
    others.store.close().await;
    let store = others.database.store();
    let refused = store.restore(&file, false).await.unwrap_err();
    assert!(
        refused.to_string().contains("--replace-everything"),
        "{refused}"
    );
    store.close().await;
    let count = "SELECT COUNT(*) FROM Users";
    assert_eq!(others.database.number(count).await, 1);
    let store = others.database.store();
    assert_eq!(store.restore(&file, true).await.unwrap().users, 2);
    store.close().await;
    assert_eq!(others.database.number(count).await, 2);
    others.database.drop().await;
    fixture.end().await;
}

async fn a_node_that_is_connected_stops_a_restore(kind: Kind) {
    let (fixture, talk) = filled(kind).await;
    let folder = Folder::new();
    let file = folder.file("backup");
    fixture.store.backup(&file).await.unwrap();
    fixture.say(talk.by_client("not lost")).await;
    let store = fixture.database.store();
    let refused = store.restore(&file, true).await.unwrap_err();
    assert!(refused.to_string().contains("stop the node"), "{refused}");
    store.close().await;
    let next = fixture.say(talk.by_client("next")).await;
    assert_eq!(next.seq, seq(22));
    fixture.end().await;
}

async fn what_is_no_whole_backup_is_refused(kind: Kind) {
    let (fixture, _) = filled(kind).await;
    let folder = Folder::new();
    let file = folder.file("backup");
    fixture.store.backup(&file).await.unwrap();
    let whole = std::fs::read(&file).unwrap();
    let cut = match kind {
        Kind::MySql => &whole[..whole.len() - 100],
        Kind::Sqlite => &whole[..whole.len() / 2],
    };
    std::fs::write(&file, cut).unwrap();
    let database = Database::new(kind).await;
    let store = database.store();
    store.restore(&file, false).await.unwrap_err();
    // Nothing was done: the whole one still finds it empty.
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(store.restore(&file, false).await.unwrap().messages, 10);
    store.close().await;
    database.drop().await;
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_of_one_moment() {
    use sqlx::Executor as _;
    let (fixture, talk) = filled(Kind::MySql).await;
    let folder = Folder::new();
    let file = folder.file("backup");
    // The first table is held, so that something is written between it and the others.
    let mut holder = fixture.database.mysql().await;
    holder
        .execute("LOCK TABLES ArchivedMessages WRITE")
        .await
        .unwrap();
    let backup = {
        let (store, file) = (fixture.store.clone(), file.clone());
        tokio::spawn(async move { store.backup(&file).await })
    };
    let waiting = "SELECT COUNT(*) FROM information_schema.PROCESSLIST \
                   WHERE DB = DATABASE() AND STATE LIKE 'Waiting for table%'";
    let waits = async {
        while fixture.database.number(waiting).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), waits)
        .await
        .expect("the backup did not come so far");
    fixture.say(talk.by_client("after it began")).await;
    holder.execute("UNLOCK TABLES").await.unwrap();
    backup.await.unwrap().unwrap();
    let (database, store) = back(&file, Kind::MySql).await;
    store.close().await;
    database.drop().await;
    fixture.end().await;
}

/// Of a whole backup, one with a statement that fails before a place.
fn broken_at(file: &Path, place: &str) -> PathBuf {
    let mut text = std::fs::read_to_string(file).unwrap();
    text.insert_str(text.find(place).unwrap(), "SELECT nothing FROM nowhere;\n");
    let broken = file.with_extension("broken");
    std::fs::write(&broken, text).unwrap();
    broken
}

/// Nobody works with it: no node, whether it migrates or not, and no other command.
async fn is_left_alone(database: &Database, folder: &Folder) {
    let store = database.store();
    assert_eq!(store.check().await.unwrap(), SchemaState::RestoreUnfinished);
    let refused = store.migrate().await.unwrap_err();
    assert!(refused.to_string().contains("gateway restore"), "{refused}");
    let refused = store.backup(&folder.file("of a part")).await.unwrap_err();
    assert!(refused.to_string().contains("gateway restore"), "{refused}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_was_cut_short_is_not_served() {
    let (fixture, _) = filled(Kind::MySql).await;
    let folder = Folder::new();
    let file = folder.file("backup");
    fixture.store.backup(&file).await.unwrap();
    // The version of the schema is there by then, and the accounts are not.
    let broken = broken_at(&file, "DROP TABLE IF EXISTS `Users`");
    let database = Database::new(Kind::MySql).await;
    for replace in [false, true] {
        let store = database.store();
        let failed = store.restore(&broken, replace).await.unwrap_err();
        assert!(failed.to_string().contains("nowhere"), "{failed}");
        store.close().await;
        let version = "SELECT COUNT(*) FROM SchemaProgress WHERE name = 'schema'";
        assert_eq!(database.number(version).await, 1);
        is_left_alone(&database, &folder).await;
    }
    let store = database.store();
    assert_eq!(store.restore(&file, true).await.unwrap().messages, 10);
    assert_eq!(store.check().await.unwrap(), SchemaState::Current);
    store.migrate().await.unwrap();
    store.close().await;
    database.drop().await;
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_while_it_is_restored_waits_for_its_end() {
    let (fixture, _) = filled(Kind::MySql).await;
    let folder = Folder::new();
    let file = folder.file("backup");
    fixture.store.backup(&file).await.unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let slow = folder.file("slow");
    std::fs::write(&slow, format!("SELECT SLEEP(3);\n{text}")).unwrap();
    let database = Database::new(Kind::MySql).await;
    let restore = {
        let store = database.store();
        tokio::spawn(async move { store.restore(&slow, false).await })
    };
    let loading = "SELECT COUNT(*) FROM information_schema.PROCESSLIST \
                   WHERE DB = DATABASE() AND INFO LIKE 'SELECT SLEEP%'";
    let loads = async {
        while database.number(loading).await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), loads)
        .await
        .expect("the restore did not come so far");
    // One that migrates waits for its turn; for one that does not, nothing is ready; another restore leaves it alone.
    let node = database.store();
    let migration = {
        let node = node.clone();
        tokio::spawn(async move { node.migrate().await })
    };
    assert_eq!(node.check().await.unwrap(), SchemaState::RestoreUnfinished);
    let other = database.store();
    let refused = other.restore(&file, true).await.unwrap_err();
    assert!(refused.to_string().contains("stop the node"), "{refused}");
    assert_eq!(restore.await.unwrap().unwrap().messages, 10);
    let report = migration.await.unwrap().unwrap();
    assert_eq!(report, gateway::store::MigrationReport::default());
    assert_eq!(node.check().await.unwrap(), SchemaState::Current);
    node.close().await;
    other.close().await;
    database.drop().await;
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_was_cut_short_while_it_emptied_the_database_is_not_served() {
    use sqlx::{AssertSqlSafe, Executor as _};
    let (fixture, _) = filled(Kind::MySql).await;
    let folder = Folder::new();
    let file = folder.file("backup");
    fixture.store.backup(&file).await.unwrap();
    fixture.store.close().await;
    // Somebody who counts as no node, but holds a table that is to go.
    let elsewhere = Database::new(Kind::MySql).await;
    let mut other = elsewhere.mysql().await;
    let name = fixture.database.url.rsplit('/').next().unwrap();
    let hold = format!("BEGIN; SELECT * FROM {name}.SchemaProgress;");
    other.execute(AssertSqlSafe(hold)).await.unwrap();
    let store = fixture.database.store();
    let restore = {
        let (store, file) = (store.clone(), file.clone());
        tokio::spawn(async move { store.restore(&file, true).await })
    };
    let mut killer = elsewhere.mysql().await;
    let waiting = format!(
        "SELECT CAST(ID AS SIGNED) FROM information_schema.PROCESSLIST \
         WHERE DB = '{name}' AND INFO LIKE 'DROP%'"
    );
    let waits = async {
        loop {
            let waits: Option<i64> = sqlx::query_scalar(AssertSqlSafe(waiting.clone()))
                .fetch_optional(&mut killer)
                .await
                .unwrap();
            match waits {
                Some(id) => break id,
                None => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    };
    let id = tokio::time::timeout(std::time::Duration::from_secs(20), waits)
        .await
        .expect("the restore did not come so far");
    sqlx::query("KILL ?")
        .bind(id)
        .execute(&mut killer)
        .await
        .unwrap();
    restore.await.unwrap().unwrap_err();
    other.execute("ROLLBACK").await.unwrap();
    drop((other, killer));
    store.close().await;
    is_left_alone(&fixture.database, &folder).await;

    let store = fixture.database.store();
    assert_eq!(store.restore(&file, true).await.unwrap().messages, 10);
    assert_eq!(store.check().await.unwrap(), SchemaState::Current);
    store.close().await;
    fixture.database.drop().await;
    elsewhere.drop().await;
}
