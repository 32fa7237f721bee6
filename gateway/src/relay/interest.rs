//! Which rooms this node wants to hear, kept in step with the bus by one task. Joins and leaves only say that a room is to
//! be looked at; whether it is wanted is asked of the hub when its turn comes. So there is no count that could drift, a
//! room that is left and entered again in a hurry can't end unsubscribed, and what many sockets want at once goes out as
//! one call.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shared::Room;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusError};

/// How long a join waits for its room before it fails.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a failed call waits for the next try.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// The most rooms one call names.
const MAX_ROOMS: usize = 1_000;

/// Whether somebody is in a room just now.
pub(super) type IsWanted = Box<dyn Fn(Room) -> bool + Send + Sync>;

/// Keeps the bus's subscriptions in step with the rooms that are wanted.
pub(super) struct Interest {
    table: Arc<Table>,
}

/// Shared with the task.
struct Table {
    rooms: Mutex<Rooms>,
    /// Wakes the task when `changed` has a room.
    wake: Notify,
    is_wanted: IsWanted,
}

#[derive(Default)]
struct Rooms {
    /// True once the bus hears the room. Those who join wait for it; a sender that is dropped tells them that nobody wanted
    /// the room when its turn came.
    heard: HashMap<Room, watch::Sender<bool>>,
    /// Rooms to be looked at.
    changed: HashSet<Room>,
}

impl Interest {
    pub(super) fn start(
        is_wanted: IsWanted,
        bus: Arc<dyn Bus>,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let table = Arc::new(Table {
            rooms: Mutex::default(),
            wake: Notify::new(),
            is_wanted,
        });
        let task = tokio::spawn(table.clone().follow(bus, stop));
        (Self { table }, task)
    }

    /// Returns when a room that somebody is in is heard.
    pub(super) async fn ready(&self, room: Room) -> Result<(), BusError> {
        let heard = {
            let mut rooms = self.table.rooms.lock();
            let heard = rooms
                .heard
                .entry(room)
                .or_insert_with(|| watch::channel(false).0)
                .subscribe();
            if *heard.borrow() {
                return Ok(());
            }
            rooms.changed.insert(room);
            heard
        };
        self.table.wake.notify_one();
        wait(heard).await
    }

    /// Whether nobody wants any room, and the bus was told so.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let rooms = self.table.rooms.lock();
        rooms.heard.is_empty() && rooms.changed.is_empty()
    }

    /// Somebody left a room.
    pub(super) fn left(&self, room: Room) {
        if !(self.table.is_wanted)(room) {
            self.table.rooms.lock().changed.insert(room);
            self.table.wake.notify_one();
        }
    }
}

async fn wait(mut heard: watch::Receiver<bool>) -> Result<(), BusError> {
    match timeout(JOIN_TIMEOUT, heard.wait_for(|heard| *heard)).await {
        // Forgotten, as nobody wants it any more: whoever waits was taken out of it meanwhile, by its closing.
        Ok(Ok(_) | Err(_)) => Ok(()),
        Err(_) => Err(BusError("a room could not be subscribed to in time".into())),
    }
}

impl Table {
    async fn follow(self: Arc<Self>, bus: Arc<dyn Bus>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                () = stop.cancelled() => return,
            }
            let (come, go) = self.take_changes();
            let mut failed = false;
            for rooms in come.chunks(MAX_ROOMS) {
                failed |= !self.settle(rooms, true, bus.subscribe(rooms).await);
            }
            for rooms in go.chunks(MAX_ROOMS) {
                failed |= !self.settle(rooms, false, bus.unsubscribe(rooms).await);
            }
            if failed {
                tokio::time::sleep(RETRY_DELAY).await;
                self.wake.notify_one();
            }
        }
    }

    /// The rooms to subscribe to, and those to leave.
    fn take_changes(&self) -> (Vec<Room>, Vec<Room>) {
        let mut rooms = self.rooms.lock();
        let Rooms { heard, changed } = &mut *rooms;
        let (mut come, mut go) = (Vec::new(), Vec::new());
        for room in changed.drain() {
            let Some(heard) = heard.get(&room) else {
                continue;
            };
            // Taken out of its guard: what follows writes it.
            let is_heard = *heard.borrow();
            match ((self.is_wanted)(room), is_heard) {
                (true, false) => come.push(room),
                (true, true) => {}
                (false, _) => {
                    // From here on a join waits for a new subscription.
                    heard.send_replace(false);
                    go.push(room);
                }
            }
        }
        (come, go)
    }

    /// Notes what the bus was told; false where it has to be told again.
    fn settle(&self, settled: &[Room], is_heard: bool, told: Result<(), BusError>) -> bool {
        let mut rooms = self.rooms.lock();
        let Rooms { heard, changed } = &mut *rooms;
        if let Err(error) = told {
            tracing::debug!(%error, rooms = settled.len(), "the bus could not be told of rooms");
            changed.extend(settled);
            return false;
        }
        for room in settled {
            let is_wanted = (self.is_wanted)(*room);
            if is_heard {
                if let Some(heard) = heard.get(room) {
                    heard.send_replace(true);
                }
            } else if !is_wanted {
                // Whoever still waits for it is not in it any more.
                heard.remove(room);
            }
            if is_wanted != is_heard {
                // It changed while the bus was told.
                changed.insert(*room);
                self.wake.notify_one();
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use shared::UserId;
    use shared::envelope::Notice;
    use tokio::sync::mpsc;

    use super::*;
    use crate::bus::{Incoming, Kept, Place, Publication, PublishOutcome};

    /// Notes what it was told, and takes its time over it.
    #[derive(Default)]
    struct Slow {
        subscribed: Mutex<HashSet<Room>>,
    }

    #[async_trait]
    impl Bus for Slow {
        async fn publish(&self, _: &[Publication]) -> Result<Vec<PublishOutcome>, BusError> {
            Ok(Vec::new())
        }
        async fn announce(&self, _: &Notice) -> Result<(), BusError> {
            Ok(())
        }
        async fn subscribe(&self, rooms: &[Room]) -> Result<(), BusError> {
            tokio::time::sleep(Duration::from_millis(3)).await;
            self.subscribed.lock().extend(rooms);
            Ok(())
        }
        async fn unsubscribe(&self, rooms: &[Room]) -> Result<(), BusError> {
            tokio::time::sleep(Duration::from_millis(2)).await;
            self.subscribed.lock().retain(|room| !rooms.contains(room));
            Ok(())
        }
        fn incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
            None
        }
        async fn here(&self) -> Result<Option<Place>, BusError> {
            Ok(None)
        }
        async fn kept_after(&self, _: Place, _: usize) -> Result<Option<Vec<Kept>>, BusError> {
            Ok(None)
        }
        async fn check(&self) -> Result<(), BusError> {
            Ok(())
        }
        async fn close(&self) {}
    }

    /// Members of rooms, as the hub has them.
    type Members = Arc<Mutex<HashMap<Room, usize>>>;

    fn enter(members: &Members, room: Room) {
        *members.lock().entry(room).or_default() += 1;
    }

    fn leave(members: &Members, room: Room) {
        *members.lock().entry(room).or_default() -= 1;
    }

    fn start() -> (Members, Arc<Slow>, Arc<Interest>) {
        let members = Members::default();
        let bus = Arc::new(Slow::default());
        let is_wanted = {
            let members = members.clone();
            Box::new(move |room| members.lock().get(&room).is_some_and(|count| *count > 0))
        };
        let (interest, _) = Interest::start(is_wanted, bus.clone(), CancellationToken::new());
        (members, bus, Arc::new(interest))
    }

    #[tokio::test(start_paused = true)]
    async fn who_joins_is_heard_whatever_hurry_there_was_before() {
        let (members, bus, interest) = start();
        let sockets = (0..24_u32).map(|socket| {
            let (members, bus, interest) = (members.clone(), bus.clone(), interest.clone());
            tokio::spawn(async move {
                for round in 0..100 {
                    let room = Room::User(UserId::new(i64::from(round % 3) + 1));
                    enter(&members, room);
                    interest.ready(room).await.unwrap();
                    assert!(bus.subscribed.lock().contains(&room));
                    tokio::time::sleep(Duration::from_millis(u64::from((socket + round) % 5)))
                        .await;
                    assert!(bus.subscribed.lock().contains(&room));
                    leave(&members, room);
                    interest.left(room);
                }
            })
        });
        for socket in sockets.collect::<Vec<_>>() {
            socket.await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(bus.subscribed.lock().is_empty());
        assert!(interest.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_that_was_closed_meanwhile_is_not_waited_for() {
        let (members, _, interest) = start();
        let room = Room::User(UserId::new(1));
        enter(&members, room);
        let ready = interest.ready(room);
        leave(&members, room);
        timeout(Duration::from_secs(1), ready)
            .await
            .unwrap()
            .unwrap();
        assert!(interest.is_idle());
    }
}
