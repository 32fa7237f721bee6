//! TLS of MySQL, by the parameters of `DATABASE_URL`: a server with a certificate of a test's own authority, where one user must
//! come with TLS and another with a certificate of its own.

use gateway::store::{InvalidUrl, PagePosition, SchemaState, Settings, StoreError, open};
use shared::Timestamp;

use crate::certificates::{Authority, Folder, ServerFiles, shown};
use crate::harness::{Database, Fixture, Kind};
use crate::mariadb_server::MariaDb;
use crate::node::Node;

const USERS: &[&str] = &[
    "CREATE USER safe@'%' IDENTIFIED BY 'sesame-7f3a' REQUIRE SSL",
    "CREATE USER known@'%' IDENTIFIED BY 'sesame-7f3a' REQUIRE X509",
    "GRANT ALL ON chat.* TO safe@'%'",
    "GRANT ALL ON chat.* TO known@'%'",
];

struct Safe {
    server: MariaDb,
    authority: Authority,
    /// What the node has.
    own: Folder,
    _files: ServerFiles,
}

impl Safe {
    async fn start() -> Self {
        let authority = Authority::new("the tests' authority");
        let files = ServerFiles::new(&authority, &["127.0.0.1"]);
        let mut options = vec![];
        options.extend(files.option("--ssl-ca", "ca.pem"));
        options.extend(files.option("--ssl-cert", "server.pem"));
        options.extend(files.option("--ssl-key", "server-key.pem"));
        let server = MariaDb::start_with(options).await;
        server.sql(USERS).await;
        let own = Folder::new();
        own.write("ca.pem", &authority.pem);
        Self {
            server,
            authority,
            own,
            _files: files,
        }
    }

    fn url(&self, user: &str, host: &str, more: &str) -> String {
        format!(
            "mysql://{user}:sesame-7f3a@{host}:{}/chat?ssl-mode=VERIFY_IDENTITY&ssl-ca={}{more}",
            self.server.port,
            shown(&self.own.path("ca.pem"))
        )
    }
}

/// Why a store does not work; `None` where it does.
async fn fault(url: &str) -> Option<String> {
    let store = open(&Settings::new(url)).unwrap();
    let begun = std::time::Instant::now();
    let answer = store.check().await;
    // Sooner than readiness gives up: it is to say why.
    assert!(begun.elapsed().as_secs() < 3);
    store.close().await;
    match answer {
        Ok(_) => None,
        Err(error @ StoreError::Unavailable(_)) => Some(error.to_string()),
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_speaks_tls_and_shows_its_certificate() {
    let safe = Safe::start().await;
    let store = open(&Settings::new(safe.url("safe", "127.0.0.1", ""))).unwrap();
    store.migrate().await.unwrap();
    assert_eq!(store.check().await.unwrap(), SchemaState::Current);
    store.close().await;

    // Without TLS, and with a password alone, nobody is let in.
    let plain = format!(
        "mysql://safe:sesame-7f3a@127.0.0.1:{}/chat?ssl-mode=DISABLED",
        safe.server.port
    );
    let told = fault(&plain).await.unwrap();
    assert!(told.contains("TLS or a certificate is missing"), "{told}");
    let told = fault(&safe.url("known", "127.0.0.1", "")).await.unwrap();
    assert!(told.contains("TLS or a certificate is missing"), "{told}");

    let pair = safe.authority.vouch_for(&["gateway"]);
    let certificate = safe.own.write("tls.pem", &pair.certificate);
    let key = safe.own.write("key.pem", &pair.key);
    let own = format!("&ssl-cert={}&ssl-key={}", shown(&certificate), shown(&key));
    assert_eq!(fault(&safe.url("known", "127.0.0.1", &own)).await, None);
    // Another name of the same machine, which the certificate does not bear.
    let told = fault(&safe.url("known", "localhost", &own)).await.unwrap();
    assert!(
        told.contains("TLS") && told.contains("not valid for name"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_trusts_somebody_else_says_so_waits_and_heals() {
    let safe = Safe::start().await;
    safe.own.write("ca.pem", &Authority::new("a stranger").pem);
    let node = Node::start(&[("DATABASE_URL", safe.url("safe", "127.0.0.1", ""))]);
    node.wants("database", "UnknownIssuer").await;
    safe.own.write("ca.pem", &safe.authority.pem);
    node.is_ready().await;
    assert!(!node.log().contains("sesame"), "{}", node.log());
}

/// The rights that a page has after some words, as a list for GRANT.
fn rights(page: &str, before: &str) -> String {
    let page = std::fs::read_to_string(format!("{}/../docs/{page}.md", env!("CARGO_MANIFEST_DIR")));
    let page = page.unwrap().replace('\n', " ");
    let after = page.split(before).nth(1).unwrap();
    after.split('`').nth(1).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_of_the_page_are_enough() {
    let server = MariaDb::start().await;
    let (serves, migrates) = (
        rights("outside", "The rights:"),
        rights("outside", "AUTO_MIGRATE=false`, and"),
    );
    let database = Database::on(
        Kind::MySql,
        server.url().trim_end_matches("chat").to_owned(),
    )
    .await;
    server
        .sql(&[
            "CREATE USER server@'%'; CREATE USER migrator@'%'",
            &format!("GRANT {serves} ON *.* TO server@'%'"),
            &format!("GRANT {serves}, {migrates} ON *.* TO migrator@'%'"),
        ])
        .await;
    let migrator = open(&Settings::new(database.url_at("migrator", server.port))).unwrap();
    for _ in 0..2 {
        migrator.migrate().await.unwrap();
    }
    migrator.close().await;
    let store = open(&Settings::new(database.url_at("server", server.port))).unwrap();
    assert!(matches!(
        store.migrate().await,
        Err(StoreError::Internal(_))
    ));
    let fixture = Fixture { database, store };
    let talk = fixture.talk().await;
    let said = fixture.say(talk.by_client("x")).await;
    assert_eq!(
        fixture
            .page(talk.conversation, PagePosition::Latest, 1)
            .await,
        [said]
    );
    fixture
        .store
        .prune_sessions(Timestamp::now())
        .await
        .unwrap();
    let gone = fixture
        .store
        .delete_conversation(talk.conversation, talk.agent, Timestamp::now());
    gone.await.unwrap().unwrap();
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_of_the_page_of_upkeep_are_enough() {
    let server = MariaDb::start().await;
    let (saves, restores) = (
        rights("upkeep", "The account needs"),
        rights("upkeep", "and the rights"),
    );
    let address = server.url().trim_end_matches("chat").to_owned();
    let database = Database::on(Kind::MySql, address).await;
    let name = database.url.rsplit('/').next().unwrap();
    server
        .sql(&[
            "CREATE USER saver@'%'; CREATE USER restorer@'%'",
            &format!("GRANT {saves} ON {name}.* TO saver@'%'"),
            &format!("GRANT {restores} ON {name}.* TO restorer@'%'"),
        ])
        .await;
    let of = |user: &str| open(&Settings::new(database.url_at(user, server.port))).unwrap();
    let node = database.store();
    node.migrate().await.unwrap();
    assert_eq!(node.check().await.unwrap(), SchemaState::Current);
    let folder = Folder::new();
    let file = folder.path("backup.sql");
    let saver = of("saver");
    saver.backup(&file).await.unwrap();
    saver.close().await;
    // A node of another account's is seen with the right to, and with that alone.
    server.sql(&["GRANT PROCESS ON *.* TO restorer@'%'"]).await;
    let restorer = of("restorer");
    let refused = restorer.restore(&file, true).await.unwrap_err();
    assert!(refused.to_string().contains("stop the node"), "{refused}");
    restorer.close().await;
    server
        .sql(&["REVOKE PROCESS ON *.* FROM restorer@'%'"])
        .await;
    assert_eq!(node.check().await.unwrap(), SchemaState::Current);
    node.close().await;
    // Who may not drop what is there leaves no mark that says so.
    server
        .sql(&[&format!("REVOKE DROP ON {name}.* FROM restorer@'%'")])
        .await;
    let restorer = of("restorer");
    let refused = restorer.restore(&file, true).await.unwrap_err();
    assert!(refused.to_string().contains("DROP"), "{refused}");
    assert_eq!(restorer.check().await.unwrap(), SchemaState::Current);
    restorer.close().await;
    server
        .sql(&[&format!("GRANT DROP ON {name}.* TO restorer@'%'")])
        .await;
    let restorer = of("restorer");
    restorer.restore(&file, true).await.unwrap();
    assert_eq!(restorer.check().await.unwrap(), SchemaState::Current);
    restorer.close().await;
}

#[tokio::test]
async fn a_file_that_is_not_there_is_a_wrong_setting() {
    for parameter in ["ssl-ca", "ssl-cert", "ssl-key", "sslca"] {
        let url = format!("mysql://a:sesame@127.0.0.1:1/chat?{parameter}=/nowhere.pem");
        let InvalidUrl { .. } = open(&Settings::new(url.clone())).map(drop).unwrap_err();
        let told = open(&Settings::new(url)).map(drop).unwrap_err().to_string();
        assert!(
            told.starts_with(&format!("{parameter}=/nowhere.pem: ")),
            "{told}"
        );
    }
}
