//! Connection states within one process.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use shared::ConversationId;

use crate::bus::{BusError, Mark};
use crate::cluster::{AWAY, ConnectionState, ConnectionStates, Ended, Found, Holder, Received};

/// The states of a node that is alone. They end with it.
#[derive(Debug)]
pub struct LocalConnectionStates {
    table: Mutex<Table>,
    away: Duration,
}

/// Guarded as one.
#[derive(Debug, Default)]
struct Table {
    states: HashMap<Box<str>, Entry>,
    received: Option<Received>,
}

#[derive(Debug)]
struct Entry {
    connection: u64,
    since: Duration,
    state: ConnectionState,
    /// Forgotten then: `None` while its connection is open, which always says when it ends.
    until: Option<Instant>,
}

impl Default for LocalConnectionStates {
    fn default() -> Self {
        Self::new(AWAY)
    }
}

impl LocalConnectionStates {
    /// No states. Each is kept for so long after its connection's end.
    pub fn new(away: Duration) -> Self {
        Self {
            table: Mutex::default(),
            away,
        }
    }
}

#[async_trait]
impl ConnectionStates for LocalConnectionStates {
    async fn open(
        &self,
        holder: &Holder,
        state: &ConnectionState,
        _: Duration,
        instead_of: Option<u64>,
    ) -> Result<bool, BusError> {
        let mut table = self.table.lock();
        if let Some(before) = instead_of
            && table.known(&holder.state).map(|entry| entry.connection) != Some(before)
        {
            return Ok(false);
        }
        let entry = Entry {
            connection: holder.connection,
            since: holder.since,
            state: state.clone(),
            until: None,
        };
        table.states.insert(holder.state.clone(), entry);
        Ok(true)
    }

    async fn update(
        &self,
        holder: &Holder,
        conversations: &[ConversationId],
        _: Duration,
    ) -> Result<(), BusError> {
        if let Some(entry) = self.table.lock().held_by(holder) {
            entry.state.conversations = conversations.to_vec();
        }
        Ok(())
    }

    async fn end(&self, ended: &[Ended]) -> Result<(), BusError> {
        let mut table = self.table.lock();
        for Ended { holder, received } in ended {
            let Some(entry) = table.held_by(holder) else {
                continue;
            };
            match received {
                Some(from) => {
                    entry.state.from = *from;
                    entry.until = Some(Instant::now() + self.away);
                }
                None => {
                    table.states.remove(&holder.state);
                }
            }
        }
        Ok(())
    }

    async fn find(&self, state: &str) -> Result<Option<Found>, BusError> {
        let table = self.table.lock();
        let Some(entry) = table.known(state) else {
            return Ok(None);
        };
        let connection = entry.connection;
        let mut state = entry.state.clone();
        if let Some(received) = table.received
            && entry.until.is_none()
            && entry.since <= received.since
        {
            let marks = [state.from, Mark::after(received.place)];
            state.from = Mark::latest(marks, received.place.epoch).unwrap_or(state.from);
        }
        Ok(Some(Found { state, connection }))
    }

    async fn beat(&self, received: Option<Received>) -> Result<(), BusError> {
        let mut table = self.table.lock();
        table.received = received;
        let now = Instant::now();
        let before = table.states.len();
        table
            .states
            .retain(|_, entry| entry.until.is_none_or(|until| until > now));
        if table.states.len() < before / 2 {
            table.states.shrink_to_fit();
        }
        Ok(())
    }
}

impl Table {
    /// The state, if it may still be picked up.
    fn known(&self, state: &str) -> Option<&Entry> {
        let entry = self.states.get(state)?;
        let is_over = entry.until.is_some_and(|until| until <= Instant::now());
        (!is_over).then_some(entry)
    }

    /// The state that a connection holds, unless that has ended.
    fn held_by(&mut self, holder: &Holder) -> Option<&mut Entry> {
        let entry = self.states.get_mut(&holder.state)?;
        let is_open = entry.until.is_none();
        (is_open && entry.connection == holder.connection).then_some(entry)
    }
}
