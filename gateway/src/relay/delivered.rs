//! What this node has delivered last of each conversation, so that no socket hears twice what comes a second time: from
//! a bus that came back empty and was told again, or from the database's log after a gap.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shared::envelope::Position;
use shared::{ConversationId, EventSeq};

/// How long a conversation is remembered at least, since its last delivery: longer than a gap reaches back before the last
/// moment the link is known to have been well (`MARGIN`, and what a dead link goes unnoticed).
const HORIZON: Duration = Duration::from_secs(120);

/// The most conversations that one generation remembers: some megabytes. A node that delivers for more of them within the
/// horizon forgets sooner, and might repeat after a gap what it delivered right before it.
const GENERATION: usize = 100_000;

/// The conversations that were delivered last, each with its last change.
///
/// **The rule.** Of each conversation only what is newer than what was delivered last is delivered. It drops nothing that
/// somebody should still hear: the bus and the log bring the changes of a conversation in order, so what comes with a lower
/// number has been delivered to everybody here that it was for, or (after a deletion, which takes the log before it along)
/// does not matter any more. Who came since was not here when it happened.
///
/// A conversation that is not remembered may begin anywhere.
#[derive(Debug)]
pub struct Delivered {
    /// Guards the generations as one.
    generations: Mutex<Generations>,
}

/// Two, so that the oldest are forgotten without a list: what is delivered goes into the young one; when that is full or
/// old, it becomes the old one, and what the old one held is forgotten.
#[derive(Debug)]
struct Generations {
    young: HashMap<ConversationId, EventSeq>,
    old: HashMap<ConversationId, EventSeq>,
    began: Instant,
    /// While a gap is filled nothing is forgotten: what was delivered right before it is what must not come twice.
    is_held: bool,
}

impl Default for Delivered {
    fn default() -> Self {
        Self {
            generations: Mutex::new(Generations {
                young: HashMap::new(),
                old: HashMap::new(),
                began: Instant::now(),
                is_held: false,
            }),
        }
    }
}

impl Delivered {
    /// The last change of a conversation that was delivered here, if that is remembered.
    pub fn last(&self, conversation: ConversationId) -> Option<EventSeq> {
        self.generations.lock().last(conversation)
    }

    /// Whether something is to be delivered; from here on it was.
    pub fn admit(&self, at: Position) -> bool {
        let mut generations = self.generations.lock();
        let last = generations.last(at.conversation);
        if last.is_some_and(|last| at.event_seq <= last) {
            return false;
        }
        generations.turn_over(Instant::now());
        generations.young.insert(at.conversation, at.event_seq);
        true
    }

    /// Forgets nothing, or as usual again.
    pub(super) fn hold(&self, is_held: bool) {
        self.generations.lock().is_held = is_held;
    }
}

impl Generations {
    fn last(&self, conversation: ConversationId) -> Option<EventSeq> {
        let known = self.young.get(&conversation);
        known.or_else(|| self.old.get(&conversation)).copied()
    }

    fn turn_over(&mut self, now: Instant) {
        let is_due = now.duration_since(self.began) >= HORIZON || self.young.len() >= GENERATION;
        if is_due && !self.is_held {
            self.old = std::mem::take(&mut self.young);
            self.began = now;
        }
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

    #[test]
    fn only_what_is_newer_is_delivered() {
        let delivered = Delivered::default();
        // Nobody knows what came before: a node that has just begun to listen.
        assert!(delivered.admit(at(1, 7)));
        assert!(!delivered.admit(at(1, 7)));
        assert!(!delivered.admit(at(1, 6)));
        assert!(delivered.admit(at(2, 1)));
        // A deletion jumps.
        assert!(delivered.admit(at(1, 12)));
        assert_eq!(
            delivered.last(ConversationId::new(1)),
            Some(EventSeq::new(12))
        );
        assert_eq!(delivered.last(ConversationId::new(3)), None);
    }

    #[test]
    fn it_is_bounded_and_forgets_the_oldest_but_not_while_held() {
        let delivered = Delivered::default();
        let age = |by: Duration| {
            let mut generations = delivered.generations.lock();
            generations.began = generations.began.checked_sub(by).expect("an uptime");
        };
        assert!(delivered.admit(at(1, 5)));
        age(HORIZON);
        assert!(delivered.admit(at(2, 5)));
        // One generation on it is still known.
        assert!(!delivered.admit(at(1, 5)));
        delivered.hold(true);
        age(HORIZON);
        assert!(delivered.admit(at(3, 5)));
        assert!(!delivered.admit(at(1, 5)));
        delivered.hold(false);
        assert!(delivered.admit(at(4, 5)));
        assert!(delivered.admit(at(1, 5)));
        for conversation in 0..3 * GENERATION {
            delivered.admit(at(i64::try_from(conversation).expect("small") + 10, 1));
        }
        let generations = delivered.generations.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
    }
}
