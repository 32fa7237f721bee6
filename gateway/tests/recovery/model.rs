//! What clients hear through random histories, held against a naive model: an endless memory of everything that was
//! published, and of which rooms each client was in.
//!
//! A client that is told that it recovered must have heard all that the model says since its first connection, once each
//! and in order; one that is not begins anew. As long as Redis keeps what it was given, every client must recover.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::bus::redis::RedisSettings;
use gateway::bus::{Publication, PublishOutcome};
use proptest::prelude::*;
use serde_json::json;
use shared::envelope::{Origin, Position};
use shared::{ConversationId, Delivery, Envelope, EventSeq, Role, Room, SocketId};

use super::house::{Client, Heard, House, Node, Outside, PATIENCE, knock};
use super::redis_server::RedisServer;

const NODES: usize = 2;
const PEOPLE: usize = 3;

/// The rooms by number: one for each person, the role's, one for each conversation.
const ROLE: usize = PEOPLE;
const ROOMS: usize = PEOPLE + 4;

/// Which backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Local,
    Redis,
}

/// What happens, one thing after the other.
#[derive(Debug, Clone)]
enum Step {
    /// Somebody publishes: for each delivery its rooms, and whom it is not for; and which client's socket it came from, with
    /// what that one hears of the first delivery.
    Publish(Vec<(BTreeSet<usize>, Option<usize>)>, Option<(usize, bool)>),
    /// A client comes in, or comes back. One that is in leaves its connection as it is, and nobody notices.
    Enter {
        who: usize,
        node: usize,
    },
    /// A client tries to, and gives up: at once, or after the answer, of which it takes no notice.
    Try {
        who: usize,
        node: usize,
        waits: bool,
    },
    Join {
        who: usize,
        room: usize,
    },
    Leave {
        who: usize,
        room: usize,
    },
    /// A client takes in what was sent to it.
    Listen {
        who: usize,
    },
    /// Its connection breaks, and so many of the events it was sent last never came; the node hears of it, or does not.
    Break {
        who: usize,
        lost: usize,
        silently: bool,
    },
    /// A node is killed, and another takes its place.
    Kill {
        node: usize,
    },
    /// Every link is cut.
    Cut,
    /// Redis forgets all but the last so many of the history.
    Trim(usize),
    /// Redis forgets everything.
    Empty,
}

fn steps(kind: Kind) -> impl Strategy<Value = Vec<Step>> {
    let who = || 0..PEOPLE;
    let node = move || match kind {
        Kind::Local => 0..1,
        Kind::Redis => 0..NODES,
    };
    let room = || PEOPLE + 1..ROOMS;
    let rooms = proptest::collection::btree_set(0..ROOMS, 1..4);
    let delivery = (rooms, proptest::option::weighted(0.2, who()));
    let deliveries = proptest::collection::vec(delivery, 1..4);
    let origin = proptest::option::weighted(0.3, (who(), any::<bool>()));
    let common = prop_oneof![
        30 => (deliveries, origin).prop_map(|(deliveries, origin)| Step::Publish(deliveries, origin)),
        12 => (who(), node()).prop_map(|(who, node)| Step::Enter { who, node }),
        4 => (who(), node(), any::<bool>()).prop_map(|(who, node, waits)| Step::Try { who, node, waits }),
        5 => (who(), room()).prop_map(|(who, room)| Step::Join { who, room }),
        2 => (who(), room()).prop_map(|(who, room)| Step::Leave { who, room }),
        6 => who().prop_map(|who| Step::Listen { who }),
        10 => (who(), 0_usize..5, any::<bool>())
            .prop_map(|(who, lost, silently)| Step::Break { who, lost, silently }),
    ];
    let of_redis = prop_oneof![
        2 => node().prop_map(|node| Step::Kill { node }),
        2 => Just(Step::Cut),
        1 => (0_usize..6).prop_map(Step::Trim),
        1 => Just(Step::Empty),
    ];
    // Within a process there is nothing that could be lost.
    let step = match kind {
        Kind::Local => common.boxed(),
        Kind::Redis => prop_oneof![12 => common, 1 => of_redis].boxed(),
    };
    proptest::collection::vec(step, 10..80)
}

pub(crate) fn a_client_hears_what_the_model_says(kind: Kind) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let redis = RedisServer::start();
    let house = runtime.block_on(House::new());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        max_shrink_iters: 200,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&steps(kind), |steps| {
        runtime.block_on(async {
            let mut world = World::new(&house, &redis, kind).await;
            for step in steps {
                world.step(step).await?;
            }
            world.end().await
        })
    });
    outcome.expect("the model agrees");
}

/// One event for one person: the number of its publication, and of its delivery.
type Told = (usize, usize);

/// A person's client.
#[derive(Default)]
struct Person {
    /// Its connection, if it has one, and the node that holds it.
    client: Option<(Client, usize)>,
    /// What a stock client keeps.
    pid: Option<String>,
    offset: Option<String>,
    sid: String,
    /// Whether it has been let in at all. What follows is since it began anew.
    has_begun: bool,
    joined: BTreeSet<usize>,
    /// Also those that it has left.
    ever_joined: BTreeSet<usize>,
    /// What it took in: ours, or something else that has an offset.
    heard: Vec<(Option<Told>, Option<String>)>,
    /// How many of those on this connection.
    here: usize,
    /// The offset that it began anew with.
    before: Option<String>,
    /// What the model says.
    expected: Vec<Told>,
}

struct World<'a> {
    house: &'a House,
    redis: &'a RedisServer,
    settings: RedisSettings,
    kind: Kind,
    nodes: Vec<Node>,
    started: usize,
    people: Vec<Person>,
    /// Connections that nobody reads any more, and that no node knows to be dead.
    forsaken: Vec<Client>,
    published: Vec<Vec<(BTreeSet<usize>, Option<usize>)>>,
    /// Redis has lost something that it was given.
    has_lost: bool,
}

impl<'a> World<'a> {
    async fn new(house: &'a House, redis: &'a RedisServer, kind: Kind) -> Self {
        house.log.0.lock().clear();
        let mut world = World {
            house,
            redis,
            settings: redis.settings(),
            kind,
            nodes: Vec::new(),
            started: 0,
            people: (0..PEOPLE).map(|_| Person::default()).collect(),
            forsaken: Vec::new(),
            published: Vec::new(),
            has_lost: false,
        };
        let nodes = if kind == Kind::Local { 1 } else { NODES };
        for _ in 0..nodes {
            let node = world.start().await;
            world.nodes.push(node);
        }
        world
    }

    async fn start(&mut self) -> Node {
        if self.kind == Kind::Local {
            return self.house.node(Outside::local).await;
        }
        let name = format!("node-{}", self.started);
        self.started += 1;
        let settings = self.settings.clone();
        let sign = format!("{}states:{name}", settings.prefix);
        let node = self.house.node(move || Outside::redis(&settings, &name));
        let node = node.await;
        // Its first sign of life: one that dies before it has not lived.
        let begun = Instant::now();
        while self.redis.ask::<u32>(&["EXISTS", &sign]).await == 0 {
            assert!(begun.elapsed() < PATIENCE, "no sign of life");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        node
    }

    fn room(&self, number: usize) -> Room {
        match number {
            ROLE => Room::Role(Role::Admin),
            person if person < PEOPLE => Room::User(self.house.agents[person].id),
            conversation => Room::Conversation(self.house.conversations[conversation - PEOPLE - 1]),
        }
    }

    async fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Publish(deliveries, origin) => self.publish(deliveries, origin).await,
            Step::Enter { who, node } => self.enter(who, node).await?,
            Step::Try { who, node, waits } => self.try_in_vain(who, node, waits).await,
            Step::Join { who, room } => {
                self.join(who, room).await;
                self.settle(who).await?;
            }
            Step::Leave { who, room } => {
                let data = json!({ "conversationId": self.house.conversations[room - PEOPLE - 1] });
                let person = &mut self.people[who];
                if let Some((client, _)) = &mut person.client {
                    client.ask("leaveConversation", &data).await;
                    person.joined.remove(&room);
                    person.excuse(who, &self.published);
                }
                self.settle(who).await?;
            }
            Step::Listen { who } => self.listen(who).await?,
            Step::Break {
                who,
                lost,
                silently,
            } => {
                self.listen(who).await?;
                if let Some((client, _)) = self.people[who].client.take() {
                    self.people[who].lose(lost);
                    if silently {
                        self.forsaken.push(client);
                    }
                }
            }
            Step::Kill { node } => {
                let new = self.start().await;
                self.nodes[node] = new;
                for person in &mut self.people {
                    person.client.take_if(|(_, held_by)| *held_by == node);
                }
            }
            Step::Cut => {
                let kill = ["CLIENT", "KILL", "TYPE", "pubsub"];
                self.redis.ask::<u32>(&kill).await;
            }
            Step::Trim(left) => {
                self.has_lost = true;
                let history = format!("{}history", self.settings.prefix);
                let left = left.to_string();
                let trim = ["XTRIM", &history, "MAXLEN", &left];
                self.redis.ask::<u32>(&trim).await;
            }
            Step::Empty => {
                self.has_lost = true;
                self.redis.ask::<()>(&["FLUSHALL"]).await;
            }
        }
        Ok(())
    }

    async fn publish(
        &mut self,
        deliveries: Vec<(BTreeSet<usize>, Option<usize>)>,
        origin: Option<(usize, bool)>,
    ) {
        let number = self.published.len();
        let event_seq = EventSeq::new(i64::try_from(number).expect("few") + 1);
        let from = origin.map(|(who, hears)| (self.people[who].sid.clone(), hears));
        let envelope = Envelope {
            position: Some(Position {
                conversation: ConversationId::new(1_000_000),
                event_seq,
            }),
            deliveries: (0..)
                .zip(&deliveries)
                .map(|(place, (rooms, except))| Delivery {
                    event: "told".to_owned(),
                    rooms: rooms.iter().map(|room| self.room(*room)).collect(),
                    data: serde_json::value::to_raw_value(&json!([number, place])).expect("JSON"),
                    origin: from
                        .as_ref()
                        .filter(|_| place == 0)
                        .map(|(sid, hears)| Origin {
                            socket: SocketId::new(sid.as_str()),
                            event: hears.then(|| "own".to_owned()),
                        }),
                    except_user: except.map(|who| self.house.agents[who].id),
                    lapse: None,
                })
                .collect(),
            sent_at: 0,
            closes: None,
            trace: None,
        };
        let envelope = Arc::new(envelope);
        self.house.log.0.lock().push(envelope.clone());
        // Whatever Redis has forgotten: all before it is out.
        let publication = Publication {
            envelope,
            begins_at: Some(event_seq),
        };
        let outcomes = self.nodes[number % self.nodes.len()]
            .bus
            .publish(&[publication])
            .await
            .expect("a bus that works");
        assert_eq!(outcomes, [PublishOutcome::Published]);
        for (who, person) in self.people.iter_mut().enumerate() {
            for (place, (rooms, except)) in deliveries.iter().enumerate() {
                let is_own = place == 0 && origin.is_some_and(|(from, _)| from == who);
                let is_silent = is_own && origin.is_some_and(|(_, hears)| !hears);
                let is_for = *except != Some(who) && person.is_in(who, rooms) && !is_silent;
                if person.has_begun && is_for {
                    person.expected.push((number, place));
                }
            }
        }
        self.published.push(deliveries);
    }

    async fn enter(&mut self, who: usize, node: usize) -> Result<(), TestCaseError> {
        self.listen(who).await?;
        if let Some((client, _)) = self.people[who].client.take() {
            self.forsaken.push(client);
        }
        let begun = Instant::now();
        let client = loop {
            assert!(begun.elapsed() < PATIENCE, "never let in");
            let person = &self.people[who];
            let auth = self
                .house
                .auth(who, person.pid.as_deref(), person.offset.as_deref());
            if let Some(client) = Client::enter(self.nodes[node].address, &auth).await {
                break client;
            }
        };
        let person = &mut self.people[who];
        let has_recovered = client.pid.is_some() && client.pid == person.pid;
        if has_recovered {
            prop_assert_eq!(&client.sid, &person.sid);
        } else {
            prop_assert!(
                self.has_lost || !person.has_begun,
                "{} did not recover, though nothing was lost",
                who
            );
            prop_assert!(self.has_lost || client.pid.is_some());
            *person = Person {
                has_begun: true,
                before: person.offset.clone(),
                offset: person.offset.take(),
                ..Person::default()
            };
        }
        person.here = 0;
        person.pid.clone_from(&client.pid);
        person.sid.clone_from(&client.sid);
        person.client = Some((client, node));
        Ok(())
    }

    async fn try_in_vain(&mut self, who: usize, node: usize, waits: bool) {
        let person = &self.people[who];
        // A client that is in does not try, and one that never was has nothing to lose.
        if person.client.is_some() || person.pid.is_none() {
            return;
        }
        let auth = self
            .house
            .auth(who, person.pid.as_deref(), person.offset.as_deref());
        let socket = knock(self.nodes[node].address, &auth).await;
        if waits {
            let mut client = Client::of(socket);
            client.is_let_in().await;
            self.forsaken.push(client);
        }
    }

    async fn join(&mut self, who: usize, room: usize) {
        let data = json!({ "conversationId": self.house.conversations[room - PEOPLE - 1] });
        let person = &mut self.people[who];
        if let Some((client, _)) = &mut person.client
            && client.ask("joinConversation", &data).await
        {
            person.joined.insert(room);
            person.ever_joined.insert(room);
        }
    }

    /// Nothing is lost that came before an answer.
    async fn settle(&mut self, who: usize) -> Result<(), TestCaseError> {
        self.listen(who).await?;
        self.people[who].here = 0;
        Ok(())
    }

    async fn listen(&mut self, who: usize) -> Result<(), TestCaseError> {
        let person = &mut self.people[who];
        let Some((client, _)) = &mut person.client else {
            return Ok(());
        };
        let (heard, stands) = client.listen().await;
        if !stands {
            person.client = None;
        }
        self.take(who, heard)
    }

    /// A person takes events in: each once, in order, and none that is not for it.
    fn take(&mut self, who: usize, events: Vec<Heard>) -> Result<(), TestCaseError> {
        let person = &mut self.people[who];
        for event in events {
            let told = match event.name.as_str() {
                "told" | "own" => serde_json::from_value::<Told>(event.data).ok(),
                _ => None,
            };
            if let Some(told) = told {
                let last = person.heard.iter().rev().find_map(|(told, _)| *told);
                prop_assert!(
                    last < Some(told),
                    "{} heard {:?} after {:?}",
                    who,
                    told,
                    last
                );
                // What was under way when a room was entered or left may come or not, what was published for a conversation
                // right before it was joined may come with a recovery, and what a link or the log makes good begins before
                // the gap: never twice and never out of order.
                let (rooms, except) = &self.published[told.0][told.1];
                let was_in = person.is_in(who, rooms) || !rooms.is_disjoint(&person.ever_joined);
                let may_be = was_in && *except != Some(who);
                prop_assert!(
                    person.expected.contains(&told) || may_be,
                    "{} heard {:?}, which is not for it",
                    who,
                    told
                );
            }
            if event.offset.is_some() {
                person.offset.clone_from(&event.offset);
            }
            person.heard.push((told, event.offset));
            person.here += 1;
        }
        Ok(())
    }

    /// Everybody who has begun comes back, and has heard everything.
    async fn end(mut self) -> Result<(), TestCaseError> {
        for who in 0..PEOPLE {
            if self.people[who].has_begun && self.people[who].client.is_none() {
                let node = who % self.nodes.len();
                self.enter(who, node).await?;
            }
        }
        let last = self.published.len();
        let all = BTreeSet::from([ROLE]);
        self.publish(vec![(all, None)], None).await;
        for who in 0..PEOPLE {
            let mut heard_all = HashSet::new();
            let begun = Instant::now();
            // One that begins anew now is to hear nothing of all that.
            while self.people[who].expected.last() == Some(&(last, 0))
                && !heard_all.contains(&(last, 0))
            {
                prop_assert!(begun.elapsed() < PATIENCE, "{} never heard the end", who);
                self.listen(who).await?;
                if self.people[who].client.is_none() {
                    let node = who % self.nodes.len();
                    self.enter(who, node).await?;
                }
                let heard = self.people[who].heard.iter();
                heard_all = heard.filter_map(|(told, _)| *told).collect();
            }
            let missed: Vec<_> = self.people[who]
                .expected
                .iter()
                .filter(|told| !heard_all.contains(told))
                .collect();
            prop_assert!(missed.is_empty(), "{} has missed {:?}", who, missed);
        }
        Ok(())
    }
}

impl Person {
    fn is_in(&self, who: usize, rooms: &BTreeSet<usize>) -> bool {
        rooms.contains(&who) || rooms.contains(&ROLE) || !rooms.is_disjoint(&self.joined)
    }

    /// What it has not heard for conversations that it is in no longer, it need not hear.
    fn excuse(&mut self, who: usize, published: &[Vec<(BTreeSet<usize>, Option<usize>)>]) {
        let expected = std::mem::take(&mut self.expected);
        let heard: HashSet<_> = self.heard.iter().filter_map(|(told, _)| *told).collect();
        let is_due =
            |told: &Told| heard.contains(told) || self.is_in(who, &published[told.0][told.1].0);
        self.expected = expected.into_iter().filter(is_due).collect();
    }

    /// The last events of this connection never came.
    fn lose(&mut self, count: usize) {
        let kept = self.heard.len() - count.min(self.here);
        self.heard.truncate(kept);
        let offset = self
            .heard
            .iter()
            .rev()
            .find_map(|(_, offset)| offset.clone());
        self.offset = offset.or_else(|| self.before.clone());
        self.here = 0;
    }
}
