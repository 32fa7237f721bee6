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
/// **The rule.** Of each conversation only what is newer than what was delivered last is delivered to everybody: the bus and the
/// log bring the changes of a conversation in order, so what comes with a lower number has been delivered to everybody who was
/// here then (or, after a deletion, which takes the log before it along, does not matter any more).
///
/// **The exception.** What was delivered from the log comes again in the bus's order. A socket that was recovered in between has
/// it neither from the log, as it was not here, nor from the bus's history, which did not have it yet: it goes to such only.
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
    young: HashMap<ConversationId, Last>,
    old: HashMap<ConversationId, Last>,
    began: Instant,
    /// While a gap is filled nothing is forgotten: what was delivered right before it is what must not come twice.
    is_held: bool,
}

/// What was delivered last of a conversation.
#[derive(Debug, Clone, Copy)]
struct Last {
    seq: EventSeq,
    /// Where the log told of it last, and when: the bus may bring what came up to there as well.
    from_log: Option<(EventSeq, Instant)>,
}

/// What is to be done with a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is delivered.
    New,
    /// It was delivered.
    Repeat,
    /// It was delivered from the log, at this time: who came back since has not heard it, as it was not in the bus's order.
    OnlyToLater(Instant),
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
        self.generations
            .lock()
            .last(conversation)
            .map(|last| last.seq)
    }

    /// Whether something that the bus brought is to be delivered; from here on it was.
    pub(super) fn admit(&self, at: Position) -> Admission {
        self.note(at, None)
    }

    /// Whether something that the log told is to be delivered; from here on it was.
    pub fn admit_from_log(&self, at: Position) -> bool {
        self.note(at, Some(Instant::now())) == Admission::New
    }

    fn note(&self, at: Position, from_log: Option<Instant>) -> Admission {
        let mut generations = self.generations.lock();
        if let Some(last) = generations.last(at.conversation)
            && at.event_seq <= last.seq
        {
            return match last.from_log {
                Some((seq, when)) if from_log.is_none() && at.event_seq <= seq => {
                    Admission::OnlyToLater(when)
                }
                _ => Admission::Repeat,
            };
        }
        generations.turn_over(Instant::now());
        let last = Last {
            seq: at.event_seq,
            from_log: from_log.map(|when| (at.event_seq, when)),
        };
        generations.young.insert(at.conversation, last);
        Admission::New
    }

    /// Forgets nothing, or as usual again.
    pub(super) fn hold(&self, is_held: bool) {
        self.generations.lock().is_held = is_held;
    }
}

impl Generations {
    fn last(&self, conversation: ConversationId) -> Option<Last> {
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

    fn is_new(delivered: &Delivered, at: Position) -> bool {
        delivered.admit(at) == Admission::New
    }

    #[test]
    fn what_the_log_told_comes_again_for_those_only_who_came_later() {
        let delivered = Delivered::default();
        let began = Instant::now();
        assert!(delivered.admit_from_log(at(1, 4)));
        assert!(delivered.admit_from_log(at(1, 5)));
        assert!(!delivered.admit_from_log(at(1, 5)));
        for seq in [4, 5] {
            let Admission::OnlyToLater(when) = delivered.admit(at(1, seq)) else {
                panic!("{seq} is for nobody, or for everybody");
            };
            assert!(when >= began);
        }
        // The bus's order has passed the log.
        assert_eq!(delivered.admit(at(1, 6)), Admission::New);
        assert_eq!(delivered.admit(at(1, 5)), Admission::Repeat);
    }

    #[test]
    fn only_what_is_newer_is_delivered() {
        let delivered = Delivered::default();
        // Nobody knows what came before: a node that has just begun to listen.
        assert!(is_new(&delivered, at(1, 7)));
        assert!(!is_new(&delivered, at(1, 7)));
        assert!(!is_new(&delivered, at(1, 6)));
        assert!(is_new(&delivered, at(2, 1)));
        // A deletion jumps.
        assert!(is_new(&delivered, at(1, 12)));
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
        assert!(is_new(&delivered, at(1, 5)));
        age(HORIZON);
        assert!(is_new(&delivered, at(2, 5)));
        // One generation on it is still known.
        assert!(!is_new(&delivered, at(1, 5)));
        delivered.hold(true);
        age(HORIZON);
        assert!(is_new(&delivered, at(3, 5)));
        assert!(!is_new(&delivered, at(1, 5)));
        delivered.hold(false);
        assert!(is_new(&delivered, at(4, 5)));
        assert!(is_new(&delivered, at(1, 5)));
        for conversation in 0..3 * GENERATION {
            delivered.admit(at(i64::try_from(conversation).expect("small") + 10, 1));
        }
        let generations = delivered.generations.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
    }
}
