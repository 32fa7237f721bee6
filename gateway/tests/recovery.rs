//! Connection state recovery with everything real but the client's library: nodes over one Redis (or one within a process),
//! and clients that speak in literal packets, so that they can break off wherever they like. Random histories are held
//! against a naive model in `recovery/model.rs`.

#[path = "recovery/house.rs"]
mod house;
#[path = "recovery/model.rs"]
mod model;
#[expect(dead_code, reason = "what only the bus's suite needs")]
mod redis_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use gateway::bus::{BusError, Publication, PublishOutcome};
use gateway::cluster::{ConnectionState, ConnectionStates, Ended, Found, Holder, Received};
use house::{Client, House, Node, Outside, PATIENCE, knock};
use serde_json::{Value, json};
use shared::envelope::Position;
use shared::{ConversationId, Delivery, Envelope, EventSeq, Room};
use tokio::sync::{Notify, mpsc};

/// One event for some rooms, at a place in a conversation of its own.
fn publication(seq: i64, rooms: &[Room], data: &Value) -> Publication {
    let event_seq = EventSeq::new(seq);
    Publication {
        envelope: Arc::new(Envelope {
            position: Some(Position {
                conversation: ConversationId::new(1_000_000),
                event_seq,
            }),
            deliveries: vec![Delivery {
                event: "told".to_owned(),
                rooms: rooms.to_vec(),
                data: serde_json::value::to_raw_value(data).expect("JSON"),
                origin: None,
                except_user: None,
                lapse: None,
            }],
            sent_at: 0,
            closes: None,
            trace: None,
        }),
        begins_at: Some(event_seq),
    }
}

async fn tell(node: &Node, seq: i64, room: Room) {
    let told = publication(seq, &[room], &json!(seq));
    let outcomes = node.bus.publish(&[told]).await.expect("a bus that works");
    assert_eq!(outcomes, [PublishOutcome::Published]);
}

/// The numbers that a client was told, in order.
async fn numbers(client: &mut Client) -> Vec<i64> {
    let (heard, stands) = client.listen().await;
    assert!(stands, "it was cut off");
    let told = heard.iter().filter(|one| one.name == "told");
    told.filter_map(|one| one.data.as_i64()).collect()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("in time")
}

/// A store of states where a test decides how long it takes to note a connection, and hears which ends are noted.
struct Gate {
    inner: Arc<dyn ConnectionStates>,
    /// Whether connections that pick a state up are held before they are noted.
    holds_before: AtomicBool,
    /// Or after they were noted.
    holds_after: AtomicBool,
    /// Told of each connection that is held.
    held: mpsc::UnboundedSender<Holder>,
    /// Lets those go on that are held.
    go_on: Notify,
    ended: mpsc::UnboundedSender<Ended>,
}

#[async_trait]
impl ConnectionStates for Gate {
    async fn open(
        &self,
        holder: &Holder,
        state: &ConnectionState,
        life: Duration,
        instead_of: Option<u64>,
    ) -> Result<bool, BusError> {
        if self.holds_before.load(Ordering::SeqCst) {
            let _ = self.held.send(holder.clone());
            self.go_on.notified().await;
        }
        let noted = self.inner.open(holder, state, life, instead_of).await;
        if self.holds_after.load(Ordering::SeqCst) {
            let _ = self.held.send(holder.clone());
            self.go_on.notified().await;
        }
        noted
    }

    async fn update(
        &self,
        holder: &Holder,
        conversations: &[ConversationId],
        life: Duration,
    ) -> Result<(), BusError> {
        self.inner.update(holder, conversations, life).await
    }

    async fn end(&self, ended: &[Ended]) -> Result<(), BusError> {
        for one in ended {
            let _ = self.ended.send(one.clone());
        }
        self.inner.end(ended).await
    }

    async fn find(&self, state: &str) -> Result<Option<Found>, BusError> {
        self.inner.find(state).await
    }

    async fn beat(&self, received: Option<Received>) -> Result<(), BusError> {
        self.inner.beat(received).await
    }
}

/// A node that is alone, with a gate at its states.
struct Gated {
    house: House,
    node: Node,
    gate: Arc<Gate>,
    held: mpsc::UnboundedReceiver<Holder>,
    ended: mpsc::UnboundedReceiver<Ended>,
}

impl Gated {
    async fn new() -> Self {
        let house = House::new().await;
        let (held_sender, held) = mpsc::unbounded_channel();
        let (ended_sender, ended) = mpsc::unbounded_channel();
        let Outside { bus, states } = Outside::local();
        let gate = Arc::new(Gate {
            inner: states,
            holds_before: AtomicBool::new(false),
            holds_after: AtomicBool::new(false),
            held: held_sender,
            go_on: Notify::new(),
            ended: ended_sender,
        });
        let states: Arc<dyn ConnectionStates> = gate.clone();
        let node = house.node(move || Outside { bus, states }).await;
        Self {
            house,
            node,
            gate,
            held,
            ended,
        }
    }

    /// The first agent comes in, or back.
    async fn enter(&self, pid: Option<&str>, offset: Option<&str>) -> Client {
        let auth = self.house.auth(0, pid, offset);
        let client = Client::enter(self.node.address, &auth).await;
        client.expect("a node that takes it in")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_before_it_is_let_in_lets_go_of_its_state() {
    let mut gated = Gated::new().await;
    let mine = Room::User(gated.house.agents[0].id);
    let client = gated.enter(None, None).await;
    let pid = client.pid.clone().expect("a pid");
    drop(client);
    let first = within(gated.ended.recv()).await.expect("an end");
    tell(&gated.node, 1, mine).await;
    // More than may wait for it comes while the node is at work, so that the connection ends.
    gated.gate.holds_after.store(true, Ordering::SeqCst);
    let again = knock(gated.node.address, &gated.house.auth(0, Some(&pid), None)).await;
    let held = within(gated.held.recv()).await.expect("a connection");
    assert_ne!(held.connection, first.holder.connection);
    let mut passing = publication(2, &[mine], &json!("-".repeat(2 << 20)));
    Arc::make_mut(&mut passing.envelope).position = None;
    let outcomes = gated.node.bus.publish(&[passing]).await;
    outcomes.expect("a bus that works");
    assert!(!Client::of(again).is_let_in().await);
    let end = within(gated.ended.recv()).await.expect("an end");
    assert_eq!(end.holder, held, "nothing else would ever end it");
    assert_eq!(end.received, first.received, "it has received nothing");
    // And nothing is lost by it.
    gated.gate.holds_after.store(false, Ordering::SeqCst);
    let mut client = gated.enter(Some(&pid), None).await;
    assert_eq!(client.pid.as_deref(), Some(&*pid));
    assert_eq!(numbers(&mut client).await, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_tries_at_once_the_one_that_was_let_in_first_keeps_the_state() {
    let mut gated = Gated::new().await;
    let conversation = gated.house.conversations[0];
    let client = gated.enter(None, None).await;
    let pid = client.pid.clone().expect("a pid");
    drop(client);
    // The first try is held up on its way to the store, and the client tries again.
    gated.gate.holds_before.store(true, Ordering::SeqCst);
    let late = knock(gated.node.address, &gated.house.auth(0, Some(&pid), None)).await;
    within(gated.held.recv()).await.expect("a connection");
    gated.gate.holds_before.store(false, Ordering::SeqCst);
    let mut client = gated.enter(Some(&pid), None).await;
    assert_eq!(client.pid.as_deref(), Some(&*pid));
    gated.gate.go_on.notify_waiters();
    // However that one ends, what the client does on this one is noted.
    let mut late = Client::of(late);
    assert!(!late.is_let_in().await, "it was taken for the client");
    let data = json!({ "conversationId": conversation });
    assert!(client.ask("joinConversation", &data).await);
    drop((client, late));
    tell(&gated.node, 1, Room::Conversation(conversation)).await;
    let mut client = gated.enter(Some(&pid), None).await;
    assert_eq!(client.pid.as_deref(), Some(&*pid));
    assert_eq!(numbers(&mut client).await, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_nonsense_begins_anew_and_the_node_lives() {
    let redis = redis_server::RedisServer::start();
    let settings = redis.settings();
    let house = House::new().await;
    let node = house.node(move || Outside::redis(&settings, "a")).await;
    let mine = Room::User(house.agents[0].id);
    let enter = async |pid: &str, offset: &str| {
        let auth = house.auth(0, Some(pid), Some(offset));
        let client = Client::enter(node.address, &auth).await;
        client.expect("a node that takes it in")
    };
    let client = Client::enter(node.address, &house.auth(0, None, None)).await;
    let mut client = client.expect("a node that takes it in");
    tell(&node, 1, mine).await;
    let heard = client.listen_to("told").await;
    let offset = heard.last().and_then(|one| one.offset.clone());
    let offset = offset.expect("an offset");
    let (epoch, _) = offset.split_once(':').expect("a mark");
    let pid = client.pid.clone().expect("a pid");
    // An offset of this very epoch that nobody has come to, up to the last number there is.
    for future in ["18446744073709551615", "18446744073709551615:0", "99:4"] {
        let client = enter(&pid, &format!("{epoch}:{future}")).await;
        assert_ne!(client.pid.as_deref(), Some(&*pid), "{future}");
    }
    // Names that no state has; one is as long as a packet may be.
    let long = "f".repeat(900_000);
    for nonsense in [long.as_str(), "", "../stream", "\u{0}", &pid[1..]] {
        let client = enter(nonsense, &offset).await;
        assert_ne!(client.pid.as_deref(), Some(nonsense));
    }
    // None of that has cost it its state.
    tell(&node, 2, mine).await;
    let mut client = enter(&pid, &offset).await;
    assert_eq!(client.pid.as_deref(), Some(&*pid));
    assert_eq!(numbers(&mut client).await, [2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_much_as_a_socket_may_have_waiting_is_measured_in_frames() {
    let house = House::new().await;
    let node = house.node(Outside::local).await;
    let client = Client::enter(node.address, &house.auth(0, None, None)).await;
    let pid = client.expect("a node").pid.expect("a pid");
    // Their payloads take a few bytes each, their frames many times that: more than may wait.
    let room = Room::User(house.agents[0].id);
    let small: Vec<_> = (1..=30_000)
        .map(|seq| publication(seq, &[room], &json!(seq)))
        .collect();
    node.bus.publish(&small).await.expect("a bus that works");
    // A connection that is closed for it would come back for the same, again and again.
    let again = Client::enter(node.address, &house.auth(0, Some(&pid), None)).await;
    let mut again = again.expect("a node that takes it in");
    assert_ne!(again.pid.as_deref(), Some(&*pid));
    assert!(numbers(&mut again).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_a_thousand_conversations_open_has_them_again() {
    let redis = redis_server::RedisServer::start();
    let settings = redis.settings();
    let house = House::new().await;
    let (here, there) = (settings.clone(), settings.clone());
    let nodes = [
        house.node(move || Outside::redis(&here, "a")).await,
        house.node(move || Outside::redis(&there, "b")).await,
    ];
    let auth = house.auth(0, None, None);
    let client = Client::enter(nodes[0].address, &auth).await;
    let client = client.expect("a node that takes it in");
    let pid = client.pid.clone().expect("a pid");
    // Joining them one by one would take the test's time: the state is what counts.
    let states = Outside::redis(&settings, "c").states;
    let Found { state, connection } = states
        .find(&pid)
        .await
        .expect("a Redis")
        .expect("an open connection");
    let state = ConnectionState {
        conversations: (1..=1_000).map(ConversationId::new).collect(),
        ..state
    };
    let holder = Holder {
        state: pid.as_str().into(),
        connection: 7,
        since: Duration::ZERO,
    };
    let life = Duration::from_secs(60);
    states.beat(None).await.expect("a Redis");
    let taken = states.open(&holder, &state, life, Some(connection)).await;
    assert!(taken.expect("a Redis"));
    for seq in 1..=2_000 {
        let room = Room::Conversation(ConversationId::new(seq));
        tell(&nodes[0], seq, room).await;
    }
    let auth = house.auth(0, Some(&pid), None);
    let client = Client::enter(nodes[1].address, &auth).await;
    let mut client = client.expect("a node that takes it in");
    assert_eq!(client.pid.as_deref(), Some(&*pid));
    assert!(numbers(&mut client).await.into_iter().eq(1..=1_000));
    tell(
        &nodes[0],
        2_001,
        Room::Conversation(ConversationId::new(1_000)),
    )
    .await;
    client.listen_to("told").await;
}

#[test]
fn a_client_hears_what_the_model_says_on_a_node_that_is_alone() {
    model::a_client_hears_what_the_model_says(model::Kind::Local);
}

#[test]
fn a_client_hears_what_the_model_says_whatever_becomes_of_nodes_and_redis() {
    model::a_client_hears_what_the_model_says(model::Kind::Redis);
}
