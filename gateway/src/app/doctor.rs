//! `gateway doctor`: looks at all that a node depends on, and says of each thing whether it is as it should be, and how to mend
//! it where it is not. It changes nothing, and shows no secret.

use std::fmt::{self, Write as _};
use std::time::Duration;

use chrono::Utc;
use redis::IntoConnectionInfo as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::node::tls_files;
use super::open_store;
use crate::config::{AppEnv, Config, MIN_SECRET_BYTES, RedisConfig};
use crate::store::{Inspection, MySqlSettings};

/// How far clocks may be apart, milliseconds: an access token that another node signed has no leeway.
const CLOCK_MS: i64 = 1_000;

/// Nodes that a database should have connections for at the least: two, and one that replaces another.
const NODES: i64 = 3;

/// The longest statement that a node sends, bytes, with room.
const PACKET: i64 = 1 << 20;

/// The oldest Redis that has all that is asked of it.
const REDIS_VERSION: u32 = 6;

/// Open files that a node should have at the least: some thousand sockets.
const FILES: u64 = 8_192;

/// Connections that may wait to be taken in, at the least: after a node's end many come at once.
const BACKLOG: u64 = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    Warn,
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// What was found, a line each.
#[derive(Default)]
struct Report(Vec<(Level, &'static str, String)>);

impl Report {
    fn ok(&mut self, what: &'static str, said: impl Into<String>) {
        self.0.push((Level::Ok, what, said.into()));
    }

    fn warn(&mut self, what: &'static str, said: impl Into<String>) {
        self.0.push((Level::Warn, what, said.into()));
    }

    fn fail(&mut self, what: &'static str, said: impl Into<String>) {
        self.0.push((Level::Fail, what, said.into()));
    }
}

/// The report, and whether nothing in it is a failure.
pub async fn doctor(config: &Config) -> (String, bool) {
    let mut report = Report::default();
    settings(&mut report, config);
    database(&mut report, config).await;
    match &config.redis {
        Some(redis) => ask_redis(&mut report, redis).await,
        None if config.env == AppEnv::Production => {
            report.warn("redis", "REDIS_URL is not set: only one node may run");
        }
        None => report.ok("redis", "not set: one node"),
    }
    metrics(&mut report, config).await;
    machine(&mut report);
    let mut text = String::new();
    for (level, what, said) in &report.0 {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{level:<4}  {what:<9} {said}");
    }
    let is_well = !report.0.iter().any(|(level, ..)| *level == Level::Fail);
    text.push_str(if is_well {
        "nothing stands in the way"
    } else {
        "something stands in the way"
    });
    (text, is_well)
}

/// They were read, or the program would not be here; what is short is told.
fn settings(report: &mut Report, config: &Config) {
    report.ok("settings", "all of them can be read");
    let auth = &config.auth;
    let mut secrets = auth.secret.iter().chain(&auth.previous_secrets);
    if secrets.any(|secret| secret.expose().len() < MIN_SECRET_BYTES) {
        report.warn(
            "secrets",
            format!(
                "one has fewer than {MIN_SECRET_BYTES} bytes: make one by openssl rand -base64 48"
            ),
        );
    } else {
        report.ok("secrets", "long enough");
    }
}

async fn database(report: &mut Report, config: &Config) {
    let store = match open_store(config) {
        Ok(store) => store,
        Err(error) => return report.fail("database", format!("DATABASE_URL {error}")),
    };
    match store.inspect().await {
        Ok(found) => {
            inspected(report, &found, i64::from(config.database.pool_size));
            match store.check().await {
                Ok(state) => match state.obstacle() {
                    None => report.ok("schema", "this version's"),
                    Some(obstacle) => report.fail("schema", obstacle),
                },
                Err(error) => report.fail("schema", error.to_string()),
            }
        }
        Err(error) => report.fail(
            "database",
            format!("{error}: is it up, is DATABASE_URL right, may this account connect?"),
        ),
    }
    store.close().await;
}

fn inspected(report: &mut Report, found: &Inspection, pool: i64) {
    let took = found.took.as_millis();
    match &found.mysql {
        Some(mysql) => mysql_settings(report, mysql, pool, took),
        None => report.ok("database", format!("SQLite, answers in {took} ms")),
    }
    clock(report, "the database's", found.ahead_ms);
}

fn mysql_settings(report: &mut Report, mysql: &MySqlSettings, pool: i64, took: u128) {
    report.ok(
        "database",
        format!("{}, answers in {took} ms", mysql.version),
    );
    if mysql.read_only {
        report.fail(
            "database",
            "read_only is on: it is a replica; DATABASE_URL must lead to the primary",
        );
    }
    if mysql.flush_at_commit == 1 {
        report.ok("commits", "on the disk before they are acknowledged");
    } else {
        report.warn(
            "commits",
            "a power cut loses acknowledged messages: SET GLOBAL innodb_flush_log_at_trx_commit = 1",
        );
    }
    let needed = pool * NODES;
    if mysql.max_connections < needed {
        report.warn(
            "pool",
            format!(
                "max_connections is {}, {NODES} nodes may want {needed}: raise it, or lower DATABASE_POOL_SIZE",
                mysql.max_connections
            ),
        );
    } else {
        report.ok(
            "pool",
            format!("max_connections is {}", mysql.max_connections),
        );
    }
    if mysql.max_packet < PACKET {
        report.fail(
            "packets",
            format!(
                "max_allowed_packet is {}: raise it to {PACKET} or more",
                mysql.max_packet
            ),
        );
    }
}

fn clock(report: &mut Report, whose: &str, ahead_ms: i64) {
    if ahead_ms.abs() <= CLOCK_MS {
        report.ok("clock", format!("{whose} differs by {ahead_ms} ms"));
    } else {
        report.warn(
            "clock",
            format!("{whose} differs from this machine's by {ahead_ms} ms: keep both by NTP"),
        );
    }
}

async fn ask_redis(report: &mut Report, redis: &RedisConfig) {
    let tls = match tls_files(redis) {
        Ok(tls) => tls,
        Err(error) => return report.fail("redis", error.to_string()),
    };
    let questions = async {
        // As a node comes to it: with its certificates, and without a word that its user need not have the right to.
        let address = redis.url.expose().into_connection_info()?;
        let settings = address.redis_settings().clone().set_skip_set_lib_name();
        let client = tls.client(address.set_redis_settings(settings))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut connection).await?;
        let script = redis::Script::new("return 1");
        let script: redis::RedisResult<i64> = script.invoke_async(&mut connection).await;
        Ok::<_, redis::RedisError>((info, seconds * 1000 + micros / 1000, script))
    };
    let (info, now_ms, script) = match timeout(redis.timeout * 3, questions).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(error)) => {
            let why = match error.kind() {
                // Of the connection alone, and with what is wrong with a certificate.
                redis::ErrorKind::Io => error.to_string(),
                // Another's text may repeat what was sent; the kind does not.
                kind => format!("{kind:?}"),
            };
            return report.fail(
                "redis",
                format!("{why}: is it up, is REDIS_URL right, may this user connect?"),
            );
        }
        Err(_) => return report.fail("redis", "it does not answer: is it up, is REDIS_URL right?"),
    };
    redis_settings(report, &info);
    clock(report, "Redis'", now_ms - Utc::now().timestamp_millis());
    match script {
        Ok(_) => report.ok("scripts", "may be run"),
        Err(_) => report.fail(
            "scripts",
            "may not be run: allow its user +evalsha +script|load",
        ),
    }
}

fn redis_settings(report: &mut Report, info: &str) {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_default()
            .trim()
    };
    let version = field("redis_version");
    let major: Option<u32> = version.split('.').next().and_then(|text| text.parse().ok());
    if major.is_some_and(|major| major >= REDIS_VERSION) {
        report.ok("redis", format!("version {version}"));
    } else {
        report.fail(
            "redis",
            format!("version {version}: it must be {REDIS_VERSION} or later"),
        );
    }
    if field("role") == "slave" {
        report.fail(
            "redis",
            "it is a replica: REDIS_URL must lead to the primary",
        );
    }
    let policy = field("maxmemory_policy");
    if field("maxmemory") == "0" || policy == "noeviction" {
        report.ok("eviction", "keeps what it is given");
    } else {
        report.warn(
            "eviction",
            format!(
                "{policy} may drop what clients resume from: CONFIG SET maxmemory-policy noeviction"
            ),
        );
    }
}

async fn metrics(report: &mut Report, config: &Config) {
    let Some(address) = config.metrics_addr else {
        return report.warn(
            "metrics",
            "METRICS_ADDR is empty: nobody sees how the node does",
        );
    };
    if config.env == AppEnv::Production && address.ip().is_loopback() {
        report.warn(
            "metrics",
            format!("{address} is this machine's alone: Prometheus elsewhere needs METRICS_ADDR=0.0.0.0:{}", address.port()),
        );
    }
    let near = if address.ip().is_unspecified() {
        (std::net::Ipv4Addr::LOCALHOST.into(), address.port())
    } else {
        (address.ip(), address.port())
    };
    match timeout(Duration::from_secs(2), TcpStream::connect(near)).await {
        Ok(Ok(_)) => report.ok(
            "metrics",
            format!("somebody listens on port {}", address.port()),
        ),
        _ => report.ok("metrics", "no node runs here just now"),
    }
}

/// Of Linux. What can't be read is not judged.
fn machine(report: &mut Report) {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let limits = read("/proc/self/limits");
    match open_files(&limits) {
        Some(files) if files < FILES => report.warn(
            "files",
            format!("this process may open {files}: a socket is one; raise it to {FILES} or more (ulimit -n, LimitNOFILE)"),
        ),
        Some(files) => report.ok("files", format!("{files} may be open")),
        None => {}
    }
    if let Ok(backlog) = read("/proc/sys/net/core/somaxconn").trim().parse::<u64>() {
        if backlog < BACKLOG {
            report.warn(
                "backlog",
                format!("net.core.somaxconn is {backlog}: raise it to {BACKLOG} or more"),
            );
        } else {
            report.ok("backlog", format!("net.core.somaxconn is {backlog}"));
        }
    }
}

/// The soft limit.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(report: &Report) -> Vec<(Level, &'static str)> {
        report
            .0
            .iter()
            .map(|(level, what, _)| (*level, *what))
            .collect()
    }

    #[test]
    fn a_server_that_may_lose_commits_or_refuse_nodes_is_told() {
        let good = MySqlSettings {
            version: "10.11".to_owned(),
            flush_at_commit: 1,
            max_connections: 151,
            max_packet: 16 << 20,
            read_only: false,
        };
        let judged = |mysql: &MySqlSettings| {
            let mut report = Report::default();
            mysql_settings(&mut report, mysql, 16, 1);
            levels(&report)
        };
        assert!(judged(&good).iter().all(|(level, _)| *level == Level::Ok));
        let bad = MySqlSettings {
            flush_at_commit: 2,
            max_connections: 40,
            max_packet: 1 << 16,
            read_only: true,
            ..good
        };
        for wrong in [
            (Level::Fail, "database"),
            (Level::Warn, "commits"),
            (Level::Warn, "pool"),
            (Level::Fail, "packets"),
        ] {
            assert!(judged(&bad).contains(&wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_redis_that_is_old_follows_or_evicts_is_told() {
        let mut report = Report::default();
        redis_settings(
            &mut report,
            "redis_version:5.0.7\r\nrole:slave\r\nmaxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\n",
        );
        let found = levels(&report);
        assert_eq!(
            found,
            [
                (Level::Fail, "redis"),
                (Level::Fail, "redis"),
                (Level::Warn, "eviction")
            ]
        );
    }

    #[test]
    fn a_clock_that_is_apart_is_told_either_way() {
        for (ahead, level) in [
            (0, Level::Ok),
            (CLOCK_MS, Level::Ok),
            (-CLOCK_MS, Level::Ok),
            (CLOCK_MS + 1, Level::Warn),
            (-CLOCK_MS - 1, Level::Warn),
        ] {
            let mut report = Report::default();
            clock(&mut report, "its", ahead);
            assert_eq!(levels(&report), [(level, "clock")], "{ahead}");
        }
    }

    #[test]
    fn the_limit_of_open_files_is_found() {
        let limits =
            "Max cpu time   unlimited  unlimited  seconds\nMax open files   1024   4096   files\n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files(""), None);
    }
}
