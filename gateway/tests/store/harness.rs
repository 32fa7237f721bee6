//! A fresh database for each test, on either kind, and short words for what tests do with it. No test stands here.

use std::path::PathBuf;

use gateway::store::{
    Admission, Appended, ConversationRecord, MessagePage, NewAdmin, NewClient, NewMessage,
    OpenOutcome, PagePosition, Settings, SharedStore, Viewer, open,
};
use shared::model::{Message, User};
use shared::{ConversationId, Role, Seq, Timestamp, UserId};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySqlConnection, SqliteConnection};

/// Which database a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    MySql,
}

/// A database of one test's own, gone with it.
pub(crate) struct Database {
    pub(crate) kind: Kind,
    pub(crate) url: String,
    folder: PathBuf,
    name: String,
    /// Where MySQL is.
    server: String,
}

impl Database {
    pub(crate) async fn new(kind: Kind) -> Self {
        let server = match kind {
            Kind::Sqlite => String::new(),
            Kind::MySql => server_url(),
        };
        Self::on(kind, server).await
    }

    /// On a server of the test's own.
    pub(crate) async fn on(kind: Kind, server: String) -> Self {
        let name = format!("chat_test_{}", uuid::Uuid::new_v4().simple());
        let folder = std::env::temp_dir().join(&name);
        let url = match kind {
            // The folder is not there yet: the store makes it.
            Kind::Sqlite => format!("sqlite://{}/deep/chat.db", folder.display()),
            Kind::MySql => {
                let mut conn = MySqlConnection::connect(&server).await.unwrap();
                let sql = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4");
                conn.execute(AssertSqlSafe(sql)).await.unwrap();
                conn.close().await.unwrap();
                format!("{}/{name}", server.trim_end_matches('/'))
            }
        };
        Self {
            kind,
            url,
            folder,
            name,
            server,
        }
    }

    /// The port of its server.
    pub(crate) fn port(&self) -> u16 {
        let after = self.server.rsplit(':').next().unwrap();
        after.trim_end_matches('/').parse().unwrap()
    }

    /// Its address as it is seen through another port of this machine, by somebody.
    pub(crate) fn url_at(&self, user: &str, port: u16) -> String {
        format!("mysql://{user}@127.0.0.1:{port}/{}", self.name)
    }

    /// Returns when a transaction waits for a lock of another.
    pub(crate) async fn somebody_waits(&self) {
        let sql = "SELECT COUNT(*) FROM information_schema.INNODB_TRX t \
                   JOIN information_schema.PROCESSLIST p ON p.ID = t.trx_mysql_thread_id \
                   WHERE p.DB = DATABASE() AND t.trx_state = 'LOCK WAIT'";
        let waiting = async {
            while self.number(sql).await == 0 {
                // Asked more often than ten times a second, the server repeats what it said before.
                tokio::time::sleep(std::time::Duration::from_millis(150)).await;
            }
        };
        let in_time = tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await;
        in_time.expect("nobody waits");
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings::new(&self.url)
    }

    pub(crate) fn store(&self) -> SharedStore {
        open(&self.settings()).unwrap()
    }

    /// Plain SQL, as the old system or a person at a prompt would run it.
    pub(crate) async fn sql(&self, sql: &str) {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self.kind {
            Kind::Sqlite => self.sqlite().await.execute(sql).await.map(drop),
            Kind::MySql => self.mysql().await.execute(sql).await.map(drop),
        }
        .unwrap();
    }

    /// The only number that plain SQL answers.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        match self.kind {
            Kind::Sqlite => {
                sqlx::query_scalar(sql)
                    .fetch_one(&mut self.sqlite().await)
                    .await
            }
            Kind::MySql => {
                sqlx::query_scalar(sql)
                    .fetch_one(&mut self.mysql().await)
                    .await
            }
        }
        .unwrap()
    }

    pub(crate) async fn mysql(&self) -> MySqlConnection {
        MySqlConnection::connect(&self.url).await.unwrap()
    }

    async fn sqlite(&self) -> SqliteConnection {
        std::fs::create_dir_all(self.folder.join("deep")).unwrap();
        SqliteConnection::connect(&format!("{}?mode=rwc", self.url))
            .await
            .unwrap()
    }

    pub(crate) async fn drop(self) {
        match self.kind {
            Kind::Sqlite => std::fs::remove_dir_all(&self.folder).unwrap(),
            Kind::MySql => {
                let mut conn = MySqlConnection::connect(&self.server).await.unwrap();
                conn.execute(AssertSqlSafe(format!("DROP DATABASE {}", self.name)))
                    .await
                    .unwrap();
            }
        }
    }
}

fn server_url() -> String {
    std::env::var("TEST_MYSQL_URL")
        .expect("TEST_MYSQL_URL names the MySQL server to test with; `make test` starts one")
}

/// A store with this version's schema, and what a test needs to talk about it.
pub(crate) struct Fixture {
    pub(crate) database: Database,
    pub(crate) store: SharedStore,
}

impl Fixture {
    pub(crate) async fn new(kind: Kind) -> Self {
        Self::in_database(Database::new(kind).await).await
    }

    pub(crate) async fn in_database(database: Database) -> Self {
        let store = database.store();
        store.migrate().await.unwrap();
        Self { database, store }
    }

    pub(crate) async fn end(self) {
        self.store.close().await;
        self.database.drop().await;
    }

    pub(crate) async fn client(&self, email: &str) -> User {
        self.store
            .register_client(&new_client(email))
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn admin(&self, email: &str) -> User {
        let account = NewAdmin {
            email: email.to_owned(),
            password_hash: "hash".to_owned(),
            first_name: Some("Ada".to_owned()),
            last_name: None,
            at: at(0),
        };
        self.store.create_admin(&account).await.unwrap().unwrap()
    }

    /// A client, an agent and their new conversation.
    pub(crate) async fn talk(&self) -> Talk {
        let client = self.client("client@example.com").await;
        let agent = self.admin("agent@example.com").await;
        let conversation = self.open(client.id, Some(agent.id)).await;
        Talk {
            client: client.id,
            agent: agent.id,
            conversation: conversation.conversation.id,
        }
    }

    pub(crate) async fn open(&self, client: UserId, agent: Option<UserId>) -> ConversationRecord {
        match self
            .store
            .open_conversation(client, agent, at(1))
            .await
            .unwrap()
        {
            OpenOutcome::Created(record, _) | OpenOutcome::Existing(record) => record,
            other => panic!("{other:?}"),
        }
    }

    /// Stores one message; new or not.
    pub(crate) async fn say(&self, message: NewMessage) -> Message {
        let outcome = self.store.append(&[message], &anyone()).await.unwrap();
        self.store.clear_outbox(&outcome.outbox).await.unwrap();
        stored(&outcome.results[0])
    }

    pub(crate) async fn page(
        &self,
        conversation: ConversationId,
        position: PagePosition,
        limit: u32,
    ) -> Vec<Message> {
        self.store
            .messages(
                conversation,
                MessagePage {
                    position,
                    limit,
                    as_of: None,
                },
            )
            .await
            .unwrap()
    }

    pub(crate) async fn record(&self, id: ConversationId) -> ConversationRecord {
        self.store.conversation(id).await.unwrap().unwrap()
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Talk {
    pub(crate) client: UserId,
    pub(crate) agent: UserId,
    pub(crate) conversation: ConversationId,
}

impl Talk {
    pub(crate) fn by_client(&self, content: &str) -> NewMessage {
        NewMessage {
            conversation: self.conversation,
            sender: self.client,
            role: Role::User,
            content: content.to_owned(),
            client_message_id: None,
            at: at(10),
        }
    }

    pub(crate) fn by_agent(&self, content: &str) -> NewMessage {
        NewMessage {
            sender: self.agent,
            role: Role::Admin,
            ..self.by_client(content)
        }
    }
}

pub(crate) fn named(message: NewMessage, name: &str) -> NewMessage {
    NewMessage {
        client_message_id: Some(name.to_owned()),
        ..message
    }
}

pub(crate) fn stored(result: &Result<Appended, gateway::store::Rejection>) -> Message {
    match result {
        Ok(Appended::New(logged)) => match &logged.change {
            gateway::store::Change::Message { message, .. } => message.clone(),
            other => panic!("{other:?}"),
        },
        Ok(Appended::Repeat(message)) => message.clone(),
        Err(why) => panic!("{why:?}"),
    }
}

pub(crate) fn is_new(result: &Result<Appended, gateway::store::Rejection>) -> bool {
    matches!(result, Ok(Appended::New(_)))
}

/// Lets everybody write to the other party.
pub(crate) fn anyone() -> Box<Admission> {
    Box::new(|message, parties| {
        Ok(match message.role {
            Role::User => parties.agency,
            Role::Admin => parties
                .client_user
                .ok_or(gateway::store::Rejection::ClientHasNoAccount)?,
        })
    })
}

pub(crate) fn new_client(email: &str) -> NewClient {
    NewClient {
        email: email.to_owned(),
        password_hash: "hash".to_owned(),
        first_name: "Cleo".to_owned(),
        last_name: "Ent".to_owned(),
        company: Some("Company".to_owned()),
        phone: None,
        country: None,
        at: at(0),
    }
}

/// A point in time, in seconds after an arbitrary one, with milliseconds that columns must keep.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp(chrono::DateTime::from_timestamp_millis(1_750_000_000_123 + seconds * 1000).unwrap())
}

pub(crate) const fn client(user: UserId) -> Viewer {
    Viewer {
        user,
        role: Role::User,
    }
}

pub(crate) const fn admin(user: UserId) -> Viewer {
    Viewer {
        user,
        role: Role::Admin,
    }
}

pub(crate) fn seqs(messages: &[Message]) -> Vec<i64> {
    messages.iter().map(|message| message.seq.get()).collect()
}

pub(crate) fn contents(messages: &[Message]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| message.content.as_str())
        .collect()
}

pub(crate) const fn seq(value: i64) -> Seq {
    Seq::new(value)
}

/// Makes a test of each named async function, on each database.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::harness::Kind::Sqlite).await;
                }
            )*
        }
        mod mysql {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::harness::Kind::MySql).await;
                }
            )*
        }
    };
}
