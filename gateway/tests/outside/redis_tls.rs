//! `rediss://`: a Redis with a certificate of a test's own authority, which asks for the clients', too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::bus::Bus;
use gateway::bus::redis::{
    ClientFiles, Commands, RedisBus, RedisBusSettings, RedisSettings, TlsFiles,
};
use shared::{Room, UserId};

use crate::certificates::{Authority, Folder, ServerFiles, shown};
use crate::node::{Node, doctor, free_port};
use crate::redis_server::RedisServer;

struct Safe {
    redis: RedisServer,
    port: u16,
    authority: Authority,
    /// What the node has: `ca.pem`, `tls.pem`, `key.pem`.
    own: Folder,
    _files: ServerFiles,
}

impl Safe {
    fn start() -> Self {
        let authority = Authority::new("the tests' authority");
        let files = ServerFiles::new(&authority, &["127.0.0.1", "localhost"]);
        let port = free_port();
        let mut options = vec!["--tls-port".to_owned(), port.to_string()];
        options.extend(files.option("--tls-ca-cert-file", "ca.pem"));
        options.extend(files.option("--tls-cert-file", "server.pem"));
        options.extend(files.option("--tls-key-file", "server-key.pem"));
        let redis = RedisServer::start_with(options);
        let own = Folder::new();
        let safe = Self {
            redis,
            port,
            authority,
            own,
            _files: files,
        };
        safe.give(&safe.authority, &safe.authority);
        safe
    }

    /// Gives the node the certificate of one to trust, and one that another vouches for.
    fn give(&self, trusted: &Authority, voucher: &Authority) {
        let pair = voucher.vouch_for(&["gateway"]);
        self.own.write("ca.pem", &trusted.pem);
        self.own.write("tls.pem", &pair.certificate);
        self.own.write("key.pem", &pair.key);
    }

    fn settings(&self) -> [(&'static str, String); 4] {
        let file = |name: &str| shown(&self.own.path(name));
        [
            ("REDIS_URL", format!("rediss://127.0.0.1:{}", self.port)),
            ("REDIS_CA_FILE", file("ca.pem")),
            ("REDIS_CERT_FILE", file("tls.pem")),
            ("REDIS_KEY_FILE", file("key.pem")),
        ]
    }

    fn commands(&self, host: &str) -> Commands {
        let mut settings = RedisSettings::new(format!("rediss://{host}:{}", self.port));
        settings.tls = TlsFiles {
            ca: Some(self.own.path("ca.pem")),
            client: Some(ClientFiles {
                certificate: self.own.path("tls.pem"),
                key: self.own.path("key.pem"),
            }),
        };
        Commands::open(&settings).unwrap()
    }
}

fn bus(commands: Commands) -> RedisBus {
    RedisBus::open(commands, "a", RedisBusSettings::default())
}

/// Both ways work: the echo goes out on the pool's connection and comes in on the link's.
async fn works(bus: &RedisBus) {
    bus.subscribe(&[Room::User(UserId::new(1))]).await.unwrap();
    becomes(bus, true).await;
}

/// Waits until it works, or until it does not.
async fn becomes(bus: &RedisBus, well: bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while bus.check().await.is_ok() != well {
        assert!(Instant::now() < give_up, "it never turns {well}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_speaks_tls_on_all_its_connections() {
    let safe = Safe::start();
    let bus = bus(safe.commands("127.0.0.1"));
    works(&bus).await;
    // Nobody has come without: the only plain connection is the one that asks.
    let clients: String = safe.redis.ask(&["CLIENT", "LIST"]).await;
    let plain = format!("laddr=127.0.0.1:{}", safe.redis.port());
    let secure = format!("laddr=127.0.0.1:{}", safe.port);
    assert_eq!(clients.matches(&plain).count(), 1, "{clients}");
    assert!(clients.matches(&secure).count() >= 2, "{clients}");
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_under_a_running_node() {
    let mut safe = Safe::start();
    let bus = bus(safe.commands("127.0.0.1"));
    works(&bus).await;
    // Redis gets another authority's. The node has not heard of it yet.
    let next = Authority::new("the next authority");
    let files = &safe._files.folder;
    let pair = next.vouch_for(&["127.0.0.1"]);
    files.write("ca.pem", &next.pem);
    files.write("server.pem", &pair.certificate);
    files.write("server-key.pem", &pair.key);
    safe.redis.restart();
    becomes(&bus, false).await;
    safe.give(&next, &next);
    works(&bus).await;
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_the_certificate_does_not_bear_is_refused() {
    let safe = Safe::start();
    // The same server by another name of this machine's.
    let bus: Arc<dyn Bus> = Arc::new(bus(safe.commands("[::ffff:127.0.0.1]")));
    let room = Room::User(UserId::new(1));
    assert!(bus.subscribe(&[room]).await.is_err());
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_says_what_is_wrong_waits_and_heals() {
    let safe = Safe::start();
    let stranger = Authority::new("a stranger");
    safe.give(&stranger, &safe.authority);
    let node = Node::start(&safe.settings());
    node.wants("bus", "UnknownIssuer").await;
    safe.give(&safe.authority, &safe.authority);
    node.is_ready().await;

    // What Redis does not take of the node's.
    safe.give(&safe.authority, &stranger);
    let node = Node::start(&safe.settings());
    node.wants("bus", "the subscription link is down").await;
    safe.give(&safe.authority, &safe.authority);
    node.is_ready().await;
}

#[tokio::test]
async fn a_file_that_is_none_stops_the_node_and_is_named() {
    let safe = Safe::start();
    for (place, setting) in [
        (1, "REDIS_CA_FILE"),
        (2, "REDIS_CERT_FILE"),
        (3, "REDIS_KEY_FILE"),
    ] {
        let mut settings = safe.settings();
        settings[place].1 = "/nowhere/file.pem".to_owned();
        let mut node = Node::start(&settings);
        assert_ne!(node.end().await, Some(0));
        let log = node.log();
        assert!(
            log.contains(setting) && log.contains("/nowhere/file.pem"),
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_comes_to_redis_as_a_node_does() {
    let safe = Safe::start();
    let (_, said) = doctor(&safe.settings());
    assert!(said.contains("\nok    redis     version"), "{said}");
    assert!(said.contains("\nok    scripts"), "{said}");
    // And says what a node would say.
    safe.give(&Authority::new("a stranger"), &safe.authority);
    let (is_well, said) = doctor(&safe.settings());
    assert!(said.contains("\nfail  redis"), "{said}");
    assert!(said.contains("UnknownIssuer"), "{said}");
    assert!(!is_well);
    let mut settings = safe.settings();
    settings[1].1 = "/nowhere/file.pem".to_owned();
    let (_, said) = doctor(&settings);
    assert!(said.contains("\nfail  redis     REDIS_CA_FILE: "), "{said}");
}
