//! This node's sockets: which are in which room, and how an event gets to all of them. It knows no Redis: what comes from
//! other nodes is handed in by the relay.

mod outgoing;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use shared::{Delivery, Room, UserId};

use crate::realtime::Unsent;
use crate::telemetry::metrics as names;
pub use outgoing::{Outgoing, Share, Source};

/// Rooms are spread over this many locks, so that joins and deliveries rarely meet.
const SHARDS: usize = 64;

/// A socket, as its rooms know it.
pub trait Member: Send + Sync + 'static {
    /// Takes an event, or leaves it where it is not for it; what it takes is written at the latest when `unsent` is sent. Must
    /// not block. Returns what it took.
    fn deliver(&self, outgoing: &Arc<Outgoing>, unsent: &mut Unsent) -> Share;
}

/// The rooms of one node.
pub struct Hub<M> {
    shards: Box<[Mutex<Rooms<M>>]>,
    hasher: RandomState,
    next_key: AtomicU64,
    delivered: names::EventCounts,
}

type Rooms<M> = HashMap<Room, HashMap<MemberKey, Arc<M>>>;

/// A member's name within its hub: cheaper to hash than a socket's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey(u64);

impl<M: Member> Hub<M> {
    /// A hub without rooms.
    pub fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            next_key: AtomicU64::new(0),
            delivered: names::EventCounts::new("out"),
        }
    }

    /// A name for a member that will join.
    pub fn key(&self) -> MemberKey {
        MemberKey(self.next_key.fetch_add(1, Ordering::Relaxed))
    }

    /// Puts a member into a room; false where it was in.
    pub fn join(&self, room: Room, key: MemberKey, member: &Arc<M>) -> bool {
        self.shard(room)
            .lock()
            .entry(room)
            .or_default()
            .insert(key, member.clone())
            .is_none()
    }

    /// Takes a member out of a room; false where it was not in.
    pub fn leave(&self, room: Room, key: MemberKey) -> bool {
        let mut rooms = self.shard(room).lock();
        let Some(members) = rooms.get_mut(&room) else {
            return false;
        };
        let left = members.remove(&key).is_some();
        if members.is_empty() {
            rooms.remove(&room);
        }
        left
    }

    /// Empties a room that is no more.
    pub fn close(&self, room: Room) {
        self.shard(room).lock().remove(&room);
    }

    /// Whether anybody is in a room.
    pub fn has_members(&self, room: Room) -> bool {
        self.shard(room).lock().contains_key(&room)
    }

    /// Everybody in a room.
    pub fn members(&self, room: Room) -> Vec<Arc<M>> {
        self.shard(room)
            .lock()
            .get(&room)
            .map(|members| members.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Everybody who has a socket here.
    pub fn users(&self) -> Vec<UserId> {
        let of_shard = |shard: &Mutex<Rooms<M>>| {
            let rooms = shard.lock();
            let user = |room: &Room| {
                if let Room::User(user) = room {
                    Some(*user)
                } else {
                    None
                }
            };
            rooms.keys().filter_map(user).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of_shard).collect()
    }

    /// Sends an event to every member of its rooms, once each, and to the socket that caused it what that one is to hear.
    /// Never waits, and only puts it in: `unsent` is the caller's to send, with what else is delivered by then. Returns how
    /// many sockets it went to.
    pub fn deliver(&self, delivery: &Delivery, source: Source, unsent: &mut Unsent) -> usize {
        let outgoing = Arc::new(Outgoing::new(delivery, source));
        let mut sent = 0;
        let mut sent_to_origin = 0;
        let mut send = |member: &M| match member.deliver(&outgoing, unsent) {
            Share::Nothing => {}
            Share::Common => sent += 1,
            Share::Origin => sent_to_origin += 1,
        };
        // Nothing is written yet, so a room's lock is held while its members are gone through.
        if let [room] = delivery.rooms.as_slice() {
            if let Some(members) = self.shard(*room).lock().get(room) {
                members.values().for_each(|member| send(member));
            }
        } else {
            let mut seen = HashSet::new();
            for room in &delivery.rooms {
                if let Some(members) = self.shard(*room).lock().get(room) {
                    for (key, member) in members {
                        if seen.insert(*key) {
                            send(member);
                        }
                    }
                }
            }
        }
        for (share, count) in [(Share::Common, sent), (Share::Origin, sent_to_origin)] {
            if count > 0
                && let Some(event) = outgoing.event(share)
            {
                self.delivered.add(event.name(), count);
            }
        }
        sent + sent_to_origin
    }

    fn shard(&self, room: Room) -> &Mutex<Rooms<M>> {
        let hash = self.hasher.hash_one(room);
        // The remainder is below the number of shards, so it fits.
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        &self.shards[(hash % SHARDS as u64) as usize]
    }
}

impl<M: Member> Default for Hub<M> {
    fn default() -> Self {
        Self::new()
    }
}
