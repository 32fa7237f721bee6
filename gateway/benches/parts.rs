//! The inner parts by themselves: reading and writing frames, a node's fan-out to 10,000 sockets, and the publish script in
//! the Redis of `TEST_REDIS_URL`, where there is one. `make bench-parts` runs them; how often they allocate is asserted in
//! `tests/allocations.rs`.

#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use divan::counter::{BytesCount, ItemsCount};
use divan::{AllocProfiler, Bencher};
use gateway::bus::redis::{Commands, RedisBus, RedisBusSettings, RedisSettings};
use gateway::bus::{Bus, Mark, Place, Publication};
use gateway::hub::{Hub, Member, Outgoing, Share, Source};
use gateway::realtime::Unsent;
use serde_json::value::RawValue;
use shared::envelope::Position;
use shared::protocol::socket_io::{self, Args, MAIN_NAMESPACE};
use shared::protocol::{engine_io, plain};
use shared::{ConversationId, Delivery, Envelope, EventSeq, Room, UserId};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// Lengths of a message's text.
const TEXTS: [usize; 3] = [20, 100, 5_000];

fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).unwrap()
}

/// About what a `chatMessage` bears.
fn payload(text: usize) -> Box<RawValue> {
    raw(format!(
        "{{\"id\":123456,\"conversationId\":7,\"senderId\":3,\"receiverId\":4,\"senderType\":\"client\",\"content\":\"{}\",\
         \"isRead\":false,\"readAt\":null,\"createdAt\":\"2025-01-02T03:04:05.678Z\",\"updatedAt\":\"2025-01-02T03:04:05.678Z\",\
         \"seq\":1000,\"eventSeq\":1001,\"clientMessageId\":null}}",
        "x".repeat(text)
    ))
}

#[divan::bench]
fn decode_pong(bencher: Bencher<'_, '_>) {
    bencher.bench(|| engine_io::decode(black_box("3")).is_ok());
}

#[divan::bench(args = TEXTS)]
fn decode_socket_io_event(bencher: Bencher<'_, '_>, text: usize) {
    let frame = format!(
        "4213[\"chatMessage\",{{\"conversationId\":7,\"message\":\"{}\"}}]",
        "x".repeat(text)
    );
    bencher.counter(BytesCount::of_str(&frame)).bench(|| {
        match engine_io::decode(black_box(&frame)) {
            Ok(engine_io::Packet::Message(packet)) => socket_io::decode(packet, 0).is_ok(),
            _ => false,
        }
    });
}

#[divan::bench(args = TEXTS)]
fn decode_plain_event(bencher: Bencher<'_, '_>, text: usize) {
    let frame = format!(
        "{{\"event\":\"chatMessage\",\"id\":7,\"data\":{{\"conversationId\":7,\"message\":\"{}\"}}}}",
        "x".repeat(text)
    );
    bencher
        .counter(BytesCount::of_str(&frame))
        .bench(|| plain::decode(black_box(&frame)).is_ok());
}

#[divan::bench(args = TEXTS)]
fn encode_socket_io_event(bencher: Bencher<'_, '_>, text: usize) {
    let data = payload(text);
    let mut out = String::with_capacity(10_000);
    bencher
        .counter(BytesCount::of_str(data.get()))
        .bench_local(|| {
            out.clear();
            let args = Args::OneAt(black_box(&data), "0000000000000001-7-0");
            socket_io::write_event(&mut out, MAIN_NAMESPACE, None, "chatMessage", args, 0);
            out.len()
        });
}

#[divan::bench(args = TEXTS)]
fn encode_plain_event(bencher: Bencher<'_, '_>, text: usize) {
    let data = payload(text);
    bencher
        .counter(BytesCount::of_str(data.get()))
        .bench(|| plain::encode_event("chatMessage", black_box(&data)));
}

/// A socket that only counts.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Member for Counter {
    fn deliver(&self, _outgoing: &Arc<Outgoing>, _unsent: &mut Unsent) -> Share {
        self.0.fetch_add(1, Ordering::Relaxed);
        Share::Common
    }
}

/// The hub's own part of a delivery: finding who hears it, each once.
#[divan::bench(args = [1, 3])]
fn hub_fan_out_to_10_000(bencher: Bencher<'_, '_>, rooms: i64) {
    const MEMBERS: usize = 10_000;
    let hub = Hub::new();
    let rooms: Vec<Room> = (1..=rooms)
        .map(|id| Room::Conversation(ConversationId::new(id)))
        .collect();
    for _ in 0..MEMBERS {
        let (key, member) = (hub.key(), Arc::new(Counter::default()));
        for room in &rooms {
            hub.join(*room, key, &member);
        }
    }
    let delivery = Delivery {
        event: "chatMessage".to_owned(),
        rooms,
        data: payload(100),
        origin: None,
        except_user: None,
        lapse: None,
    };
    let place = Place {
        epoch: 1,
        offset: 7,
    };
    let source = Source::Order(Mark { place, delivery: 0 });
    bencher
        .counter(ItemsCount::new(MEMBERS))
        .bench(|| hub.deliver(black_box(&delivery), source, &mut Unsent::default()));
}

/// One call of the publish script, with so many messages of as many conversations.
#[divan::bench(args = [1, 16, 64], sample_count = 200, sample_size = 1)]
fn publish_script(bencher: Bencher<'_, '_>, messages: i64) {
    let Ok(url) = std::env::var("TEST_REDIS_URL") else {
        eprintln!("publish_script: TEST_REDIS_URL names no Redis: left out");
        return;
    };
    static NEXT: AtomicI64 = AtomicI64::new(1);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bus = runtime.block_on(async {
        let mut settings = RedisSettings::new(url);
        // Names of its own: nothing of another run is there.
        settings.prefix = format!("bench:{:016x}:", rand::random::<u64>());
        let commands = Commands::open(&settings).unwrap();
        let bus = RedisBus::open(commands, "bench", RedisBusSettings::default());
        bus.subscribe(&[Room::User(UserId::new(1))]).await.unwrap();
        bus
    });
    let mut incoming = bus.incoming().unwrap();
    runtime.spawn(async move { while incoming.recv().await.is_some() {} });
    bencher
        .counter(ItemsCount::new(messages.unsigned_abs()))
        .with_inputs(|| {
            let publication = |_| Publication {
                envelope: Arc::new(Envelope {
                    position: Some(Position {
                        conversation: ConversationId::new(NEXT.fetch_add(1, Ordering::Relaxed)),
                        event_seq: EventSeq::new(1),
                    }),
                    deliveries: vec![Delivery {
                        event: "chatMessage".to_owned(),
                        rooms: vec![Room::User(UserId::new(1)), Room::User(UserId::new(2))],
                        data: payload(100),
                        origin: None,
                        except_user: None,
                        lapse: None,
                    }],
                    sent_at: 0,
                    closes: None,
                    trace: None,
                }),
                begins_at: None,
            };
            (0..messages).map(publication).collect::<Vec<_>>()
        })
        .bench_values(|batch| runtime.block_on(bus.publish(&batch)).unwrap());
    runtime.block_on(bus.close());
}
