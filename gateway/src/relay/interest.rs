//! Which rooms this node wants to hear, kept in step with the bus by one task: joins and leaves only count, so a room that
//! is left and entered again in a hurry can't end unsubscribed, and what many sockets want at once goes out as one call.

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

/// Counts who wants which room.
pub(super) struct Interest {
    table: Arc<Table>,
}

/// Shared with the task.
struct Table {
    rooms: Mutex<Wanted>,
    /// Wakes the task when `changed` has a room.
    wake: Notify,
}

#[derive(Default)]
struct Wanted {
    rooms: HashMap<Room, Want>,
    /// Rooms that the bus is to be told of.
    changed: HashSet<Room>,
}

struct Want {
    members: usize,
    /// True once the bus hears the room. Those who join wait for it.
    heard: watch::Sender<bool>,
}

impl Interest {
    pub(super) fn start(bus: Arc<dyn Bus>, stop: CancellationToken) -> (Self, JoinHandle<()>) {
        let table = Arc::new(Table {
            rooms: Mutex::default(),
            wake: Notify::new(),
        });
        let task = tokio::spawn(table.clone().follow(bus, stop));
        (Self { table }, task)
    }

    /// One more wants a room, until `remove` takes it back. `ready` tells when it is heard.
    pub(super) fn add(&self, room: Room) {
        let mut wanted = self.table.rooms.lock();
        let Wanted { rooms, changed } = &mut *wanted;
        let want = rooms.entry(room).or_insert_with(|| Want {
            members: 0,
            heard: watch::channel(false).0,
        });
        want.members += 1;
        // Taken out of its guard: nothing is called under it.
        let is_heard = *want.heard.borrow();
        if !is_heard {
            changed.insert(room);
            self.table.wake.notify_one();
        }
    }

    /// Returns when a room that somebody wants is heard.
    pub(super) async fn ready(&self, room: Room) -> Result<(), BusError> {
        let heard = self
            .table
            .rooms
            .lock()
            .rooms
            .get(&room)
            .map(|want| want.heard.subscribe());
        match heard {
            Some(heard) => wait(heard).await,
            None => Ok(()),
        }
    }

    /// Whether nobody wants any room, and the bus was told so.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let wanted = self.table.rooms.lock();
        wanted.rooms.is_empty() && wanted.changed.is_empty()
    }

    /// So many want a room no longer.
    pub(super) fn remove(&self, room: Room, members: usize) {
        let mut wanted = self.table.rooms.lock();
        let Some(want) = wanted.rooms.get_mut(&room) else {
            return;
        };
        want.members = want.members.saturating_sub(members);
        if want.members == 0 {
            wanted.changed.insert(room);
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
        let mut wanted = self.rooms.lock();
        let Wanted { rooms, changed } = &mut *wanted;
        let (mut come, mut go) = (Vec::new(), Vec::new());
        for room in changed.drain() {
            let Some(want) = rooms.get(&room) else {
                continue;
            };
            // Taken out of its guard: the arms below write it.
            let is_heard = *want.heard.borrow();
            match (want.members > 0, is_heard) {
                (true, false) => come.push(room),
                (false, true) => {
                    // From here on a join must wait for a new subscription.
                    want.heard.send_replace(false);
                    go.push(room);
                }
                (false, false) => go.push(room),
                (true, true) => {}
            }
        }
        (come, go)
    }

    /// Notes what the bus was told; false where it has to be told again.
    fn settle(&self, settled: &[Room], heard: bool, told: Result<(), BusError>) -> bool {
        let mut wanted = self.rooms.lock();
        let Wanted { rooms, changed } = &mut *wanted;
        if let Err(error) = told {
            tracing::debug!(%error, rooms = settled.len(), "the bus could not be told of rooms");
            changed.extend(settled);
            return false;
        }
        for room in settled {
            let Some(want) = rooms.get(room) else {
                continue;
            };
            if heard {
                want.heard.send_replace(true);
            }
            match (heard, want.members > 0) {
                (true, true) => {}
                (false, false) => {
                    rooms.remove(room);
                }
                // It changed while the bus was told.
                (true, false) | (false, true) => {
                    changed.insert(*room);
                    self.wake.notify_one();
                }
            }
        }
        true
    }
}
