//! Where each conversation stands on a local bus: what went out last, and what came early. No queue, no lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use shared::envelope::Position;
use shared::{ConversationId, Envelope, EventSeq};

/// What an envelope's position means just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is the next.
    Now,
    /// It had its turn.
    Past,
    /// Elders are missing.
    Early,
    /// Nobody knows.
    Unknown,
}

/// The heads of the conversations used last.
///
/// Two generations make it a bounded store that forgets the longest idle without a list: what is used moves to the young
/// one; when that is full, it becomes the old one, and what the old one still held is forgotten.
#[derive(Debug)]
pub(super) struct Heads {
    young: HashMap<ConversationId, Head>,
    old: HashMap<ConversationId, Head>,
    /// The most one generation holds.
    generation: usize,
    /// How far ahead of the head is still kept.
    window: i64,
}

#[derive(Debug)]
struct Head {
    /// What went out last.
    last: EventSeq,
    /// What came early, within the window.
    early: BTreeMap<EventSeq, Arc<Envelope>>,
}

impl Heads {
    pub(super) fn new(capacity: usize, window: i64) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation: (capacity / 2).max(1),
            window,
        }
    }

    /// Takes a voucher (`Publication::begins_at`). It moves the head ahead, never back: a head behind it has missed
    /// something that did go out.
    pub(super) fn vouch(&mut self, conversation: ConversationId, begins_at: EventSeq) {
        let vouched = EventSeq::new((begins_at.get() - 1).max(0));
        match self.touch(conversation) {
            Some(head) if head.last < vouched => head.advance(vouched),
            Some(_) => {}
            None => self.insert(conversation, Head::at(vouched)),
        }
    }

    /// What a position means just now.
    pub(super) fn turn(&mut self, at: Position) -> Turn {
        let last = match self.touch(at.conversation) {
            Some(head) => head.last,
            None if at.event_seq == EventSeq::ZERO.next() => {
                self.insert(at.conversation, Head::at(EventSeq::ZERO));
                EventSeq::ZERO
            }
            None => return Turn::Unknown,
        };
        match at.event_seq {
            seq if seq <= last => Turn::Past,
            seq if seq == last.next() => Turn::Now,
            _ => Turn::Early,
        }
    }

    /// Keeps an early one until its turn. Beyond the window it is not kept: its publisher still has it.
    pub(super) fn park(&mut self, at: Position, envelope: &Arc<Envelope>) {
        let window = self.window;
        if let Some(head) = self.touch(at.conversation)
            && at.event_seq.get() - head.last.get() <= window
        {
            head.early.insert(at.event_seq, Arc::clone(envelope));
        }
    }

    /// Notes that an envelope whose turn it was went out.
    pub(super) fn passed(&mut self, at: Position) {
        if let Some(head) = self.touch(at.conversation) {
            head.advance(at.event_seq);
        }
    }

    /// The one kept whose turn it is now.
    pub(super) fn waiting(&mut self, conversation: ConversationId) -> Option<Arc<Envelope>> {
        let head = self.touch(conversation)?;
        head.early.get(&head.last.next()).cloned()
    }

    fn touch(&mut self, id: ConversationId) -> Option<&mut Head> {
        if let Some(head) = self.old.remove(&id) {
            self.insert(id, head);
        }
        self.young.get_mut(&id)
    }

    fn insert(&mut self, id: ConversationId, head: Head) {
        if self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id, head);
    }
}

impl Head {
    fn at(last: EventSeq) -> Self {
        Self {
            last,
            early: BTreeMap::new(),
        }
    }

    fn advance(&mut self, last: EventSeq) {
        self.last = last;
        self.early = self.early.split_off(&last.next());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(conversation: i64, seq: i64) -> Position {
        Position {
            conversation: ConversationId::new(conversation),
            event_seq: EventSeq::new(seq),
        }
    }

    fn envelope(at: Position) -> Arc<Envelope> {
        Arc::new(Envelope {
            position: Some(at),
            deliveries: Vec::new(),
            sent_at: 0,
            closes: None,
            trace: None,
        })
    }

    #[test]
    fn the_longest_idle_are_forgotten_and_their_number_is_bounded() {
        let mut heads = Heads::new(8, 4);
        for id in 1..=100 {
            assert_eq!(heads.turn(at(id, 1)), Turn::Now);
            heads.passed(at(id, 1));
            // In use all the time.
            assert_ne!(heads.turn(at(1, 2)), Turn::Unknown);
            assert!(heads.young.len() + heads.old.len() <= 8);
        }
        assert_eq!(heads.turn(at(2, 2)), Turn::Unknown);
        assert_eq!(heads.turn(at(100, 2)), Turn::Now);
    }

    #[test]
    fn what_comes_too_early_is_not_kept() {
        let mut heads = Heads::new(8, 4);
        let next = |heads: &mut Heads| {
            let waiting = heads.waiting(ConversationId::new(1))?;
            waiting.position
        };
        heads.vouch(ConversationId::new(1), EventSeq::new(1));
        for seq in [5, 2] {
            assert_eq!(heads.turn(at(1, seq)), Turn::Early);
            heads.park(at(1, seq), &envelope(at(1, seq)));
        }
        heads.passed(at(1, 1));
        assert_eq!(next(&mut heads), Some(at(1, 2)));
        heads.passed(at(1, 4));
        assert_eq!(next(&mut heads), None);
    }
}
