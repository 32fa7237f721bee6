//! What allocates, and how often, on the ways that every frame and every delivery takes: none where nothing has to be kept, and
//! never more for more listeners. Times are not looked at here: see `benches/`.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use allocation_counter::measure;
use gateway::bus::{Mark, Place};
use gateway::hub::{Hub, Member, Outgoing, Share, Source};
use gateway::realtime::Unsent;
use serde_json::value::RawValue;
use shared::protocol::socket_io::{self, Args, MAIN_NAMESPACE};
use shared::protocol::{engine_io, plain};
use shared::{ConversationId, Delivery, Room, UserId};

/// How many times something allocates.
fn allocations(run: impl FnOnce()) -> u64 {
    measure(run).count_total
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

#[test]
fn engine_io_packets_are_read_where_they_lie() {
    for frame in ["2", "3", "2probe", "3probe", "5", "6", "42[\"typing\",{}]"] {
        let count = allocations(|| {
            black_box(engine_io::decode(black_box(frame)).unwrap());
        });
        assert_eq!(count, 0, "{frame}");
    }
}

#[test]
fn an_event_that_comes_in_allocates_as_often_however_long_it_is() {
    let long = format!(
        "2[\"chatMessage\",{{\"conversationId\":7,\"message\":\"{}\"}}]",
        "x".repeat(4_000)
    );
    for text in ["213[\"chatMessage\",{\"conversationId\":7}]", &long] {
        let count = allocations(|| {
            black_box(socket_io::decode(black_box(text), 0).unwrap());
        });
        // Its name and its payload are kept, and one is read apart first.
        assert!(count <= 3, "{count}");
    }
    let frame = "{\"event\":\"typing\",\"id\":7,\"data\":{\"conversationId\":7,\"isTyping\":true}}";
    let count = allocations(|| {
        black_box(plain::decode(black_box(frame)).unwrap());
    });
    assert!(count <= 2, "{count}");
}

#[test]
fn writing_into_a_buffer_that_is_long_enough_allocates_nothing() {
    let data = raw("{\"conversationId\":7,\"userId\":3,\"isTyping\":true}");
    let mut out = String::with_capacity(1_000);
    let count = allocations(|| {
        socket_io::write_event(
            &mut out,
            MAIN_NAMESPACE,
            None,
            "typingStatus",
            Args::OneAt(&data, "0000000000000001-7-0"),
            0,
        );
        socket_io::write_ack(&mut out, MAIN_NAMESPACE, 7, Args::One(&data), 0);
    });
    assert_eq!(count, 0, "{out}");
    assert!(out.contains("typingStatus"));
    let count = allocations(|| {
        black_box(plain::encode_event("typingStatus", &data));
    });
    assert_eq!(count, 1, "a frame is one piece of memory");
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

/// How often a delivery to one room of so many members allocates, and to three rooms with the same members.
fn delivery(members: usize) -> (u64, u64) {
    let hub = Hub::new();
    let rooms = [1, 2, 3].map(|id| Room::Conversation(ConversationId::new(id)));
    for _ in 0..members {
        let (key, member) = (hub.key(), Arc::new(Counter::default()));
        for room in rooms {
            hub.join(room, key, &member);
        }
    }
    let to = |rooms: &[Room]| Delivery {
        event: "chatMessage".to_owned(),
        rooms: rooms.to_vec(),
        data: raw("{\"conversationId\":7,\"content\":\"hello\"}"),
        origin: None,
        except_user: Some(UserId::new(9)),
        lapse: None,
    };
    let (one, three) = (to(&rooms[..1]), to(&rooms));
    let place = Place {
        epoch: 1,
        offset: 7,
    };
    let source = Source::Order(Mark { place, delivery: 0 });
    let count = |delivery: &Delivery| {
        allocations(|| {
            assert_eq!(
                black_box(hub.deliver(delivery, source, &mut Unsent::default())),
                members
            )
        })
    };
    // What is set up once for the whole program is not the delivery's.
    count(&one);
    (count(&one), count(&three))
}

#[test]
fn a_delivery_allocates_as_often_for_ten_thousand_members_as_for_one() {
    let (one, _) = delivery(1);
    let (many, _) = delivery(10_000);
    assert_eq!(one, many);
    assert!(one <= 10, "{one}");
}
