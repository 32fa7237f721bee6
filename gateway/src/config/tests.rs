//! The settings, tested with maps.

use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn config(pairs: &[(&str, &str)]) -> Config {
    Config::from_map(&map(pairs)).unwrap()
}

fn complaint(pairs: &[(&str, &str)]) -> String {
    Config::from_map(&map(pairs)).unwrap_err().to_string()
}

const LONG: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn nothing_set_is_a_good_development_node() {
    let config = config(&[]);
    assert_eq!(config.env, AppEnv::Development);
    assert_eq!((config.host.as_str(), config.port), ("0.0.0.0", 5000));
    assert_eq!(config.metrics_addr, "127.0.0.1:9464".parse().ok());
    assert_eq!(config.database.url.expose(), "sqlite://data/chat.db");
    assert_eq!(config.data_directory(), Path::new("data"));
    assert!(config.database.auto_migrate);
    assert!(config.database.replica_url.is_none());
    assert!(config.redis.is_none());
    assert!(config.auth.secret.is_none());
    assert_eq!(config.origins, Origins::Any);
    assert!(config.trusted_proxies.is_empty());
    assert_eq!(config.log_format, LogFormat::Pretty);
    assert_eq!(config.log_filter, "info");
    assert_eq!(config.ping_interval, Duration::from_secs(25));
    assert_eq!(config.ping_timeout, Duration::from_secs(20));
    assert_eq!(config.drain, Duration::from_secs(30));
    assert_eq!(
        config.limits,
        Limits {
            logins_per_minute: 10,
            requests_per_second: 50,
            events_per_second: 50,
            connects_per_second: 0,
        }
    );
}

#[test]
fn every_variable_of_the_table_is_read() {
    let values = map(&[]);
    let mut reader = Reader::new(&values);
    read(&mut reader);
    let table: std::collections::BTreeSet<_> = SETTINGS.iter().map(|s| s.name).collect();
    assert_eq!(reader.read, table);
}

#[test]
fn every_variable_changes_the_configuration() {
    let unset = format!("{:?}", config(&[]));
    for (name, value) in [
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
        ("METRICS_ADDR", ""),
        ("DATABASE_REPLICA_URL", "mysql://r/chat"),
        ("DATABASE_REPLICA_LAG_MS", "0"),
        ("DATABASE_POOL_SIZE", "3"),
        ("DATABASE_TIMEOUT_MS", "700"),
        ("AUTO_MIGRATE", "false"),
        ("REDIS_URL", "redis://localhost"),
        ("REDIS_CA_FILE", "/tls/ca.pem"),
        ("REDIS_CERT_FILE", "/tls/tls.pem"),
        ("REDIS_KEY_FILE", "/tls/key.pem"),
        ("REDIS_POOL_SIZE", "3"),
        ("REDIS_TIMEOUT_MS", "700"),
        ("JWT_SECRET", "short but mine"),
        ("JWT_PREVIOUS_SECRETS", "one,two"),
        ("REFRESH_TOKEN_DAYS", "7"),
        ("CORS_ORIGINS", "https://app.example.com"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, 192.168.1.1"),
        ("LOG_FORMAT", "json"),
        ("RUST_LOG", "debug"),
        ("PING_INTERVAL_MS", "300"),
        ("PING_TIMEOUT_MS", "200"),
        ("DRAIN_SECONDS", "1"),
        ("OUTBOX_BYTES", "100000"),
        ("RATE_LIMIT_LOGINS_PER_MINUTE", "0"),
        ("RATE_LIMIT_REQUESTS_PER_SECOND", "0"),
        ("RATE_LIMIT_EVENTS_PER_SECOND", "0"),
        ("RATE_LIMIT_CONNECTS_PER_SECOND", "100"),
    ] {
        let companions = match name {
            "DATABASE_REPLICA_URL" => vec![("DATABASE_URL", "mysql://p/chat")],
            "REDIS_CA_FILE" => vec![("REDIS_URL", "rediss://localhost")],
            "REDIS_CERT_FILE" | "REDIS_KEY_FILE" => vec![
                ("REDIS_URL", "rediss://localhost"),
                ("REDIS_CERT_FILE", "/tls/old.pem"),
                ("REDIS_KEY_FILE", "/tls/old-key.pem"),
            ],
            "REDIS_POOL_SIZE" | "REDIS_TIMEOUT_MS" => vec![("REDIS_URL", "redis://localhost")],
            _ => Vec::new(),
        };
        let before = format!("{:?}", config(&companions));
        let after = format!("{:?}", config(&[companions, vec![(name, value)]].concat()));
        assert_ne!(before, after, "{name}");
    }
    for (name, value) in [
        ("DATABASE_URL", "sqlite:///tmp/other.db"),
        ("APP_ENV", "production"),
    ] {
        let changed = config(&[(name, value), ("JWT_SECRET", LONG)]);
        assert!(
            changed.database.url.expose() != "sqlite://data/chat.db"
                || format!("{changed:?}") != unset,
            "{name}"
        );
    }
}

#[test]
fn an_empty_variable_is_as_good_as_none_but_for_metrics() {
    let config = config(&[
        ("PORT", ""),
        ("REDIS_URL", " "),
        ("JWT_SECRET", ""),
        ("METRICS_ADDR", ""),
    ]);
    assert_eq!(config.port, 5000);
    assert!(config.redis.is_none());
    assert!(config.auth.secret.is_none());
    assert_eq!(config.metrics_addr, None);
}

#[test]
fn every_wrong_setting_is_named_at_once() {
    let wrong = [
        ("APP_ENV", "staging"),
        ("HOST", "no host"),
        ("PORT", "65536"),
        ("METRICS_ADDR", "9464"),
        ("DATABASE_URL", "postgres://x/y"),
        ("DATABASE_REPLICA_URL", "sqlite://x"),
        ("DATABASE_POOL_SIZE", "0"),
        ("DATABASE_TIMEOUT_MS", "-1"),
        ("AUTO_MIGRATE", "perhaps"),
        ("REDIS_URL", "http://x"),
        ("REDIS_POOL_SIZE", "many"),
        ("REDIS_TIMEOUT_MS", "1.5"),
        ("REFRESH_TOKEN_DAYS", "0"),
        ("CORS_ORIGINS", "app.example.com"),
        ("TRUSTED_PROXIES", "10.0.0.0/33"),
        ("LOG_FORMAT", "xml"),
        ("RUST_LOG", "gateway=loud"),
        ("PING_INTERVAL_MS", "0"),
        ("PING_TIMEOUT_MS", "soon"),
        ("DRAIN_SECONDS", "30s"),
        ("OUTBOX_BYTES", "1"),
        ("RATE_LIMIT_LOGINS_PER_MINUTE", "-1"),
        ("RATE_LIMIT_REQUESTS_PER_SECOND", "x"),
        ("RATE_LIMIT_EVENTS_PER_SECOND", "x"),
        ("RATE_LIMIT_CONNECTS_PER_SECOND", "4294967296"),
    ];
    let error = Config::from_map(&map(&wrong)).unwrap_err();
    let named: Vec<_> = error.names().collect();
    for (name, _) in wrong {
        assert!(named.contains(&name), "{name} is not named: {error}");
    }
    assert!(
        error
            .to_string()
            .contains("PORT must be a whole number from 0 to 65535, not \"65536\"")
    );
}

#[test]
fn production_is_strict() {
    for secret in [None, Some("too short")] {
        let mut pairs = vec![("APP_ENV", "production")];
        pairs.extend(secret.map(|secret| ("JWT_SECRET", secret)));
        let complaint = complaint(&pairs);
        assert!(complaint.contains("JWT_SECRET must be set in production"));
        assert!(!complaint.contains("too short"));
    }
    let config = config(&[("APP_ENV", "production"), ("JWT_SECRET", LONG)]);
    assert_eq!(config.origins, Origins::These(Vec::new()));
    assert_eq!(config.log_format, LogFormat::Json);
    assert!(
        complaint(&[
            ("APP_ENV", "production"),
            ("JWT_SECRET", LONG),
            ("CORS_ORIGINS", "*")
        ])
        .contains("CORS_ORIGINS")
    );
}

#[test]
fn secrets_are_never_shown() {
    let pairs = [
        ("DATABASE_URL", "mysql://root:hunter2@db/chat"),
        ("DATABASE_REPLICA_URL", "mysql://root:hunter2@db2/chat"),
        ("REDIS_URL", "redis://:hunter2@cache"),
        ("JWT_SECRET", "hunter2"),
        ("JWT_PREVIOUS_SECRETS", "hunter2, hunter2"),
    ];
    assert!(!format!("{:?}", config(&pairs)).contains("hunter2"));
    let wrong = complaint(&[
        ("DATABASE_URL", "mysql:/root:hunter2@db"),
        ("REDIS_URL", "redis:/:hunter2@cache"),
    ]);
    assert!(!wrong.contains("hunter2"), "{wrong}");
}

#[test]
fn a_replica_belongs_to_mysql() {
    assert!(
        complaint(&[("DATABASE_REPLICA_URL", "mysql://r/chat")]).contains("DATABASE_REPLICA_URL")
    );
}

#[test]
fn mysql_goes_by_two_names() {
    for (url, is_mysql) in [
        ("mysql://db/chat", true),
        ("mariadb://db/chat", true),
        ("sqlite://data/chat.db", false),
    ] {
        let config = config(&[("DATABASE_URL", url)]);
        assert_eq!(config.database.is_mysql(), is_mysql, "{url}");
    }
}

#[test]
fn files_stay_beside_the_database() {
    for (url, directory) in [
        ("sqlite://data/chat.db", "data"),
        ("sqlite:///var/lib/chat/chat.db?mode=rwc", "/var/lib/chat"),
        ("sqlite:chat.db", ""),
        ("sqlite::memory:", "data"),
        ("sqlite://:memory:", "data"),
        ("sqlite://x/y?mode=memory", "data"),
        ("mysql://db/chat", "data"),
    ] {
        assert_eq!(
            config(&[("DATABASE_URL", url)]).data_directory(),
            Path::new(directory),
            "{url}"
        );
    }
}

#[test]
fn the_local_address_is_one_that_can_be_called() {
    let local = |host| config(&[("HOST", host), ("PORT", "7")]).local_address();
    assert_eq!(local("0.0.0.0"), ("127.0.0.1".to_owned(), 7));
    assert_eq!(local("[::]"), ("::1".to_owned(), 7));
    assert_eq!(local("10.1.2.3"), ("10.1.2.3".to_owned(), 7));
    assert_eq!(local("localhost"), ("localhost".to_owned(), 7));
}

#[test]
fn a_log_directive_of_any_form_is_read_at_once() {
    let started = std::time::Instant::now();
    let filter = format!("info,[span{{field=a{}}}]=debug", ".".repeat(300));
    assert_eq!(config(&[("RUST_LOG", &filter)]).log_filter, filter);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn brackets_hold_an_ipv6_address() {
    for good in ["[::1]", "::1", "127.0.0.1", "localhost", "chat_1.example"] {
        config(&[("HOST", good)]);
    }
    for bad in ["[]", "[localhost]", "[127.0.0.1]", "[::1", "::1]"] {
        assert!(complaint(&[("HOST", bad)]).contains("HOST"), "{bad}");
    }
}

#[test]
fn certificates_are_for_rediss_and_come_in_pairs() {
    let told = complaint(&[("REDIS_URL", "redis://r"), ("REDIS_CA_FILE", "/ca.pem")]);
    assert!(
        told.contains("REDIS_CA_FILE needs a REDIS_URL that is rediss://"),
        "{told}"
    );
    let told = complaint(&[("REDIS_URL", "rediss://r"), ("REDIS_CERT_FILE", "/c.pem")]);
    assert!(
        told.contains("REDIS_KEY_FILE must be set with REDIS_CERT_FILE"),
        "{told}"
    );
    let told = complaint(&[("REDIS_URL", "rediss://r"), ("REDIS_KEY_FILE", "/k.pem")]);
    assert!(
        told.contains("REDIS_CERT_FILE must be set with REDIS_KEY_FILE"),
        "{told}"
    );
}
