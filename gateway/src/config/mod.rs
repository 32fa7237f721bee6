//! Configuration: a pure function from a map of strings to `Config`. Nothing here opens, binds or connects; the one thing
//! that touches the disk, development mode's own secret, is in `secret` and is asked for by name.

mod origins;
mod reader;
mod secret;
mod settings;
mod tracing;

pub use origins::Origins;
pub use reader::ConfigError;
pub use secret::{MIN_SECRET_BYTES, Secret, write_private};
pub use settings::{Default as SettingDefault, SETTINGS, Setting, help};
pub use tracing::{Sampler, TracingConfig};

use std::collections::BTreeMap;
use std::env::VarError;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use reader::{Reader, list, number};

/// The status that a process ends with when its settings are wrong.
pub const EXIT_CONFIG: u8 = 2;

/// Where the files of a node without an SQLite file go.
const DATA_DIRECTORY: &str = "data";

/// Whether this is somebody's own machine or the real thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppEnv {
    /// Convenient: makes its own secret, lets any origin in, shows an error's details.
    Development,
    /// Strict.
    Production,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Every setting, read and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `APP_ENV`.
    pub env: AppEnv,
    /// `HOST`: an address or a name.
    pub host: String,
    /// `PORT`; 0 takes a free one.
    pub port: u16,
    /// `METRICS_ADDR`; `None`: no metrics.
    pub metrics_addr: Option<SocketAddr>,
    /// The `DATABASE_` settings.
    pub database: DatabaseConfig,
    /// The `REDIS_` settings; `None`: one node, in-process fan-out.
    pub redis: Option<RedisConfig>,
    /// The settings of signing in.
    pub auth: AuthConfig,
    /// `CORS_ORIGINS`.
    pub origins: Origins,
    /// `TRUSTED_PROXIES`.
    pub trusted_proxies: Vec<IpNet>,
    /// `LOG_FORMAT`.
    pub log_format: LogFormat,
    /// `RUST_LOG`: directives that have been checked.
    pub log_filter: String,
    /// The `OTEL_` settings; `None`: no traces.
    pub tracing: Option<TracingConfig>,
    /// `PING_INTERVAL_MS`.
    pub ping_interval: Duration,
    /// `PING_TIMEOUT_MS`.
    pub ping_timeout: Duration,
    /// `DRAIN_SECONDS`.
    pub drain: Duration,
    /// `OUTBOX_BYTES`.
    pub outbox_bytes: usize,
    /// `MAX_REQUESTS_IN_FLIGHT`.
    pub requests_in_flight: usize,
    /// The `RATE_LIMIT_` settings.
    pub limits: Limits,
}

/// How to reach the database.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// `DATABASE_URL`.
    pub url: Secret,
    /// `DATABASE_REPLICA_URL`.
    pub replica_url: Option<Secret>,
    /// `DATABASE_REPLICA_LAG_MS`; zero: nothing is read from it.
    pub replica_lag: Duration,
    /// `DATABASE_POOL_SIZE`.
    pub pool_size: u32,
    /// `DATABASE_TIMEOUT_MS`: bounds the wait for a connection, and every statement.
    pub timeout: Duration,
    /// `AUTO_MIGRATE`.
    pub auto_migrate: bool,
}

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `REDIS_URL`.
    pub url: Secret,
    /// `REDIS_CA_FILE`.
    pub ca_file: Option<PathBuf>,
    /// `REDIS_CERT_FILE` and `REDIS_KEY_FILE`.
    pub client_files: Option<(PathBuf, PathBuf)>,
    /// `REDIS_POOL_SIZE`.
    pub pool_size: usize,
    /// `REDIS_TIMEOUT_MS`: bounds every call.
    pub timeout: Duration,
}

/// Signing in.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// `JWT_SECRET`; `None` in development only: see `Config::jwt_secret`.
    pub secret: Option<Secret>,
    /// `JWT_PREVIOUS_SECRETS`.
    pub previous_secrets: Vec<Secret>,
    /// `REFRESH_TOKEN_DAYS`.
    pub refresh_life: Duration,
}

/// What is too often. 0 turns a limit off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `RATE_LIMIT_LOGINS_PER_MINUTE`.
    pub logins_per_minute: u32,
    /// `RATE_LIMIT_REQUESTS_PER_SECOND`.
    pub requests_per_second: u32,
    /// `RATE_LIMIT_EVENTS_PER_SECOND`.
    pub events_per_second: u32,
    /// `RATE_LIMIT_CONNECTS_PER_SECOND`.
    pub connects_per_second: u32,
}

impl DatabaseConfig {
    /// Whether it is MySQL (or MariaDB); else it is the embedded SQLite.
    pub fn is_mysql(&self) -> bool {
        is_mysql(self.url.expose())
    }
}

impl Config {
    /// Reads the environment of this process.
    pub fn from_env() -> Result<Self, ConfigError> {
        let mut values = BTreeMap::new();
        let mut unreadable = Vec::new();
        for setting in SETTINGS {
            match std::env::var(setting.name) {
                Ok(value) => {
                    values.insert(setting.name.to_owned(), value);
                }
                Err(VarError::NotPresent) => {}
                Err(VarError::NotUnicode(_)) => {
                    unreadable.push((setting.name, "must be Unicode".to_owned()));
                }
            }
        }
        if !unreadable.is_empty() {
            return Err(ConfigError::new(unreadable));
        }
        Self::from_map(&values)
    }

    /// Reads settings from a map. Keys that are no setting are not looked at. The error tells all that is wrong.
    pub fn from_map(values: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(values);
        let config = read(&mut reader);
        reader.finish(config)
    }

    /// The secret that signs tokens: the one that was set, or development mode's own, which is made at the first call
    /// and kept beside the SQLite file. Fails where that file can't be read or made.
    pub fn jwt_secret(&self) -> std::io::Result<Secret> {
        match &self.auth.secret {
            Some(secret) => Ok(secret.clone()),
            None => secret::kept_in(&self.data_directory()),
        }
    }

    /// Where this node keeps files: beside the SQLite file, or `data`.
    pub fn data_directory(&self) -> PathBuf {
        sqlite_path(self.database.url.expose())
            .and_then(|path| path.parent().map(Path::to_path_buf))
            .unwrap_or_else(|| PathBuf::from(DATA_DIRECTORY))
    }

    /// Where a client on this machine finds the node.
    pub fn local_address(&self) -> (String, u16) {
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) if address.is_unspecified() => "127.0.0.1".to_owned(),
            Ok(IpAddr::V6(address)) if address.is_unspecified() => "::1".to_owned(),
            _ => self.host.clone(),
        };
        (host, self.port)
    }
}

fn read(reader: &mut Reader<'_>) -> Config {
    let env = reader.get(settings::APP_ENV, app_env);
    Config {
        env,
        host: reader.get(settings::HOST, host),
        port: reader.get(settings::PORT, number(0, u16::MAX)),
        metrics_addr: reader.get(settings::METRICS_ADDR, optional_address),
        database: read_database(reader),
        redis: read_redis(reader),
        auth: read_auth(reader, env),
        origins: read_origins(reader, env),
        trusted_proxies: reader
            .find(settings::TRUSTED_PROXIES, list(network))
            .unwrap_or_default(),
        log_format: reader
            .find(settings::LOG_FORMAT, log_format)
            .unwrap_or(match env {
                AppEnv::Development => LogFormat::Pretty,
                AppEnv::Production => LogFormat::Json,
            }),
        log_filter: reader.get(settings::RUST_LOG, log_filter),
        tracing: tracing::read(reader),
        // Below 100 ms a heartbeat is a flood; a day is beyond what any proxy between would wait.
        ping_interval: reader.get(settings::PING_INTERVAL_MS, millis(100, 86_400_000)),
        ping_timeout: reader.get(settings::PING_TIMEOUT_MS, millis(100, 86_400_000)),
        drain: Duration::from_secs(reader.get(settings::DRAIN_SECONDS, number(0, 3600))),
        // Less than one greatest message with its frame would close a socket for a single event.
        outbox_bytes: reader.get(settings::OUTBOX_BYTES, number(65_536, 1 << 30)),
        // Beyond a hundred thousand it is no bound any more.
        requests_in_flight: reader.get(settings::MAX_REQUESTS_IN_FLIGHT, number(1, 100_000)),
        limits: Limits {
            logins_per_minute: reader.get(settings::RATE_LIMIT_LOGINS_PER_MINUTE, limit),
            requests_per_second: reader.get(settings::RATE_LIMIT_REQUESTS_PER_SECOND, limit),
            events_per_second: reader.get(settings::RATE_LIMIT_EVENTS_PER_SECOND, limit),
            connects_per_second: reader.get(settings::RATE_LIMIT_CONNECTS_PER_SECOND, limit),
        },
    }
}

fn read_database(reader: &mut Reader<'_>) -> DatabaseConfig {
    let url = reader.get(settings::DATABASE_URL, database_url);
    let replica_url = reader.find(settings::DATABASE_REPLICA_URL, mysql_url);
    if replica_url.is_some() && !is_mysql(url.expose()) {
        reader.complain(
            settings::DATABASE_REPLICA_URL,
            "needs a DATABASE_URL that is mysql:// too",
        );
    }
    DatabaseConfig {
        url,
        replica_url,
        replica_lag: reader.get(settings::DATABASE_REPLICA_LAG_MS, millis(0, 600_000)),
        pool_size: reader.get(settings::DATABASE_POOL_SIZE, number(1, 1000)),
        timeout: reader.get(settings::DATABASE_TIMEOUT_MS, millis(10, 600_000)),
        auto_migrate: reader.get(settings::AUTO_MIGRATE, flag),
    }
}

fn read_redis(reader: &mut Reader<'_>) -> Option<RedisConfig> {
    let url = reader.find(settings::REDIS_URL, redis_url);
    let ca_file = reader.find(settings::REDIS_CA_FILE, path);
    let certificate = reader.find(settings::REDIS_CERT_FILE, path);
    let key = reader.find(settings::REDIS_KEY_FILE, path);
    if !url
        .as_ref()
        .is_some_and(|url| url.expose().starts_with("rediss://"))
    {
        for (setting, file) in [
            (settings::REDIS_CA_FILE, &ca_file),
            (settings::REDIS_CERT_FILE, &certificate),
            (settings::REDIS_KEY_FILE, &key),
        ] {
            if file.is_some() {
                reader.complain(setting, "needs a REDIS_URL that is rediss://");
            }
        }
    }
    match (&certificate, &key) {
        (Some(_), None) => {
            reader.complain(settings::REDIS_KEY_FILE, "must be set with REDIS_CERT_FILE")
        }
        (None, Some(_)) => {
            reader.complain(settings::REDIS_CERT_FILE, "must be set with REDIS_KEY_FILE")
        }
        _ => {}
    }
    let pool_size = reader.get(settings::REDIS_POOL_SIZE, number(1, 1000));
    let timeout = reader.get(settings::REDIS_TIMEOUT_MS, millis(10, 600_000));
    url.map(|url| RedisConfig {
        url,
        ca_file,
        client_files: certificate.zip(key),
        pool_size,
        timeout,
    })
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "as all that read a value; whether the file is there is not looked at here"
)]
fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

fn read_auth(reader: &mut Reader<'_>, env: AppEnv) -> AuthConfig {
    let secret = reader.find(settings::JWT_SECRET, |text| Ok(Secret::new(text)));
    let long_enough = secret
        .as_ref()
        .is_some_and(|secret| secret.expose().len() >= MIN_SECRET_BYTES);
    if env == AppEnv::Production && !long_enough {
        reader.complain(
            settings::JWT_SECRET,
            format!("must be set in production, to at least {MIN_SECRET_BYTES} bytes"),
        );
    }
    let days: u64 = reader.get(settings::REFRESH_TOKEN_DAYS, number(1, 3650));
    AuthConfig {
        secret,
        previous_secrets: reader
            .find(
                settings::JWT_PREVIOUS_SECRETS,
                list(|text| Ok(Secret::new(text))),
            )
            .unwrap_or_default(),
        refresh_life: Duration::from_secs(days * 24 * 60 * 60),
    }
}

fn read_origins(reader: &mut Reader<'_>, env: AppEnv) -> Origins {
    let set = reader.find(settings::CORS_ORIGINS, |text| match (text, env) {
        ("*", AppEnv::Development) => Ok(Origins::Any),
        // With credentials, any page a signed-in person opens could act for them.
        ("*", AppEnv::Production) => Err("must name its origins in production".to_owned()),
        _ => list(Origins::parse_one)(text).map(Origins::These),
    });
    set.unwrap_or(match env {
        AppEnv::Development => Origins::Any,
        AppEnv::Production => Origins::These(Vec::new()),
    })
}

fn app_env(text: &str) -> Result<AppEnv, String> {
    match text {
        "development" => Ok(AppEnv::Development),
        "production" => Ok(AppEnv::Production),
        _ => Err("must be development or production".to_owned()),
    }
}

/// An address, an IPv6 one maybe in brackets, or a host name.
fn host(text: &str) -> Result<String, String> {
    let bracketed = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let (bare, is_host) = match bracketed {
        Some(bare) => (bare, bare.parse::<Ipv6Addr>().is_ok()),
        None => {
            let is_name = !text.is_empty() && text.bytes().all(is_part);
            (text, is_name || text.parse::<IpAddr>().is_ok())
        }
    };
    if is_host {
        Ok(bare.to_owned())
    } else {
        Err("must be an IP address or a host name".to_owned())
    }
}

fn optional_address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        "must be an IP address and a port, such as 127.0.0.1:9464, or empty".to_owned()
    })
}

fn is_mysql(url: &str) -> bool {
    url.starts_with("mysql://") || url.starts_with("mariadb://")
}

fn database_url(text: &str) -> Result<Secret, String> {
    if text.starts_with("sqlite:") {
        return Ok(Secret::new(text));
    }
    mysql_url(text)
        .map_err(|_| "must be sqlite://path or mysql://user:password@host:port/database".to_owned())
}

fn mysql_url(text: &str) -> Result<Secret, String> {
    let names_database = text
        .split_once("://")
        .and_then(|(_, rest)| rest.split_once('/'))
        .is_some_and(|(host, path)| !host.is_empty() && !path.split('?').any(str::is_empty));
    if is_mysql(text) && names_database {
        Ok(Secret::new(text))
    } else {
        Err("must be mysql://user:password@host:port/database".to_owned())
    }
}

fn redis_url(text: &str) -> Result<Secret, String> {
    let rest = ["redis://", "rediss://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    match rest {
        Some(rest) if !rest.is_empty() => Ok(Secret::new(text)),
        _ => Err("must be redis://host:port or rediss://host:port".to_owned()),
    }
}

/// The file of an SQLite URL; `None` for MySQL and for a database in memory.
fn sqlite_path(url: &str) -> Option<PathBuf> {
    let rest = url.strip_prefix("sqlite:")?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let path = rest.split('?').next().unwrap_or(rest);
    let in_memory = path.is_empty() || path == ":memory:" || rest.contains("mode=memory");
    (!in_memory).then(|| PathBuf::from(path))
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "must be a list of CIDRs such as 10.0.0.0/8".to_owned())
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "pretty" => Ok(LogFormat::Pretty),
        "json" => Ok(LogFormat::Json),
        _ => Err("must be pretty or json".to_owned()),
    }
}

/// A filter of log lines. Values in its directives are taken literally: as regular expressions, a few hundred characters
/// can take minutes to compile, and a node would not start.
pub fn parse_log_filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().with_regex(false).parse(text)
}

fn log_filter(text: &str) -> Result<String, String> {
    match parse_log_filter(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("must be a level or directives such as info,gateway=debug".to_owned()),
    }
}

fn flag(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

fn millis(least: u64, most: u64) -> impl Fn(&str) -> Result<Duration, String> {
    let parse = number(least, most);
    move |text| parse(text).map(Duration::from_millis)
}

/// A million a second is as good as none, and keeps every sum of limits far from overflow.
fn limit(text: &str) -> Result<u32, String> {
    number(0, 1_000_000)(text)
}

#[cfg(test)]
mod tests;
