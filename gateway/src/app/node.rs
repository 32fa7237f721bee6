//! One node, put together from its settings. The only file that names which store, bus and counts there are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::welcome::Welcome;
use crate::api::{self, Readiness};
use crate::auth::{AccessTokens, AuthParts, AuthService};
use crate::bus::Bus;
use crate::bus::local::LocalBus;
use crate::bus::redis::{
    ClientFiles, Commands, RedisBus, RedisBusSettings, RedisSettings, TlsFiles, UselessFile,
};
use crate::chat::{self, CatchUp, Chat, Foundations};
use crate::cluster::local::{LocalConnectionStates, LocalPresence, LocalRateLimiter};
use crate::cluster::redis::{
    RedisConnectionStates, RedisPresence, RedisRateLimiter, StateSettings,
};
use crate::cluster::{ConnectionStates, Presence, PresenceSettings, RateLimiter};
use crate::config::{AppEnv, Config, RedisConfig};
use crate::hub::Hub;
use crate::realtime::{self, Connections};
use crate::relay::{Hooks, Relay};
use crate::session::{self, ChatSockets};
use crate::store::{self, InvalidUrl, SharedStore, StoreError};

/// How long to wait before a database that was not there is tried again.
const MIGRATION_RETRY: Duration = Duration::from_secs(2);

/// How long the chat may take to store and publish what it was handed before the node goes.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// How many transactions with messages a node has in flight: MySQL commits several at a time, SQLite has one writer.
const MYSQL_WRITERS: usize = 4;
const SQLITE_WRITERS: usize = 1;

/// A node that serves.
pub(super) struct Node {
    store: SharedStore,
    bus: Arc<dyn Bus>,
    router: Router,
    connections: Arc<Connections>,
    readiness: Arc<Readiness>,
    /// The chat's own tasks, which end when nobody can hand anything in any more.
    chat: chat::Running,
    /// Ends the tasks of the node that serve sockets.
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// How many transactions with messages a node has in flight.
fn writers(config: &Config) -> usize {
    if config.database.is_mysql() {
        MYSQL_WRITERS
    } else {
        SQLITE_WRITERS
    }
}

/// What nodes share, between them or within one.
struct Shared {
    bus: Arc<dyn Bus>,
    presence: Arc<dyn Presence>,
    limiter: Arc<dyn RateLimiter>,
    states: Arc<dyn ConnectionStates>,
}

/// Opens the store that the settings name. It need not be up.
pub fn open_store(config: &Config) -> Result<SharedStore, InvalidUrl> {
    let database = &config.database;
    store::open(&store::Settings {
        url: database.url.expose().to_owned(),
        replica_url: database
            .replica_url
            .as_ref()
            .map(|url| url.expose().to_owned()),
        replica_lag: database.replica_lag,
        pool_size: database.pool_size,
        acquire_timeout: database.timeout,
        statement_timeout: database.timeout,
    })
}

impl Node {
    /// Puts a node together. Neither the database nor Redis need be up.
    pub(super) fn build(config: &Config, welcome: Welcome) -> Result<Self, StartError> {
        let setting = |setting, reason: String| StartError::Setting { setting, reason };
        let store =
            open_store(config).map_err(|error| setting("DATABASE_URL", error.to_string()))?;
        let shared = match &config.redis {
            Some(redis) => over_redis(redis)?,
            None => in_process(),
        };
        let secret = config
            .jwt_secret()
            .map_err(|error| setting("JWT_SECRET", error.to_string()))?;

        let stop = CancellationToken::new();
        let (chat, running) = Chat::start(Foundations {
            store: store.clone(),
            bus: shared.bus.clone(),
            presence: shared.presence,
            writers: writers(config),
        });
        let auth = Arc::new(AuthService::new(AuthParts {
            store: store.clone(),
            bus: shared.bus.clone(),
            limiter: shared.limiter,
            tokens: AccessTokens::new(&secret, &config.auth.previous_secrets),
            refresh_life: config.auth.refresh_life,
            logins_per_minute: config.limits.logins_per_minute,
        }));
        let revocations = auth.revocations().clone();
        let on_notice = Box::new(move |shared::envelope::Notice::Revoked(revocation)| {
            revocations.insert(&revocation);
        });
        let hooks = Hooks {
            on_notice,
            missed: Arc::new(CatchUp::new(store.clone())),
        };
        let (relay, mut tasks) =
            Relay::start(Arc::new(Hub::new()), &shared.bus, hooks, stop.clone())
                .ok_or_else(|| StartError::Machine("the bus was taken twice".to_owned()))?;
        let catching_up = relay.catching_up();
        let (sockets, minding) = ChatSockets::start(
            session::Foundations {
                chat: chat.clone(),
                auth: auth.clone(),
                relay,
                states: shared.states,
            },
            session_settings(config),
            stop.clone(),
        );
        tasks.extend(minding);
        let readiness = Arc::new(Readiness::new());
        readiness.heed(catching_up);
        tasks.push(tokio::spawn(readiness.clone().watch(
            store.clone(),
            shared.bus.clone(),
            stop.clone(),
        )));
        let welcome = (config.env == AppEnv::Development).then_some(welcome);
        tasks.push(tokio::spawn(begin(
            config.database.auto_migrate,
            welcome,
            store.clone(),
            auth.clone(),
            stop.clone(),
        )));

        let connections = Connections::new(config.limits.connects_per_second);
        tasks.push(tokio::spawn(connections.clone().measure(stop.clone())));
        let router = api::router(
            api::State {
                chat,
                auth,
                readiness: readiness.clone(),
            },
            config,
        )
        .merge(realtime::router(
            Arc::new(sockets),
            realtime_settings(config),
            connections.clone(),
        ));
        Ok(Self {
            store,
            bus: shared.bus,
            router,
            connections,
            readiness,
            chat: running,
            stop,
            tasks,
        })
    }

    /// The node's routes.
    pub(super) fn router(&self) -> Router {
        self.router.clone()
    }

    /// Sends the sockets away over a time, to come back on other nodes; new ones are not taken any more.
    pub(super) async fn drain(&self, over: Duration) {
        self.readiness.drain();
        self.connections.drain(over).await;
    }

    /// Ends what serves sockets, waits until what was handed in is stored and published, then ends the links.
    pub(super) async fn finish(self) {
        self.stop.cancel();
        // They hold the chat: the writers end when the last of them has let go.
        drop(self.router);
        let ended = async {
            for task in self.tasks {
                // A task that panicked has said so.
                let _ = task.await;
            }
            self.chat.finish().await;
        };
        // What is not out by then waits in the outbox for another node.
        if timeout(FINISH_TIMEOUT, ended).await.is_err() {
            tracing::warn!("not everything could be finished in time");
        }
        self.bus.close().await;
        self.store.close().await;
    }
}

fn session_settings(config: &Config) -> session::Settings {
    session::Settings {
        mode: config.env,
        events_per_second: config.limits.events_per_second,
        commands_in_flight: config.requests_in_flight,
        heartbeat: session::Heartbeat {
            interval: config.ping_interval,
            timeout: config.ping_timeout,
        },
        outbox_bytes: config.outbox_bytes,
    }
}

fn realtime_settings(config: &Config) -> realtime::Settings {
    realtime::Settings {
        ping_interval: config.ping_interval,
        ping_timeout: config.ping_timeout,
        outbox_bytes: config.outbox_bytes,
        origins: config.origins.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
        ..realtime::Settings::default()
    }
}

/// Brings the database up to date, where that is wanted, as soon as it is there, then keeps the sessions. The node is not
/// ready before.
async fn begin(
    migrates: bool,
    welcome: Option<Welcome>,
    store: SharedStore,
    auth: Arc<AuthService>,
    stop: CancellationToken,
) {
    let prepare = async {
        if migrates {
            migrate(&store).await;
        }
        if let Some(welcome) = welcome
            && let Err(failure) = welcome.give(&store).await
        {
            failure.log();
        }
    };
    if stop.run_until_cancelled(prepare).await.is_some() {
        auth.run(stop).await;
    }
}

/// Tries until it is done: a database that is not up yet is waited for.
async fn migrate(store: &SharedStore) {
    let mut told = false;
    loop {
        match store.migrate().await {
            Ok(report) => {
                tracing::info!(
                    applied = report.applied,
                    numbered = report.numbered_messages,
                    "the database is up to date"
                );
                return;
            }
            Err(error @ (StoreError::Unavailable(_) | StoreError::Full(_))) => {
                if !told {
                    tracing::warn!(%error, "the database is not there yet: waiting for it");
                    told = true;
                }
            }
            Err(error @ (StoreError::Internal(_) | StoreError::Unstorable(_))) => {
                tracing::error!(%error, "the database can't be brought up to date: trying again");
            }
        }
        tokio::time::sleep(MIGRATION_RETRY).await;
    }
}

fn over_redis(redis: &RedisConfig) -> Result<Shared, StartError> {
    let tls = tls_files(redis)?;
    let commands = Commands::open(&RedisSettings {
        tls,
        connections: redis.pool_size,
        connect_timeout: redis.timeout,
        command_timeout: redis.timeout,
        ..RedisSettings::new(redis.url.expose())
    })
    .map_err(|error| StartError::Setting {
        setting: "REDIS_URL",
        reason: error.to_string(),
    })?;
    let node = uuid::Uuid::new_v4().to_string();
    Ok(Shared {
        bus: Arc::new(RedisBus::open(
            commands.clone(),
            &node,
            RedisBusSettings::default(),
        )),
        presence: Arc::new(RedisPresence::new(
            commands.clone(),
            &node,
            PresenceSettings::default(),
        )),
        states: Arc::new(RedisConnectionStates::new(
            commands.clone(),
            &node,
            StateSettings::default(),
        )),
        limiter: Arc::new(RedisRateLimiter::new(commands)),
    })
}

/// The files of TLS, each looked at once: one that is of no use stops the node, and its setting is named.
pub(super) fn tls_files(redis: &RedisConfig) -> Result<TlsFiles, StartError> {
    let tls = TlsFiles {
        ca: redis.ca_file.clone(),
        client: redis
            .client_files
            .clone()
            .map(|(certificate, key)| ClientFiles { certificate, key }),
    };
    let named = |useless: UselessFile| {
        let is = |file: Option<&PathBuf>| file == Some(&useless.path);
        let client = tls.client.as_ref();
        let setting = if is(tls.ca.as_ref()) {
            "REDIS_CA_FILE"
        } else if is(client.map(|files| &files.certificate)) {
            "REDIS_CERT_FILE"
        } else {
            "REDIS_KEY_FILE"
        };
        StartError::Setting {
            setting,
            reason: useless.to_string(),
        }
    };
    tls.read().map_err(named)?;
    Ok(tls)
}

fn in_process() -> Shared {
    Shared {
        bus: Arc::new(LocalBus::default()),
        presence: Arc::new(LocalPresence::new(PresenceSettings::default())),
        limiter: Arc::new(LocalRateLimiter::new()),
        states: Arc::new(LocalConnectionStates::default()),
    }
}
