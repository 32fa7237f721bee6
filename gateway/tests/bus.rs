//! The contract of `Bus`: one suite for every backend. Its order is also compared with that of a
//! naive model (`bus/model.rs`). What only Redis can go through is in `bus/losses.rs` and
//! `bus/replay.rs`; the order of what is kept in `bus/order.rs`.

#[path = "bus/address.rs"]
mod address;
#[path = "bus/losses.rs"]
mod losses;
#[path = "bus/model.rs"]
mod model;
#[path = "bus/order.rs"]
mod order;
mod redis_server;
#[path = "bus/replay.rs"]
mod replay;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gateway::bus::local::{LocalBus, LocalBusSettings};
use gateway::bus::redis::{Commands, RedisBus, RedisBusSettings};
use gateway::bus::{Bus, Incoming, Publication, PublishOutcome};
use order::{
    a_node_hears_the_place_of_each_and_how_far_it_has_got,
    a_node_knows_where_it_is_before_anything_was_published,
    what_is_kept_is_told_in_order_without_a_hole,
};
use rand::seq::SliceRandom;
use shared::envelope::{Notice, Position, Revocation, RevocationScope};
use shared::{ConversationId, Delivery, Envelope, EventSeq, Role, Room, UserId};
use tokio::sync::mpsc;

/// Nodes on one bus: on Redis two, within a process one.
struct House {
    nodes: Vec<Arc<dyn Bus>>,
    ears: Vec<mpsc::Receiver<Incoming>>,
}

impl House {
    fn new(nodes: Vec<Arc<dyn Bus>>) -> Self {
        let ears = nodes
            .iter()
            .map(|node| node.incoming().expect("the first to ask"))
            .collect();
        Self { nodes, ears }
    }

    fn local() -> Self {
        Self::new(vec![Arc::new(LocalBus::new(&LocalBusSettings::default()))])
    }

    fn redis() -> Self {
        let settings = redis_server::shared_redis();
        Self::new(
            ["a", "b"]
                .map(|node| {
                    let commands = Commands::open(&settings).expect("good settings");
                    let bus = RedisBus::open(commands, node, RedisBusSettings::default());
                    Arc::new(bus) as Arc<dyn Bus>
                })
                .to_vec(),
        )
    }

    fn first(&self) -> &dyn Bus {
        &*self.nodes[0]
    }

    fn last(&self) -> &dyn Bus {
        &*self.nodes[self.nodes.len() - 1]
    }

    async fn subscribe(&self, rooms: &[Room]) {
        for node in &self.nodes {
            node.subscribe(rooms).await.expect("a bus that works");
        }
    }

    async fn publish(&self, publication: Publication) -> PublishOutcome {
        outcome(self.first(), publication).await
    }

    /// The next news of every node, which must be the same.
    async fn next(&mut self) -> Incoming {
        let mut heard = Vec::new();
        for ear in &mut self.ears {
            heard.push(next(ear).await);
        }
        let told: BTreeSet<String> = heard.iter().map(|news| format!("{news:?}")).collect();
        assert_eq!(told.len(), 1, "nodes heard different things: {told:?}");
        heard.remove(0)
    }

    /// Positions heard, in order, up to the mark that this publishes.
    async fn heard(&mut self) -> Vec<Position> {
        let mark = Room::User(UserId::new(i64::MAX));
        self.subscribe(&[mark]).await;
        self.publish(passing(&[mark])).await;
        let mut heard = Vec::new();
        loop {
            let Incoming::Envelope(envelope, _) = self.next().await else {
                panic!("nothing but envelopes was published");
            };
            match envelope.position {
                Some(position) => heard.push(position),
                None if envelope.deliveries[0].rooms == [mark] => return heard,
                None => {}
            }
        }
    }
}

async fn outcome(bus: &dyn Bus, publication: Publication) -> PublishOutcome {
    let outcomes = bus.publish(&[publication]).await.expect("a bus that works");
    assert_eq!(outcomes.len(), 1);
    outcomes[0]
}

/// The next news, but for how far the node has got.
async fn next(ear: &mut mpsc::Receiver<Incoming>) -> Incoming {
    loop {
        let news = tokio::time::timeout(Duration::from_secs(10), ear.recv())
            .await
            .expect("something to hear")
            .expect("an open bus");
        if !matches!(news, Incoming::Reached(_)) {
            return news;
        }
    }
}

fn user(id: i64) -> Room {
    Room::User(UserId::new(id))
}

fn at(conversation: i64, seq: i64) -> Position {
    Position {
        conversation: ConversationId::new(conversation),
        event_seq: EventSeq::new(seq),
    }
}

fn envelope(position: Option<Position>, rooms: &[Room]) -> Publication {
    let data = serde_json::value::to_raw_value("\u{0}\n\"ü\"").expect("JSON");
    Publication {
        envelope: Arc::new(Envelope {
            position,
            deliveries: vec![Delivery {
                event: "test".to_owned(),
                rooms: rooms.to_vec(),
                data,
                origin: None,
                except_user: None,
                lapse: None,
            }],
            sent_at: 0,
            closes: None,
            trace: None,
        }),
        begins_at: None,
    }
}

fn passing(rooms: &[Room]) -> Publication {
    envelope(None, rooms)
}

fn vouched(publication: Publication, begins_at: i64) -> Publication {
    Publication {
        begins_at: Some(EventSeq::new(begins_at)),
        ..publication
    }
}

fn rooms_of(news: &Incoming) -> Vec<Room> {
    let Incoming::Envelope(envelope, _) = news else {
        panic!("not an envelope: {news:?}");
    };
    envelope
        .deliveries
        .iter()
        .flat_map(|to| to.rooms.clone())
        .collect()
}

fn position_of(news: &Incoming) -> Position {
    let Incoming::Envelope(envelope, _) = news else {
        panic!("not an envelope: {news:?}");
    };
    envelope.position.expect("an envelope with a position")
}

async fn only_what_is_subscribed_to_is_heard(mut house: House) {
    house.subscribe(&[user(1)]).await;
    for room in [
        user(2),
        Room::Role(Role::User),
        Room::Conversation(ConversationId::new(1)),
        user(1),
    ] {
        assert_eq!(
            house.publish(passing(&[room])).await,
            PublishOutcome::Published
        );
    }
    assert_eq!(rooms_of(&house.next().await), [user(1)]);
    for node in &house.nodes {
        node.unsubscribe(&[user(1)])
            .await
            .expect("a bus that works");
    }
    // The end of a subscription is not waited for; the second of these comes after it.
    house.subscribe(&[user(3)]).await;
    house.subscribe(&[user(4)]).await;
    for room in [user(1), user(4)] {
        house.publish(passing(&[room])).await;
    }
    assert_eq!(rooms_of(&house.next().await), [user(4)]);
}

async fn what_is_for_several_rooms_is_heard_once(mut house: House) {
    house
        .subscribe(&[user(1), user(2), Room::Role(Role::Admin)])
        .await;
    let mut several = passing(&[user(9), user(1), user(2)]);
    let twice = Arc::make_mut(&mut several.envelope);
    let mut second = twice.deliveries[0].clone();
    second.rooms = vec![user(2), Room::Role(Role::Admin), user(9)];
    twice.deliveries.push(second);
    for _ in 0..3 {
        house.publish(several.clone()).await;
    }
    house.publish(passing(&[user(1)])).await;
    for _ in 0..3 {
        assert_eq!(rooms_of(&house.next().await).len(), 6);
    }
    assert_eq!(rooms_of(&house.next().await), [user(1)]);
}

async fn an_envelope_arrives_whole(mut house: House) {
    house.subscribe(&[user(1)]).await;
    let sent = envelope(Some(at(1, 1)), &[user(1)]);
    house.publish(sent.clone()).await;
    let Incoming::Envelope(heard, _) = house.next().await else {
        panic!("not an envelope");
    };
    let json = |envelope: &Envelope| serde_json::to_string(envelope).expect("JSON");
    assert_eq!(json(&heard), json(&sent.envelope));
}

async fn a_conversation_is_heard_in_order_whoever_publishes_it(mut house: House) {
    const LAST: i64 = 200;
    house.subscribe(&[user(1), user(2)]).await;
    let mut all: Vec<_> = (1..=LAST)
        .flat_map(|seq| [(1, seq), (2, seq), (1, seq)])
        .map(|(conversation, seq)| envelope(Some(at(conversation, seq)), &[user(1), user(2)]))
        .collect();
    all.shuffle(&mut rand::rng());
    // The first of each opens the conversation; the others come as they like, several publishers at once.
    for conversation in [1, 2] {
        house
            .publish(envelope(Some(at(conversation, 1)), &[user(1)]))
            .await;
    }
    let publishers = all.chunks(50).enumerate().map(|(turn, some)| {
        let node = Arc::clone(&house.nodes[turn % house.nodes.len()]);
        let some = some.to_vec();
        tokio::spawn(async move { node.publish(&some).await.expect("a bus that works") })
    });
    for outcomes in join_all(publishers.collect::<Vec<_>>()).await {
        let outcomes = outcomes.expect("no panic");
        assert!(!outcomes.contains(&PublishOutcome::UnknownHead));
    }
    let heard = house.heard().await;
    for conversation in [1, 2] {
        let mut seqs = heard
            .iter()
            .filter(|at| at.conversation.get() == conversation);
        assert!(
            seqs.by_ref().map(|at| at.event_seq.get()).eq(1..=LAST),
            "{heard:?}"
        );
    }
}

async fn a_repeat_is_dropped(mut house: House) {
    house.subscribe(&[user(1)]).await;
    let first = envelope(Some(at(1, 1)), &[user(1)]);
    assert_eq!(
        house.publish(first.clone()).await,
        PublishOutcome::Published
    );
    assert_eq!(house.publish(first.clone()).await, PublishOutcome::Repeat);
    assert_eq!(outcome(house.last(), first).await, PublishOutcome::Repeat);
    assert_eq!(house.heard().await, [at(1, 1)]);
}

async fn what_comes_early_waits_for_its_elder(mut house: House) {
    house.subscribe(&[user(1)]).await;
    let of = |seq| envelope(Some(at(1, seq)), &[user(1)]);
    assert_eq!(house.publish(of(1)).await, PublishOutcome::Published);
    for early in [4, 3, 4, 6] {
        assert_eq!(house.publish(of(early)).await, PublishOutcome::Parked);
    }
    assert_eq!(house.heard().await, [at(1, 1)]);
    assert_eq!(
        outcome(house.last(), of(2)).await,
        PublishOutcome::Published
    );
    for seq in 2..=4 {
        assert_eq!(house.publish(of(seq)).await, PublishOutcome::Repeat);
    }
    assert_eq!(house.heard().await, [at(1, 2), at(1, 3), at(1, 4)]);
    let both = house
        .first()
        .publish(&[of(5), of(6)])
        .await
        .expect("a bus that works");
    assert_eq!(both, [PublishOutcome::Published, PublishOutcome::Repeat]);
    assert_eq!(house.heard().await, [at(1, 5), at(1, 6)]);
}

async fn what_comes_far_too_early_is_kept_by_its_publisher(mut house: House) {
    house.subscribe(&[user(1)]).await;
    let of = |seq| envelope(Some(at(1, seq)), &[user(1)]);
    assert_eq!(
        house.publish(vouched(of(1), 1)).await,
        PublishOutcome::Published
    );
    assert_eq!(house.publish(of(5_000)).await, PublishOutcome::Parked);
    assert_eq!(
        house.publish(vouched(of(4_999), 4_999)).await,
        PublishOutcome::Published
    );
    assert_eq!(house.heard().await, [at(1, 1), at(1, 4_999)]);
    assert_eq!(house.publish(of(5_000)).await, PublishOutcome::Published);
    assert_eq!(house.heard().await, [at(1, 5_000)]);
}

async fn an_unknown_head_needs_a_voucher(mut house: House) {
    house.subscribe(&[user(1)]).await;
    let of = |seq| envelope(Some(at(1, seq)), &[user(1)]);
    assert_eq!(house.publish(of(5)).await, PublishOutcome::UnknownHead);
    assert_eq!(
        house.publish(vouched(of(7), 5)).await,
        PublishOutcome::Parked
    );
    assert_eq!(outcome(house.last(), of(6)).await, PublishOutcome::Parked);
    assert_eq!(house.publish(of(4)).await, PublishOutcome::Repeat);
    assert_eq!(house.publish(of(5)).await, PublishOutcome::Published);
    assert_eq!(house.heard().await, [at(1, 5), at(1, 6), at(1, 7)]);
}

async fn a_voucher_moves_a_head_ahead_and_never_back(mut house: House) {
    house.subscribe(&[user(1)]).await;
    let of = |seq| envelope(Some(at(1, seq)), &[user(1)]);
    assert_eq!(house.publish(of(1)).await, PublishOutcome::Published);
    assert_eq!(house.publish(of(4)).await, PublishOutcome::Parked);
    assert_eq!(
        house.publish(vouched(of(6), 6)).await,
        PublishOutcome::Published
    );
    assert_eq!(
        house.publish(vouched(of(4), 2)).await,
        PublishOutcome::Repeat
    );
    assert_eq!(house.publish(of(7)).await, PublishOutcome::Published);
    assert_eq!(house.heard().await, [at(1, 1), at(1, 6), at(1, 7)]);
}

async fn what_passes_is_in_the_order_of_its_node(mut house: House) {
    house.subscribe(&[user(1)]).await;
    for _ in 0..5 {
        let some: Vec<_> = (1..=100).map(|id| passing(&[user(1), user(id)])).collect();
        let outcomes = house
            .first()
            .publish(&some)
            .await
            .expect("a bus that works");
        assert!(
            outcomes
                .iter()
                .all(|&outcome| outcome == PublishOutcome::Published)
        );
    }
    for turn in 0..500 {
        assert_eq!(
            rooms_of(&house.next().await),
            [user(1), user(turn % 100 + 1)]
        );
    }
}

async fn a_notice_reaches_every_node(mut house: House) {
    // A node with no rooms at all hears it too.
    let notice = Notice::Revoked(Revocation {
        user: UserId::new(1),
        scope: RevocationScope::AllBut(None),
        at: 17,
    });
    house.subscribe(&[]).await;
    house
        .last()
        .announce(&notice)
        .await
        .expect("a bus that works");
    let Incoming::Notice(heard) = house.next().await else {
        panic!("not a notice");
    };
    assert_eq!(heard, notice);
}

async fn the_last_wish_counts_however_fast_they_come(mut house: House) {
    for _ in 0..50 {
        for node in &house.nodes {
            let room = [user(1)];
            let (again, end) = tokio::join!(node.subscribe(&room), node.unsubscribe(&room));
            again.and(end).expect("a bus that works");
            node.subscribe(&[user(1)]).await.expect("a bus that works");
        }
        house.publish(envelope(Some(at(1, 1)), &[user(1)])).await;
        house.publish(passing(&[user(1)])).await;
        let mut news = house.next().await;
        if matches!(&news, Incoming::Envelope(first, _) if first.position.is_some()) {
            news = house.next().await;
        }
        assert_eq!(rooms_of(&news), [user(1)]);
    }
}

async fn many_may_subscribe_at_once(mut house: House) {
    let rooms: Vec<Room> = (1..=3_000).map(user).collect();
    for node in &house.nodes {
        let all = rooms.chunks(7).map(|some| node.subscribe(some));
        for done in join_all(all).await {
            done.expect("a bus that works");
        }
    }
    let some: Vec<_> = rooms.iter().map(|&room| passing(&[room])).collect();
    let sent = {
        let bus = Arc::clone(&house.nodes[0]);
        tokio::spawn(async move { bus.publish(&some).await.map(drop) })
    };
    for room in rooms {
        assert_eq!(rooms_of(&house.next().await), [room]);
    }
    sent.await.expect("no panic").expect("a bus that works");
}

async fn it_answers_for_itself_until_it_is_closed(mut house: House) {
    house.subscribe(&[user(1)]).await;
    for node in &house.nodes {
        node.check().await.expect("a bus that works");
        assert!(node.incoming().is_none(), "the queue is taken once");
    }
    house.publish(passing(&[user(1)])).await;
    for (node, ear) in house.nodes.iter().zip(&mut house.ears) {
        assert_eq!(rooms_of(&next(ear).await), [user(1)]);
        node.close().await;
        node.check().await.expect_err("a closed bus");
        node.publish(&[passing(&[user(1)])])
            .await
            .expect_err("a closed bus");
        node.subscribe(&[user(2)]).await.expect_err("a closed bus");
        let end = tokio::time::timeout(Duration::from_secs(10), async {
            while let Some(news) = ear.recv().await {
                assert!(matches!(news, Incoming::Reached(_)), "{news:?}");
            }
        });
        end.await.expect("an end");
    }
}

macro_rules! contract {
    ($backend:ident: $($case:ident),* $(,)?) => {
        mod $backend {
            use super::House;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(House::$backend()).await;
                }
            )*

            #[test]
            fn it_does_what_the_model_does() {
                super::model::it_does_what_the_model_does(House::$backend);
            }
        }
    };
    ($($backend:ident),*) => {
        $(contract!($backend:
            only_what_is_subscribed_to_is_heard,
            what_is_for_several_rooms_is_heard_once,
            an_envelope_arrives_whole,
            a_conversation_is_heard_in_order_whoever_publishes_it,
            a_repeat_is_dropped,
            what_comes_early_waits_for_its_elder,
            what_comes_far_too_early_is_kept_by_its_publisher,
            an_unknown_head_needs_a_voucher,
            a_voucher_moves_a_head_ahead_and_never_back,
            what_passes_is_in_the_order_of_its_node,
            a_notice_reaches_every_node,
            the_last_wish_counts_however_fast_they_come,
            many_may_subscribe_at_once,
            it_answers_for_itself_until_it_is_closed,
            what_is_kept_is_told_in_order_without_a_hole,
            a_node_hears_the_place_of_each_and_how_far_it_has_got,
            a_node_knows_where_it_is_before_anything_was_published,
        );)*
    };
}

contract!(local, redis);

#[tokio::test]
async fn a_relay_that_does_not_keep_up_holds_the_publishers_back() {
    let bus = LocalBus::new(&LocalBusSettings {
        queue: 2,
        patience: Duration::from_millis(50),
        ..LocalBusSettings::default()
    });
    let mut ear = bus.incoming().expect("the first to ask");
    bus.subscribe(&[user(1)]).await.expect("a bus that works");
    let all: Vec<_> = (1..=4)
        .map(|seq| envelope(Some(at(1, seq)), &[user(1)]))
        .collect();
    bus.publish(&all).await.expect_err("a full queue");
    // What nobody wants to hear needs no room.
    bus.publish(&[passing(&[user(2)])])
        .await
        .expect("room enough");
    // What failed can be published again, and nothing is heard twice.
    let reader = tokio::spawn(async move {
        let mut heard = Vec::new();
        while heard.len() < 4 {
            if let Incoming::Envelope(envelope, _) = next(&mut ear).await {
                heard.extend(envelope.position);
            }
        }
        heard
    });
    use PublishOutcome::{Published, Repeat};
    let outcomes = bus.publish(&all).await.expect("a relay that reads");
    assert_eq!(outcomes, [Repeat, Repeat, Published, Published]);
    let heard = reader.await.expect("no panic");
    assert_eq!(heard, [at(1, 1), at(1, 2), at(1, 3), at(1, 4)]);
}

/// Redis's channels know no database numbers.
#[tokio::test]
async fn installations_in_two_databases_of_one_redis_do_not_hear_each_other() {
    let settings = redis_server::shared_redis();
    let in_database = |number: u8| {
        let mut settings = settings.clone();
        settings.url = format!("{}/{number}", settings.url.trim_end_matches('/'));
        let commands = Commands::open(&settings).expect("good settings");
        RedisBus::open(commands, &format!("n{number}"), RedisBusSettings::default())
    };
    let buses = [in_database(0), in_database(1), in_database(2)];
    let mut ears = Vec::new();
    for bus in &buses {
        ears.push(bus.incoming().expect("the first to ask"));
        bus.subscribe(&[user(1)]).await.expect("a bus that works");
    }
    // Each says something of its own, and then hears only that: its own comes last.
    for (number, bus) in (1..).zip(&buses) {
        let own = envelope(Some(at(number, 1)), &[user(1)]);
        assert_eq!(outcome(bus, own).await, PublishOutcome::Published);
    }
    for ((number, bus), ear) in (1..).zip(&buses).zip(&mut ears) {
        let last = envelope(Some(at(number, 2)), &[user(1)]);
        assert_eq!(outcome(bus, last).await, PublishOutcome::Published);
        for seq in [1, 2] {
            let Incoming::Envelope(heard, _) = next(ear).await else {
                panic!("something else than an envelope was heard");
            };
            assert_eq!(heard.position, Some(at(number, seq)));
        }
    }
}
