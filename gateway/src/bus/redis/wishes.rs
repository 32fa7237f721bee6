//! Which rooms this node wants to hear: what the link makes true, again and again. A wish is noted at once, whatever state
//! the link is in, so no order of calls and losses can leave the link with an old one.

use std::collections::HashSet;

use parking_lot::Mutex;
use shared::Room;
use tokio::sync::Notify;

/// The wishes, shared by the bus (which notes them) and its link (which fulfils them).
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Guards the wishes and what changed of them as one.
    noted: Mutex<Noted>,
    /// Rings once there is something for the link to look at.
    bell: Notify,
}

#[derive(Debug, Default)]
struct Noted {
    rooms: HashSet<Room>,
    /// Rooms whose wish may differ from what the link last made of it.
    changed: HashSet<Room>,
    /// How many wishes to subscribe there have been: the name of a state.
    version: u64,
}

/// What the link has to do to come up to a version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) version: u64,
    pub(super) subscribe: Vec<Room>,
    pub(super) unsubscribe: Vec<Room>,
}

impl Wishes {
    /// Notes rooms as wanted, and returns the version at which they are heard.
    pub(super) fn add(&self, rooms: &[Room]) -> u64 {
        let version = {
            let mut noted = self.noted.lock();
            for &room in rooms {
                if noted.rooms.insert(room) {
                    noted.changed.insert(room);
                }
            }
            noted.version += 1;
            noted.version
        };
        self.bell.notify_one();
        version
    }

    /// Notes rooms as no longer wanted.
    pub(super) fn remove(&self, rooms: &[Room]) {
        {
            let mut noted = self.noted.lock();
            for room in rooms {
                if noted.rooms.remove(room) {
                    noted.changed.insert(*room);
                }
            }
        }
        self.bell.notify_one();
    }

    /// What a link has to do that has done all before.
    pub(super) fn changes(&self) -> Work {
        let mut noted = self.noted.lock();
        let changed = std::mem::take(&mut noted.changed);
        let (subscribe, unsubscribe) = changed
            .into_iter()
            .partition(|room| noted.rooms.contains(room));
        Work {
            version: noted.version,
            subscribe,
            unsubscribe,
        }
    }

    /// What a new link has to do. To unsubscribe from are, in name, those that changed, wished for now or not: what the link
    /// before heard of them is not for those who wish for them now.
    pub(super) fn everything(&self) -> Work {
        let mut noted = self.noted.lock();
        let changed = std::mem::take(&mut noted.changed);
        Work {
            version: noted.version,
            subscribe: noted.rooms.iter().copied().collect(),
            unsubscribe: changed.into_iter().collect(),
        }
    }

    /// Waits until there may be something to do.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use shared::UserId;

    use super::*;

    #[test]
    fn only_the_last_wish_counts() {
        let room = Room::User(UserId::new(1));
        let wishes = Wishes::default();
        let first = wishes.add(&[room]);
        wishes.remove(&[room]);
        let work = wishes.changes();
        assert_eq!((work.subscribe, work.unsubscribe), (vec![], vec![room]));
        let second = wishes.add(&[room]);
        assert!(second > first && second > work.version);
        wishes.remove(&[room]);
        wishes.add(&[room]);
        assert_eq!(wishes.changes().subscribe, [room]);
        assert_eq!(wishes.changes().subscribe, []);
        // A new link begins with all of them, changed or not.
        assert_eq!(wishes.everything().subscribe, [room]);
        wishes.remove(&[room]);
        wishes.add(&[room]);
        let work = wishes.everything();
        assert_eq!((work.subscribe, work.unsubscribe), (vec![room], vec![room]));
    }
}
