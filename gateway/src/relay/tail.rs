//! The end of what the bus keeps, for sockets that come back: read once for all that ask at the same time, found by room,
//! and let go of when nobody has asked for a while. A node that takes in thousands of another one's clients reads it a
//! few times, not thousands.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::{Envelope, Room};
use tokio::sync::Mutex;

use crate::bus::{Bus, BusError, Kept, Mark, Place};
use crate::hub::{Outgoing, Source};

/// How many envelopes one look takes.
const PAGE: usize = 512;

/// The most bytes that are held: some 65,000 envelopes of short messages, at about three kilobytes each, which is two minutes of
/// 500 messages a second. Redis may keep more (`RedisBusSettings::history`): a client that missed more of the bus's traffic
/// than this is not recovered, and asks the database, by `sync`.
const MOST_BYTES: usize = 192 * 1024 * 1024;

/// About what an event takes beside its payload: itself, its rooms, and where they find it. With many small ones it is most.
const EVENT_BYTES: usize = 512;

/// How long nobody must have asked before it is let go of: longer than the clients of a node that died take to come back.
const IDLE: Duration = Duration::from_secs(60);

/// What a socket missed.
#[derive(Debug)]
pub struct Missed {
    /// In order. Whether an event is for the socket in the end, `Outgoing::share_of` tells.
    pub events: Vec<Arc<Outgoing>>,
    /// All of its rooms' events up to here are among them, or came before.
    pub reached: Place,
}

/// The tail, held by the relay.
pub(super) struct Tail {
    bus: Arc<dyn Bus>,
    /// Held while the bus is read: those who ask meanwhile wait, and find what was read.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    epoch: u64,
    /// The offset before the first entry.
    before: u64,
    /// Without a hole from `before` on.
    entries: VecDeque<Entry>,
    /// The offsets of each room's entries, in order.
    rooms: HashMap<Room, VecDeque<u64>>,
    /// The sum over `entries`.
    bytes: usize,
    /// What was published before this is in it.
    fresh_as_of: Option<Instant>,
    used: Option<Instant>,
}

/// One envelope's deliveries.
struct Entry {
    deliveries: Vec<(Vec<Room>, Arc<Outgoing>)>,
    bytes: usize,
}

impl Tail {
    pub(super) fn new(bus: Arc<dyn Bus>) -> Self {
        Self {
            bus,
            state: Mutex::default(),
        }
    }

    /// What came after a mark for any of the rooms, until this was called at least. `None` where that can't be told.
    pub(super) async fn after(
        &self,
        mark: Mark,
        rooms: &[Room],
    ) -> Result<Option<Missed>, BusError> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        state.used = Some(asked);
        let from = mark.whole();
        if !state.reaches_back_to(from) && !state.lengthen(&*self.bus, from).await? {
            return Ok(None);
        }
        if state.fresh_as_of.is_none_or(|fresh| fresh < asked) && !state.refresh(&*self.bus).await?
        {
            // It was of another epoch, or trimmed at its end: once more, from this one's place.
            *state = State::at(from);
            if !state.refresh(&*self.bus).await? {
                *state = State::default();
                return Ok(None);
            }
        }
        Ok(state.collect(mark, rooms))
    }

    /// Where the bus stands: what is published after this was called has a later place.
    pub(super) async fn here(&self) -> Result<Option<Place>, BusError> {
        self.bus.here().await
    }

    /// Lets go of what nobody asks for. To be called now and then.
    pub(super) async fn tidy(&self) {
        let mut state = self.state.lock().await;
        if state.used.is_some_and(|used| used.elapsed() > IDLE) {
            *state = State::default();
        }
    }
}

impl State {
    /// Nothing after a place, yet.
    fn at(place: Place) -> Self {
        Self {
            epoch: place.epoch,
            before: place.offset,
            used: Some(Instant::now()),
            ..Self::default()
        }
    }

    fn end(&self) -> Place {
        Place {
            epoch: self.epoch,
            offset: self.before + self.entries.len() as u64,
        }
    }

    fn reaches_back_to(&self, place: Place) -> bool {
        self.fresh_as_of.is_some() && self.epoch == place.epoch && self.before <= place.offset
    }

    /// Puts what came after an earlier place before what there is. False where it is not kept, or too much.
    async fn lengthen(&mut self, bus: &dyn Bus, from: Place) -> Result<bool, BusError> {
        if self.fresh_as_of.is_none() || self.epoch != from.epoch {
            if bus.kept_after(from, 1).await?.is_none() {
                return Ok(false);
            }
            *self = Self::at(from);
            return Ok(true);
        }
        let mut earlier = Self::at(from);
        while earlier.end().offset < self.before {
            let Some(page) = bus.kept_after(earlier.end(), PAGE).await? else {
                return Ok(false);
            };
            if page.is_empty() {
                return Ok(false);
            }
            for kept in &page {
                if kept.offset <= self.before {
                    earlier.push(kept);
                }
            }
            if earlier.bytes + self.bytes > MOST_BYTES {
                return Ok(false);
            }
        }
        for entry in std::mem::take(&mut self.entries) {
            earlier.push_entry(entry);
        }
        earlier.fresh_as_of = self.fresh_as_of;
        *self = earlier;
        Ok(true)
    }

    /// Reads what has come since. False where that can't be told.
    async fn refresh(&mut self, bus: &dyn Bus) -> Result<bool, BusError> {
        let begun = Instant::now();
        loop {
            let Some(page) = bus.kept_after(self.end(), PAGE).await? else {
                return Ok(false);
            };
            let is_last = page.len() < PAGE;
            for kept in &page {
                self.push(kept);
            }
            while self.bytes > MOST_BYTES {
                self.drop_oldest();
            }
            if is_last {
                self.fresh_as_of = Some(begun);
                return Ok(true);
            }
        }
    }

    fn push(&mut self, kept: &Kept) {
        let place = Place {
            epoch: self.epoch,
            offset: kept.offset,
        };
        self.push_entry(Entry::new(place, kept.envelope.as_deref()));
    }

    fn push_entry(&mut self, entry: Entry) {
        let offset = self.end().offset + 1;
        for room in entry.deliveries.iter().flat_map(|(rooms, _)| rooms) {
            let offsets = self.rooms.entry(*room).or_default();
            if offsets.back() != Some(&offset) {
                offsets.push_back(offset);
            }
        }
        self.bytes += entry.bytes;
        self.entries.push_back(entry);
    }

    fn drop_oldest(&mut self) {
        let Some(entry) = self.entries.pop_front() else {
            return;
        };
        self.before += 1;
        self.bytes -= entry.bytes;
        for room in entry.deliveries.iter().flat_map(|(rooms, _)| rooms) {
            if let Some(offsets) = self.rooms.get_mut(room) {
                offsets.pop_front_if(|offset| *offset <= self.before);
                if offsets.is_empty() {
                    self.rooms.remove(room);
                }
            }
        }
    }

    /// What came after a mark for any of the rooms; `None` where that was dropped just now.
    fn collect(&self, mark: Mark, rooms: &[Room]) -> Option<Missed> {
        let from = mark.whole();
        if !self.reaches_back_to(from) || from.offset > self.end().offset {
            return None;
        }
        let mut offsets: Vec<u64> = rooms
            .iter()
            .filter_map(|room| self.rooms.get(room))
            .flat_map(|offsets| {
                let first = offsets.partition_point(|offset| *offset <= from.offset);
                offsets.range(first..).copied()
            })
            .collect();
        offsets.sort_unstable();
        offsets.dedup();
        // A socket may be in a thousand.
        let rooms: HashSet<&Room> = rooms.iter().collect();
        let mut events = Vec::new();
        for offset in offsets {
            let index = usize::try_from(offset - self.before - 1).ok()?;
            for (number, (to, outgoing)) in self.entries.get(index)?.deliveries.iter().enumerate() {
                let was_heard = offset == mark.place.offset && number <= mark.delivery as usize;
                if !was_heard && to.iter().any(|room| rooms.contains(room)) {
                    events.push(Arc::clone(outgoing));
                }
            }
        }
        Some(Missed {
            events,
            reached: self.end(),
        })
    }
}

impl Entry {
    fn new(place: Place, envelope: Option<&Envelope>) -> Self {
        let mut entry = Self {
            deliveries: Vec::new(),
            bytes: 0,
        };
        let deliveries = envelope.into_iter().flat_map(|one| &one.deliveries);
        for (delivery, number) in deliveries.zip(0..) {
            let mark = Mark {
                place,
                delivery: number,
            };
            let outgoing = Outgoing::new(delivery, Source::Order(mark));
            // Once as it is, once as the frame that is made of it.
            entry.bytes += 2 * outgoing.size() + EVENT_BYTES;
            entry
                .deliveries
                .push((delivery.rooms.clone(), Arc::new(outgoing)));
        }
        entry
    }
}

#[cfg(test)]
mod tests;
