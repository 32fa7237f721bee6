//! The way to Redis for commands: a pool with bounds in time, and the names of keys. What the commands say is their
//! callers' business; subscriptions have a connection of their own, `link`.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{Object, Pool, PoolConfig, Timeouts};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisError,
    RedisResult, ScriptInvocation,
};
use std::sync::Arc;

use super::door::{Door, TlsFiles};
use crate::bus::BusError;
use crate::telemetry::pool::PoolMeter;

/// How to reach Redis.
#[derive(Clone)]
pub struct RedisSettings {
    /// `redis://` or `rediss://`, with user and password where there are any. Never logged.
    pub url: String,
    /// What its TLS needs, where that is not the usual.
    pub tls: TlsFiles,
    /// What every key and channel begins with, so that several installations may share a Redis.
    pub prefix: String,
    /// The most connections for commands. Each carries many commands at once, so a few are enough.
    pub connections: usize,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long a command may take, the wait for a connection included.
    pub command_timeout: Duration,
}

impl RedisSettings {
    /// The defaults, for one address.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tls: TlsFiles::default(),
            prefix: "chat:".to_owned(),
            connections: 16,
            connect_timeout: Duration::from_secs(2),
            command_timeout: Duration::from_secs(2),
        }
    }
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings")
            .field("tls", &self.tls)
            .field("prefix", &self.prefix)
            .field("connections", &self.connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("command_timeout", &self.command_timeout)
            .finish_non_exhaustive()
    }
}

/// A cheap handle on the pool, shared by all that speaks to Redis.
#[derive(Clone)]
pub struct Commands {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Pool<Door>,
    meter: PoolMeter,
    /// The connection of the `_in_line` calls, out of the pool for as long as it works: the pool's check of a connection at
    /// every checkout costs a round trip, which would double the way of each message.
    line: Mutex<Option<MultiplexedConnection>>,
    prefix: String,
    /// What channels begin with: pub/sub knows no database numbers, so the number is part of their names.
    channel_prefix: String,
    connect_timeout: Duration,
    command_timeout: Duration,
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands")
            .field("prefix", &self.inner.prefix)
            .finish_non_exhaustive()
    }
}

impl Commands {
    /// Reads the settings. Does not connect: Redis need not be up.
    ///
    /// # Errors
    ///
    /// An address that is none. The message does not show it.
    pub fn open(settings: &RedisSettings) -> Result<Self, BusError> {
        let address = settings
            .url
            .as_str()
            .into_connection_info()
            .map_err(|error| unavailable(hide_address(&error)))?;
        if !settings.tls.is_none() && !matches!(address.addr(), ConnectionAddr::TcpTls { .. }) {
            return Err(BusError("certificates are for rediss:// alone".into()));
        }
        let database = address.redis_settings().db();
        let timing = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout))
            .set_response_timeout(Some(settings.command_timeout));
        let door = Door::new(address, settings.tls.clone(), timing).map_err(unavailable)?;
        // What is wrong with a file shall be known now, not when it is needed.
        door.client(redis::ProtocolVersion::RESP2)
            .map_err(unavailable)?;
        let mut config = PoolConfig::new(settings.connections.max(1));
        config.timeouts = Timeouts {
            wait: Some(settings.command_timeout),
            create: Some(settings.connect_timeout),
            recycle: Some(settings.command_timeout),
        };
        let pool = Pool::builder(door)
            .config(config)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(unavailable)?;
        Ok(Self {
            inner: Arc::new(Inner {
                pool,
                meter: PoolMeter::new("redis"),
                line: Mutex::default(),
                channel_prefix: channel_prefix(&settings.prefix, database),
                prefix: settings.prefix.clone(),
                connect_timeout: settings.connect_timeout,
                command_timeout: settings.command_timeout,
            }),
        })
    }

    /// A channel's whole name.
    pub(super) fn channel(&self, rest: impl fmt::Display) -> String {
        format!("{}{rest}", self.inner.channel_prefix)
    }

    /// A key's whole name.
    pub(crate) fn name(&self, rest: impl fmt::Display) -> String {
        format!("{}{rest}", self.inner.prefix)
    }

    /// How long a command may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.inner.command_timeout
    }

    /// Asks one thing.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, BusError> {
        self.bounded(async {
            let mut connection = self.connection().await?;
            let answer = command.query_async(&mut *connection).await;
            self.settle(connection, answer)
        })
        .await
    }

    /// Asks several things at once, on the line.
    pub(crate) async fn query_all<T: FromRedisValue>(
        &self,
        pipeline: &redis::Pipeline,
    ) -> Result<T, BusError> {
        let answer = self.bounded(async {
            let mut line = self.line().await?;
            pipeline.query_async(&mut line).await.map_err(unavailable)
        });
        self.keep_line_if(answer.await)
    }

    /// Runs a script.
    pub(crate) async fn invoke<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, BusError> {
        self.bounded(async {
            let mut connection = self.connection().await?;
            let answer = call.invoke_async(&mut *connection).await;
            self.settle(connection, answer)
        })
        .await
    }

    /// Asks one thing on the line: the one connection that all such calls share. They reach Redis in the order made,
    /// without the pool's check before each.
    pub(crate) async fn query_in_line<T: FromRedisValue>(
        &self,
        command: &Cmd,
    ) -> Result<T, BusError> {
        let answer = self.bounded(async {
            let mut line = self.line().await?;
            command.query_async(&mut line).await.map_err(unavailable)
        });
        self.keep_line_if(answer.await)
    }

    /// Runs a script on the line.
    pub(crate) async fn invoke_in_line<T: FromRedisValue>(
        &self,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, BusError> {
        let answer = self.bounded(async {
            let mut line = self.line().await?;
            call.invoke_async(&mut line).await.map_err(unavailable)
        });
        self.keep_line_if(answer.await)
    }

    /// Lets go of every connection that nobody uses just now: they may lead nowhere.
    pub(super) fn start_afresh(&self) {
        *self.inner.line.lock() = None;
        self.inner.pool.retain(|_, _| false);
    }

    /// A connection that hears what it subscribes to: each push goes to `ear`.
    pub(super) async fn listen(
        &self,
        ear: impl redis::aio::AsyncPushSender,
    ) -> RedisResult<MultiplexedConnection> {
        let door = self.inner.pool.manager();
        let client = door.client(redis::ProtocolVersion::RESP3)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.inner.connect_timeout))
            .set_response_timeout(Some(self.inner.command_timeout))
            .set_push_sender(ear);
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    async fn connection(&self) -> Result<Object<Door>, BusError> {
        let begun = Instant::now();
        let answer = self.inner.pool.get().await;
        let status = self.inner.pool.status();
        let used = status.size.saturating_sub(status.available);
        self.inner
            .meter
            .asked(begun.elapsed(), used, status.available);
        answer.map_err(unavailable)
    }

    async fn line(&self) -> Result<MultiplexedConnection, BusError> {
        let open = self.inner.line.lock().clone();
        if let Some(connection) = open {
            return Ok(connection);
        }
        let pooled = self.connection().await?;
        let fresh = Object::take(pooled);
        let mut line = self.inner.line.lock();
        Ok(line.get_or_insert(fresh).clone())
    }

    fn keep_line_if<T>(&self, answer: Result<T, BusError>) -> Result<T, BusError> {
        if answer.is_err() {
            *self.inner.line.lock() = None;
        }
        answer
    }

    async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, BusError> {
        let answer = tokio::time::timeout(self.inner.command_timeout, work).await;
        answer.unwrap_or_else(|_| {
            // What hangs is likely a link that is gone: the idle connections share it.
            self.inner.pool.retain(|_, _| false);
            Err(BusError("Redis does not answer in time".into()))
        })
    }

    /// Keeps a connection that failed out of the pool: it may be broken, or lead to a Redis that has become a replica.
    fn settle<T>(&self, connection: Object<Door>, answer: RedisResult<T>) -> Result<T, BusError> {
        answer.map_err(|error| {
            drop(Object::take(connection));
            self.inner.pool.retain(|_, _| false);
            unavailable(error)
        })
    }
}

pub(crate) fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> BusError {
    BusError(Box::new(error))
}

/// Two installations in two databases of one Redis share its channels, but must not hear each other.
fn channel_prefix(prefix: &str, database: i64) -> String {
    match database {
        0 => prefix.to_owned(),
        number => format!("{prefix}db{number}:"),
    }
}

/// What is wrong with an address, without the address.
fn hide_address(error: &RedisError) -> RedisError {
    RedisError::from((error.kind(), "not a Redis address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_the_password() {
        for url in [
            "redis://somebody:sesame@127.0.0.1:1/",
            "rediss://somebody:sesame@127.0.0.1:1/",
        ] {
            let settings = RedisSettings::new(url);
            let commands = Commands::open(&settings).expect("an address");
            assert!(!format!("{settings:?} {commands:?}").contains("sesame"));
        }
        for url in ["sesame", "redis://x:sesame@:::", "http://x:sesame@y/"] {
            let error = Commands::open(&RedisSettings::new(url)).expect_err("no address");
            assert!(
                !format!("{error} {error:?}").contains("sesame"),
                "{error:?}"
            );
        }
    }
}
