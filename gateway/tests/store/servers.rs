//! What becomes of the server itself: it dies and comes back, turns into a replica, has no connection left, takes only
//! short statements. Each test has a server of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use gateway::store::{Settings, SharedStore, StoreError, open};
use sqlx::{Connection as _, MySqlConnection};

use crate::commits::is_sound;
use crate::harness::{Database, Fixture, Kind, Talk, anyone, is_new, named, stored};
use crate::link::Link;
use crate::mariadb_server::MariaDb;

/// Somebody who may do everything with data, and nothing with the server.
const USER: &str = "CREATE USER chat@'%'; GRANT ALL ON *.* TO chat@'%'; REVOKE SUPER, READ_ONLY ADMIN, \
                    CONNECTION ADMIN ON *.* FROM chat@'%'";

struct Own {
    server: MariaDb,
    fixture: Fixture,
    talk: Talk,
}

impl Own {
    async fn new() -> Self {
        let server = MariaDb::start().await;
        server.sql(&[USER]).await;
        let url = server.url();
        let address = url.trim_end_matches("chat").to_owned();
        let database = Database::on(Kind::MySql, address).await;
        let fixture = Fixture::in_database(database).await;
        let talk = fixture.talk().await;
        Self {
            server,
            fixture,
            talk,
        }
    }

    fn settings(&self, port: u16) -> Settings {
        Settings::new(self.fixture.database.url_at("chat", port))
    }
}

/// Sends until told to stop; how many were acknowledged, and how many are in doubt.
async fn send_on(store: SharedStore, talk: Talk, stop: Arc<AtomicBool>) -> (i64, i64) {
    let (mut stored, mut in_doubt) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        match store.append(&[talk.by_client("x")], &anyone()).await {
            Ok(outcome) => {
                assert!(is_new(&outcome.results[0]));
                stored += 1;
            }
            Err(StoreError::Unavailable(_)) => in_doubt += 1,
            Err(error) => panic!("{error:?}"),
        }
        assert!(
            begun.elapsed() < Duration::from_secs(12),
            "{:?}",
            begun.elapsed()
        );
    }
    (stored, in_doubt)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_and_comes_back_loses_and_repeats_nothing() {
    let mut own = Own::new().await;
    let store = open(&own.settings(own.server.port)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..8)
        .map(|_| tokio::spawn(send_on(store.clone(), own.talk, stop.clone())))
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        own.server.restart().await;
    }
    // It heals by itself.
    let answers = store
        .append(&[own.talk.by_client("healed")], &anyone())
        .await;
    assert!(answers.is_ok());
    stop.store(true, Ordering::Relaxed);
    let (mut stored, mut in_doubt) = (1, 0);
    for sender in join_all(senders).await {
        let (ok, doubt) = sender.unwrap();
        stored += ok;
        in_doubt += doubt;
    }
    println!("{stored} acknowledged, {in_doubt} in doubt over three restarts");
    assert!(stored > 100);
    let there = own
        .fixture
        .database
        .number("SELECT COUNT(*) FROM Messages")
        .await;
    assert!(
        (stored..=stored + in_doubt).contains(&there),
        "{there} of {stored} + {in_doubt}"
    );
    // Each attempt is found out about before it is given up, so a short absence leaves none in doubt.
    assert_eq!((there, in_doubt), (stored, 0));
    is_sound(&own.fixture.database).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_became_a_replica_is_left() {
    let own = Own::new().await;
    let link = Link::new(own.server.port).await;
    let mut settings = own.settings(link.port);
    settings.pool_size = 1;
    let store = open(&settings).unwrap();
    store
        .append(&[own.talk.by_client("1")], &anyone())
        .await
        .unwrap();
    assert_eq!(link.connections(), 1);

    own.server.sql(&["SET GLOBAL read_only = 1"]).await;
    for message in ["2", "3"] {
        let message = [named(own.talk.by_client(message), message)];
        let refused = store.append(&message, &anyone()).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
    }
    // It can still be read.
    assert!(
        store
            .conversation(own.talk.conversation)
            .await
            .unwrap()
            .is_some()
    );
    // A connection to it is of no use any more: the next may lead to the new one.
    assert_eq!(link.connections(), 3);

    own.server.sql(&["SET GLOBAL read_only = 0"]).await;
    let message = [named(own.talk.by_client("2"), "2")];
    let outcome = store.append(&message, &anyone()).await.unwrap();
    assert_eq!(stored(&outcome.results[0]).seq.get(), 2);
    is_sound(&own.fixture.database).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_server_has_no_connection_left_ours_will_do() {
    let own = Own::new().await;
    own.fixture.store.close().await;
    own.server.sql(&["SET GLOBAL max_connections = 10"]).await;
    let store = open(&own.settings(own.server.port)).unwrap();
    store
        .append(&[own.talk.by_client("1")], &anyone())
        .await
        .unwrap();
    // Others take all that are left.
    let url = own.fixture.database.url_at("chat", own.server.port);
    let mut others = Vec::new();
    while let Ok(other) = MySqlConnection::connect(&url).await {
        others.push(other);
    }
    assert!(others.len() > 5);
    let begun = Instant::now();
    let calls = join_all((0..40).map(|_| store.conversation(own.talk.conversation))).await;
    for call in calls {
        assert!(call.unwrap().is_some());
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_short_statements_only_gets_short_ones() {
    let own = Own::new().await;
    // A size that configurations still carry from when it was the default.
    own.server
        .sql(&["SET GLOBAL max_allowed_packet = 1048576"])
        .await;
    let store = open(&own.settings(own.server.port)).unwrap();
    let mut batch = vec![own.talk.by_client(&"x".repeat(60_000)); 100];
    for round in 0..40 {
        let client = own.fixture.client(&format!("c{round}@x.y")).await.id;
        let record = own.fixture.open(client, Some(own.talk.agent)).await;
        let mut message = own.talk.by_client(&"y".repeat(60_000));
        (message.conversation, message.sender) = (record.conversation.id, client);
        batch.push(message);
    }
    let outcome = store.append(&batch, &anyone()).await.unwrap();
    assert!(outcome.results.iter().all(is_new));
    let there = own
        .fixture
        .database
        .number("SELECT COUNT(*) FROM Messages")
        .await;
    assert_eq!(there, 140);
    is_sound(&own.fixture.database).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_far_its_clock_is_ahead_is_seen() {
    let own = Own::new().await;
    let ahead = async |init: &str| {
        let sql = format!("SET GLOBAL init_connect = '{init}'");
        own.server.sql(&[&sql]).await;
        let store = open(&own.settings(own.server.port)).unwrap();
        let ahead = store.inspect().await.unwrap().ahead_ms;
        store.close().await;
        ahead
    };
    let near = 20_000;
    assert!(ahead("").await.abs() < near);
    for seconds in [3_600, -7_200] {
        let told = ahead(&format!("SET timestamp = UNIX_TIMESTAMP() + {seconds}")).await;
        assert!((told - seconds * 1_000).abs() < near, "{told}");
    }
}
