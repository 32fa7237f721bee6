//! Sockets end with their tokens: a minute before, they are told; when the time has come, they are closed. One table and
//! one task for all sockets of the node, so that an idle socket needs no timer of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use shared::Timestamp;
use shared::event::{TokenExpiry, name};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::participant::Participant;
use super::reply::emit;
use crate::chat::raw;
use crate::hub::MemberKey;
use crate::realtime::CloseKind;

/// How long before its token's end a socket is told, milliseconds.
const WARNING_MS: i64 = 60_000;

/// How often the table is looked at: a socket is closed within this of its token's end, where 5 s are promised.
const TICK: Duration = Duration::from_secs(1);

/// The sockets by the time something is next due for them.
#[derive(Default)]
pub(super) struct Expiry {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Keyed by milliseconds since 1970.
    due: BTreeMap<(i64, MemberKey), Weak<Participant>>,
    /// Where each socket stands in `due`.
    places: std::collections::HashMap<MemberKey, i64>,
}

impl Expiry {
    /// Minds a socket's token; also a new one of a socket that is minded.
    pub(super) fn watch(&self, participant: &Arc<Participant>) {
        let expires = participant.identity().expires_at.unix_millis();
        self.put(participant, expires - WARNING_MS);
        if expires - WARNING_MS <= Timestamp::now().unix_millis() {
            // A token that is nearly over when it is shown: told at once, not with the next look.
            self.mind(participant, Timestamp::now().unix_millis());
        }
    }

    /// Minds it no longer.
    pub(super) fn forget(&self, participant: &Participant) {
        self.table.lock().remove(participant.key);
    }

    /// Looks at the table until `stop`.
    pub(super) async fn tend(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let now = Timestamp::now().unix_millis();
            // A closure, so that the lock is free again when the body needs it.
            let next = || self.table.lock().take_due(now);
            while let Some(participant) = next() {
                if let Some(participant) = participant.upgrade() {
                    self.mind(&participant, now);
                }
            }
        }
    }

    /// Does what is due for one socket, and puts it back for what is next.
    fn mind(&self, participant: &Arc<Participant>, now: i64) {
        let expires_at = participant.identity().expires_at;
        let expires = expires_at.unix_millis();
        if now >= expires {
            participant.close(CloseKind::Expired);
        } else if now >= expires - WARNING_MS {
            if participant.warn_once()
                && let Ok(data) = raw(&TokenExpiry { expires_at })
            {
                emit(participant.socket(), name::TOKEN_EXPIRING, data);
            }
            self.put(participant, expires);
        } else {
            self.put(participant, expires - WARNING_MS);
        }
    }

    fn put(&self, participant: &Arc<Participant>, due: i64) {
        let mut table = self.table.lock();
        table.remove(participant.key);
        table
            .due
            .insert((due, participant.key), Arc::downgrade(participant));
        table.places.insert(participant.key, due);
    }
}

impl Table {
    fn remove(&mut self, key: MemberKey) {
        if let Some(due) = self.places.remove(&key) {
            self.due.remove(&(due, key));
        }
    }

    fn take_due(&mut self, now: i64) -> Option<Weak<Participant>> {
        let entry = self
            .due
            .first_entry()
            .filter(|entry| entry.key().0 <= now)?;
        let ((_, key), participant) = entry.remove_entry();
        self.places.remove(&key);
        Some(participant)
    }
}
