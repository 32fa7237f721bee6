//! Every environment variable: its name, its default, what it is for. `--help` prints this table and the reader takes its
//! defaults from it, so neither can tell another story. What the values mean is decided in `mod.rs`.

/// One environment variable.
#[derive(Debug)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What holds where it is not set.
    pub default: Default,
    /// One line.
    pub help: &'static str,
    /// Whether its value must not be repeated in a complaint about it.
    pub secret: bool,
}

/// What holds where a variable is not set, or empty.
#[derive(Debug)]
pub enum Default {
    /// This value, read as if it had been set.
    Is(&'static str),
    /// This value, but only where the variable is not set: empty is a value of its own.
    IsUnlessEmpty(&'static str),
    /// No value: in words, what that means.
    None(&'static str),
}

impl Default {
    /// As `--help` shows it.
    pub const fn shown(&self) -> &'static str {
        match self {
            Self::Is(text) | Self::IsUnlessEmpty(text) | Self::None(text) => text,
        }
    }
}

/// The table, as `--help` shows it: one line of name and default, one of explanation, for each.
pub fn help() -> String {
    use std::fmt::Write;

    let mut text = String::from("Settings, from the environment:\n");
    for setting in SETTINGS {
        // Writing to a string can't fail.
        let _ = write!(
            text,
            "\n  {} [default: {}]\n      {}\n",
            setting.name,
            setting.default.shown(),
            setting.help
        );
    }
    text
}

macro_rules! settings {
    ($($name:ident = $default:expr, $secret:expr, $help:literal;)*) => {
        $(
            pub(super) const $name: &Setting = &Setting {
                name: stringify!($name),
                default: $default,
                help: $help,
                secret: $secret,
            };
        )*

        /// Every variable, in the order of `--help`.
        pub const SETTINGS: &[&Setting] = &[$($name),*];
    };
}

const OPEN: bool = false;
const SECRET: bool = true;

settings! {
    APP_ENV = Default::Is("development"), OPEN,
        "development or production";
    HOST = Default::Is("0.0.0.0"), OPEN,
        "the address that REST and sockets are served on";
    PORT = Default::Is("5000"), OPEN,
        "the port that REST and sockets are served on; 0 takes a free one";
    METRICS_ADDR = Default::IsUnlessEmpty("127.0.0.1:9464"), OPEN,
        "address and port of /metrics (Prometheus); empty turns it off";
    DATABASE_URL = Default::Is("sqlite://data/chat.db"), SECRET,
        "sqlite://path, or mysql://user:password@host:port/database (MySQL 8, MariaDB 10.6)";
    DATABASE_REPLICA_URL = Default::None("none: every read goes to DATABASE_URL"), SECRET,
        "a MySQL replica for reads that may lag";
    DATABASE_REPLICA_LAG_MS = Default::Is("5000"), OPEN,
        "how far behind the replica may be and still be read; 0 reads nothing from it, but notes already who has written";
    DATABASE_POOL_SIZE = Default::Is("16"), OPEN,
        "the most connections this node keeps to each database";
    DATABASE_TIMEOUT_MS = Default::Is("5000"), OPEN,
        "how long a call waits for a free connection, and each statement for its answer, before it fails";
    AUTO_MIGRATE = Default::Is("true"), OPEN,
        "whether serve brings the schema up to date before it serves; false leaves that to gateway migrate";
    REDIS_URL = Default::None("none: one node, events stay in the process"), SECRET,
        "redis:// or rediss://user:password@host:port/db; needed for more than one node";
    REDIS_CA_FILE = Default::None("none: the usual public ones"), OPEN,
        "PEM: the CAs that may vouch for a rediss:// server; read again for each new connection, as the two below are";
    REDIS_CERT_FILE = Default::None("none"), OPEN,
        "PEM: the certificate that this node shows to a rediss:// server, with those between it and the CA";
    REDIS_KEY_FILE = Default::None("none"), OPEN,
        "PEM: the private key of REDIS_CERT_FILE";
    REDIS_POOL_SIZE = Default::Is("8"), OPEN,
        "the most connections this node keeps to Redis for commands; subscriptions have one more";
    REDIS_TIMEOUT_MS = Default::Is("2000"), OPEN,
        "how long a call waits for Redis before it fails, waiting for a connection included";
    JWT_SECRET = Default::None("none; development makes one and keeps it beside the SQLite file"), SECRET,
        "signs access tokens (HS256); the same on every node, at least 32 bytes in production";
    JWT_PREVIOUS_SECRETS = Default::None("none"), SECRET,
        "comma-separated secrets that are accepted as well, for rotation: gateway rotate-secret says how";
    REFRESH_TOKEN_DAYS = Default::Is("30"), OPEN,
        "days after which a session ends that is not refreshed";
    CORS_ORIGINS = Default::None("any in development, none in production"), OPEN,
        "comma-separated origins that may call with credentials and open WebSockets; * (any) in development only";
    TRUSTED_PROXIES = Default::None("none"), OPEN,
        "comma-separated CIDRs whose X-Forwarded-For is believed";
    LOG_FORMAT = Default::None("pretty; json in production"), OPEN,
        "pretty or json";
    RUST_LOG = Default::Is("info"), OPEN,
        "what is logged: a level, or directives such as info,gateway=debug";
    OTEL_EXPORTER_OTLP_ENDPOINT = Default::None("none: no traces"), OPEN,
        "http:// or https:// address of a collector of traces (OTLP over HTTP)";
    OTEL_SERVICE_NAME = Default::Is("chat-gateway"), OPEN,
        "what traces call this program";
    OTEL_TRACES_SAMPLER = Default::Is("parentbased_always_on"), OPEN,
        "which traces are kept: always_on, always_off, traceidratio, or one of these with parentbased_ before it";
    OTEL_TRACES_SAMPLER_ARG = Default::Is("1"), OPEN,
        "for traceidratio: the share of traces that is kept, 0 to 1";
    PING_INTERVAL_MS = Default::Is("25000"), OPEN,
        "Engine.IO heartbeat: time between pings";
    PING_TIMEOUT_MS = Default::Is("20000"), OPEN,
        "Engine.IO heartbeat: how long an answer may take";
    DRAIN_SECONDS = Default::Is("30"), OPEN,
        "how long SIGTERM takes to move this node's sockets elsewhere";
    OUTBOX_BYTES = Default::Is("1048576"), OPEN,
        "bytes that may wait for one slow socket before it is closed";
    MAX_REQUESTS_IN_FLIGHT = Default::Is("256"), OPEN,
        "REST requests, and as many commands of sockets, that this node works on at once; more are refused with SERVICE_UNAVAILABLE";
    RATE_LIMIT_LOGINS_PER_MINUTE = Default::Is("10"), OPEN,
        "sign-ins for an address and for an account, over all nodes; 0 turns it off";
    RATE_LIMIT_REQUESTS_PER_SECOND = Default::Is("50"), OPEN,
        "REST requests of a user; 0 turns it off";
    RATE_LIMIT_EVENTS_PER_SECOND = Default::Is("50"), OPEN,
        "events of a socket, in bursts of twice that; 0 turns it off";
    RATE_LIMIT_CONNECTS_PER_SECOND = Default::Is("0"), OPEN,
        "new sockets of this node; 0 turns it off";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_shows_every_variable_with_its_default() {
        let help = help();
        for setting in SETTINGS {
            let line = format!("  {} [default: {}]", setting.name, setting.default.shown());
            assert!(help.contains(&line), "{line}");
            assert!(help.contains(setting.help));
        }
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = SETTINGS.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), SETTINGS.len());
    }
}
