//! Nodes with everything but REST, over one database and one bus, and clients that speak Socket.IO in literal packets.
//! No test stands here.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use gateway::auth::{AccessTokens, AuthParts, AuthService};
use gateway::bus::Bus;
use gateway::bus::local::LocalBus;
use gateway::bus::redis::{Commands, RedisBus, RedisBusSettings, RedisSettings};
use gateway::chat::{self, Chat};
use gateway::cluster::ConnectionStates;
use gateway::cluster::local::{LocalConnectionStates, LocalPresence, LocalRateLimiter};
use gateway::cluster::redis::{RedisConnectionStates, StateSettings};
use gateway::config::{AppEnv, Config};
use gateway::hub::Hub;
use gateway::listener;
use gateway::realtime::{self, Connections};
use gateway::relay::{Delivered, Hooks, Missed, Relay};
use gateway::session::{self, ChatSockets, Heartbeat};
use gateway::store::{self, NewAdmin, NewClient, OpenOutcome};
use parking_lot::Mutex;
use serde_json::{Value, json};
use shared::model::User;
use shared::{ConversationId, Envelope, Timestamp};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Three agents, three conversations, and the database they are in.
pub(crate) struct House {
    config: Config,
    tokens: AccessTokens,
    pub(crate) agents: Vec<User>,
    pub(crate) conversations: Vec<ConversationId>,
    /// What stands in for the database's log, where nodes find what their bus has missed: all in one conversation.
    pub(crate) log: Log,
    directory: PathBuf,
}

/// Envelopes of one conversation, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(pub(crate) Arc<Mutex<Vec<Arc<Envelope>>>>);

#[async_trait]
impl Missed for Log {
    async fn find(&self, _: Timestamp, delivered: &Delivered, found: mpsc::Sender<Arc<Envelope>>) {
        let all = self.0.lock().clone();
        for envelope in all {
            let at = envelope.position.expect("a change");
            let is_old = delivered
                .last(at.conversation)
                .is_some_and(|last| at.event_seq <= last);
            if !is_old && found.send(envelope).await.is_err() {
                return;
            }
        }
    }
}

/// What a node has from outside.
pub(crate) struct Outside {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) states: Arc<dyn ConnectionStates>,
}

impl Outside {
    pub(crate) fn local() -> Self {
        Self {
            bus: Arc::new(LocalBus::default()),
            states: Arc::new(LocalConnectionStates::default()),
        }
    }

    /// To be called within the node's runtime.
    pub(crate) fn redis(settings: &RedisSettings, node: &str) -> Self {
        let commands = Commands::open(settings).expect("good settings");
        let bus = RedisBusSettings {
            probe_every: Duration::from_millis(50),
            reconnect_min: Duration::from_millis(5),
            reconnect_max: Duration::from_millis(50),
            ..RedisBusSettings::default()
        };
        Self {
            bus: Arc::new(RedisBus::open(commands.clone(), node, bus)),
            states: Arc::new(RedisConnectionStates::new(
                commands,
                node,
                StateSettings::default(),
            )),
        }
    }
}

/// A node, in a runtime of its own: it can be killed.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) bus: Arc<dyn Bus>,
    runtime: Option<Runtime>,
}

impl House {
    pub(crate) async fn new() -> Self {
        let directory =
            std::env::temp_dir().join(format!("chat-test-recovery-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&directory).expect("a folder");
        let url = format!("sqlite://{}/chat.db", directory.display());
        let values = [
            ("DATABASE_URL", url.as_str()),
            ("JWT_SECRET", "a secret for tests of at least 32 bytes"),
        ];
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_map(&BTreeMap::from(values)).expect("good settings");
        let tokens = AccessTokens::new(&config.jwt_secret().expect("a secret"), &[]);
        let store = store::open(&store::Settings::new(url)).expect("an address");
        store.migrate().await.expect("a new database");
        // Long ago: what is made good from the log does not reach back to it.
        let at = Timestamp(Timestamp::now().0 - chrono::TimeDelta::hours(1));
        let mut agents = Vec::new();
        let mut conversations = Vec::new();
        for number in 0..3 {
            let agent = NewAdmin {
                email: format!("agent-{number}@example.com"),
                password_hash: "-".to_owned(),
                first_name: None,
                last_name: None,
                at,
            };
            let client = NewClient {
                email: format!("client-{number}@example.com"),
                password_hash: "-".to_owned(),
                first_name: "C".to_owned(),
                last_name: "C".to_owned(),
                company: None,
                phone: None,
                country: None,
                at,
            };
            let agent = store.create_admin(&agent).await.expect("a database");
            agents.push(agent.expect("a new address"));
            let client = store.register_client(&client).await.expect("a database");
            let client = client.expect("a new address");
            let opened = store.open_conversation(client.id, None, at).await;
            let OpenOutcome::Created(record, logged) = opened.expect("a database") else {
                panic!("it is new");
            };
            conversations.push(record.conversation.id);
            let told: Vec<_> = logged.outbox.into_iter().collect();
            store.clear_outbox(&told).await.expect("a database");
        }
        store.close().await;
        Self {
            config,
            tokens,
            agents,
            conversations,
            log: Log::default(),
            directory,
        }
    }

    /// Starts a node, that makes what it needs from outside in its own runtime.
    pub(crate) async fn node(&self, outside: impl FnOnce() -> Outside + Send + 'static) -> Node {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let url = format!("sqlite://{}/chat.db", self.directory.display());
        let secret = self.config.jwt_secret().expect("a secret");
        let tokens = AccessTokens::new(&secret, &[]);
        let log = self.log.clone();
        let started = runtime.spawn(async move {
            let Outside { bus, states } = outside();
            let store = store::open(&store::Settings::new(url)).expect("an address");
            let (chat, _) = Chat::start(chat::Foundations {
                store: store.clone(),
                bus: bus.clone(),
                presence: Arc::<LocalPresence>::default(),
                writers: 1,
            });
            let auth = Arc::new(AuthService::new(AuthParts {
                store: store.clone(),
                bus: bus.clone(),
                limiter: Arc::new(LocalRateLimiter::new()),
                tokens,
                refresh_life: Duration::from_secs(60),
                logins_per_minute: 0,
            }));
            auth.poll_revocations().await.expect("a database");
            let hooks = Hooks {
                on_notice: Box::new(|_| ()),
                missed: Arc::new(log),
            };
            let stop = CancellationToken::new();
            let hub = Arc::new(Hub::new());
            let (relay, _) = Relay::start(hub, &bus, hooks, stop.clone()).expect("the first");
            let foundations = session::Foundations {
                chat,
                auth,
                relay,
                states,
            };
            let settings = session::Settings {
                mode: AppEnv::Development,
                events_per_second: 0,
                commands_in_flight: 256,
                heartbeat: Heartbeat {
                    interval: Duration::from_secs(25),
                    timeout: Duration::from_secs(20),
                },
                outbox_bytes: 1 << 20,
            };
            let (sockets, _) = ChatSockets::start(foundations, settings, stop.clone());
            // What is cut off is noticed soon: by the write of a ping.
            let realtime = realtime::Settings {
                ping_interval: Duration::from_millis(100),
                ..realtime::Settings::default()
            };
            let app = realtime::router(Arc::new(sockets), realtime, Connections::new(0));
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
            let listener = listener.expect("a free port");
            let address = listener.local_addr().expect("its address");
            tokio::spawn(listener::serve(listener, app, stop));
            (address, bus)
        });
        let (address, bus) = started.await.expect("a node");
        let begun = Instant::now();
        while bus.check().await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "a node never came up");
            tokio::task::yield_now().await;
        }
        Node {
            address,
            bus,
            runtime: Some(runtime),
        }
    }

    /// What the `agent`th shows to be let in.
    pub(crate) fn auth(&self, agent: usize, pid: Option<&str>, offset: Option<&str>) -> Value {
        let session = uuid::Uuid::now_v7().to_string();
        let token = self
            .tokens
            .issue(&self.agents[agent], &session, Timestamp::now())
            .expect("a token");
        match pid {
            Some(pid) => json!({ "token": token, "pid": pid, "offset": offset }),
            None => json!({ "token": token }),
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // The system's own cleaning takes what is still in use.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Drop for Node {
    /// As a kill does: nobody says goodbye.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An event as a client got it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heard {
    pub(crate) name: String,
    pub(crate) data: Value,
    /// What a stock client keeps as its offset.
    pub(crate) offset: Option<String>,
}

/// A client's connection, let in.
pub(crate) struct Client {
    socket: WebSocketStream<TcpStream>,
    pub(crate) sid: String,
    pub(crate) pid: Option<String>,
    /// What came while something else was waited for.
    heard: Vec<Heard>,
}

static ASKED: AtomicU64 = AtomicU64::new(1);

/// Opens a connection and asks to be let in. Nobody waits for the answer.
pub(crate) async fn knock(node: SocketAddr, auth: &Value) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(node).await.expect("a node");
    let url = format!("ws://{node}/socket.io/?EIO=4&transport=websocket");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream)
        .await
        .expect("a WebSocket");
    let packet = format!("40{auth}");
    socket.send(Message::text(packet)).await.expect("a node");
    socket
}

impl Client {
    /// Comes in. `None` where the node sends it away to try again.
    pub(crate) async fn enter(node: SocketAddr, auth: &Value) -> Option<Self> {
        let mut client = Self::of(knock(node, auth).await);
        client.is_let_in().await.then_some(client)
    }

    /// On a connection that has asked to be let in.
    pub(crate) fn of(socket: WebSocketStream<TcpStream>) -> Self {
        Self {
            socket,
            sid: String::new(),
            pid: None,
            heard: Vec::new(),
        }
    }

    /// Waits for the answer; false where the node sends it away to try again.
    pub(crate) async fn is_let_in(&mut self) -> bool {
        while let Some(packet) = self.packet().await {
            assert!(!packet.starts_with("44"), "refused: {packet}");
            if let Some(answer) = packet.strip_prefix("40") {
                let answer: Value = serde_json::from_str(answer).expect("JSON");
                let text = |name: &str| answer[name].as_str().map(str::to_owned);
                self.sid = text("sid").expect("a sid");
                self.pid = text("pid");
                return true;
            }
        }
        false
    }

    /// Asks for something and waits for the answer; false where the connection is gone.
    pub(crate) async fn ask(&mut self, event: &str, data: &Value) -> bool {
        let id = ASKED.fetch_add(1, Ordering::Relaxed);
        let packet = format!("42{id}{}", json!([event, data]));
        if self.socket.send(Message::text(packet)).await.is_err() {
            return false;
        }
        let answer = format!("43{id}");
        while let Some(packet) = self.packet().await {
            if packet.starts_with(&answer) {
                return true;
            }
            self.take(&packet);
        }
        false
    }

    /// Everything that was sent to it by now, and whether the connection still stands.
    pub(crate) async fn listen(&mut self) -> (Vec<Heard>, bool) {
        let stands = self.ask("nothing", &Value::Null).await;
        (std::mem::take(&mut self.heard), stands)
    }

    /// Everything up to an event of a name; up to the end of the connection where it does not come.
    pub(crate) async fn listen_to(&mut self, name: &str) -> Vec<Heard> {
        while !self.heard.iter().any(|one| one.name == name) {
            let Some(packet) = self.packet().await else {
                break;
            };
            self.take(&packet);
        }
        std::mem::take(&mut self.heard)
    }

    fn take(&mut self, packet: &str) {
        let Some(event) = packet.strip_prefix("42") else {
            return;
        };
        let args: Vec<Value> = serde_json::from_str(event).expect("an event");
        self.heard.push(Heard {
            name: args[0].as_str().expect("a name").to_owned(),
            data: args[1].clone(),
            offset: args.last().and_then(Value::as_str).map(str::to_owned),
        });
    }

    /// The next Engine.IO message; `None` at the end.
    async fn packet(&mut self) -> Option<String> {
        let next = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Text(text))) if text.starts_with('2') => {
                        self.socket.send(Message::text("3")).await.ok()?;
                    }
                    Some(Ok(Message::Text(text))) => return Some(text.to_string()),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                    Some(Ok(_)) => {}
                }
            }
        };
        let next = tokio::time::timeout(PATIENCE, next);
        next.await.expect("a node that answers")
    }
}
