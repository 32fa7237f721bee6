//! Exact books of what every listener should have heard and what it did: lost, doubled, out of order. Knows nothing of
//! sockets; streams and lanes are numbers.
//!
//! A *stream* is one sender in one conversation; what it sends bears 0, 1, 2 ... A *lane* is one listener that should hear
//! every message of a range of streams, each once and, within a stream, in order. The usual case, that the next number
//! comes, is one comparison; memory grows only with what is missing.

use std::ops::Range;

/// One listener's books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneId(u32);

/// How a message fits what was heard before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The next one.
    Next,
    /// A later one: others are missing so far.
    Ahead,
    /// One that was missing: it came after a later one.
    Late,
    /// One that was heard before.
    Doubled,
    /// None of this lane's.
    Stray,
}

impl Fit {
    /// Whether the listener hears it for the first time.
    pub const fn is_new(self) -> bool {
        matches!(self, Self::Next | Self::Ahead | Self::Late)
    }
}

/// What went wrong, and how much went right. All are deliveries: one message to one listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Heard, repeats not counted.
    pub delivered: u64,
    /// Sent, and not heard.
    pub lost: u64,
    /// Heard again.
    pub doubled: u64,
    /// Heard after a later one of the same stream, or with a `seq` not above the last of the conversation.
    pub out_of_order: u64,
    /// Heard by somebody who should not hear it, or never sent.
    pub stray: u64,
}

/// The books of all listeners.
#[derive(Debug, Default)]
pub struct Ledger {
    lanes: Vec<Lane>,
    tracks: Vec<Track>,
    doubled: u64,
    out_of_order: u64,
    stray: u64,
}

#[derive(Debug)]
struct Lane {
    streams: Range<u32>,
    /// One of them that it does not hear.
    but: Option<u32>,
    /// Where the lane's tracks begin, one for each stream.
    first_track: usize,
    /// What `seq` goes by.
    seqs: Seqs,
}

/// Which streams of a lane share a conversation, and so a row of `seq`s.
#[derive(Debug)]
enum Seqs {
    /// Each stream has one of its own; the last `seq` stands in its track.
    OfStreams,
    /// All share one; this is its last.
    Shared(u64),
}

/// One stream as one listener hears it.
#[derive(Debug, Clone, Default)]
struct Track {
    /// One above the highest number heard.
    next: u32,
    /// Numbers below `next` that were not heard, in order; `None` while there are none, which is the rule.
    #[expect(clippy::box_collection, reason = "a pointer where nothing is missing")]
    missing: Option<Box<Vec<u32>>>,
    last_seq: u64,
}

impl Ledger {
    /// A lane for a listener of streams that each have their own conversation.
    pub fn lane(&mut self, streams: Range<u32>) -> LaneId {
        self.add(streams, None, Seqs::OfStreams)
    }

    /// The same without one stream in the middle: a listener's own.
    pub fn lane_of_others(&mut self, streams: Range<u32>, own: u32) -> LaneId {
        self.add(streams, Some(own), Seqs::OfStreams)
    }

    /// A lane for a listener of streams that are all of one conversation.
    pub fn lane_of_one_conversation(&mut self, streams: Range<u32>) -> LaneId {
        self.add(streams, None, Seqs::Shared(0))
    }

    fn add(&mut self, streams: Range<u32>, but: Option<u32>, seqs: Seqs) -> LaneId {
        let first_track = self.tracks.len();
        let tracks = first_track + streams.len();
        self.tracks.resize(tracks, Track::default());
        self.lanes.push(Lane {
            streams,
            but,
            first_track,
            seqs,
        });
        LaneId(u32::try_from(self.lanes.len() - 1).unwrap_or(u32::MAX))
    }

    /// Enters that a lane heard a message, with its `seq` where the server numbers them.
    pub fn heard(&mut self, lane: LaneId, stream: u32, number: u32, seq: Option<u64>) -> Fit {
        let lane = &mut self.lanes[lane.0 as usize];
        if !lane.hears(stream) {
            self.stray += 1;
            return Fit::Stray;
        }
        let track = &mut self.tracks[lane.first_track + (stream - lane.streams.start) as usize];
        let fit = track.heard(number);
        match fit {
            Fit::Doubled => self.doubled += 1,
            Fit::Late => self.out_of_order += 1,
            Fit::Next | Fit::Ahead => {
                let last = match &mut lane.seqs {
                    Seqs::OfStreams => &mut track.last_seq,
                    Seqs::Shared(last) => last,
                };
                if let Some(seq) = seq {
                    if seq <= *last {
                        self.out_of_order += 1;
                    }
                    *last = seq.max(*last);
                }
            }
            Fit::Stray => {}
        }
        fit
    }

    /// How many deliveries a stream's message should have.
    pub fn listeners(&self, stream: u32) -> usize {
        self.lanes.iter().filter(|lane| lane.hears(stream)).count()
    }

    /// Closes the books: `sent[stream]` is how many messages the stream sent, `refused[stream]` how many of them the server
    /// refused. It does not say which: those are taken from the ones that nobody heard.
    pub fn close(&self, sent: &[u32], refused: &[u32]) -> Counts {
        let mut counts = Counts {
            doubled: self.doubled,
            out_of_order: self.out_of_order,
            stray: self.stray,
            ..Counts::default()
        };
        for lane in &self.lanes {
            let tracks = &self.tracks[lane.first_track..][..lane.streams.len()];
            let own = lane.streams.clone().zip(tracks);
            for (stream, track) in own.filter(|(stream, _)| lane.hears(*stream)) {
                let sent = sent.get(stream as usize).copied().unwrap_or_default();
                let missing = track
                    .missing
                    .as_ref()
                    .map_or(0, |numbers| numbers.iter().filter(|n| **n < sent).count());
                counts.lost += missing as u64 + u64::from(sent.saturating_sub(track.next));
                // What was heard beyond what was sent was never sent by this generator.
                counts.stray += u64::from(track.next.saturating_sub(sent));
                let heard = u64::from(track.next.min(sent)) - missing as u64;
                counts.delivered += heard;
            }
        }
        for (stream, refused) in (0..).zip(refused).filter(|(_, refused)| **refused > 0) {
            let sent = sent.get(stream as usize).copied().unwrap_or_default();
            let unheard = (0..sent).filter(|number| self.is_unheard(stream, *number));
            let refused = unheard.take(*refused as usize).count();
            counts.lost -= (refused * self.listeners(stream)) as u64;
        }
        counts
    }

    /// Whether no listener heard a message.
    fn is_unheard(&self, stream: u32, number: u32) -> bool {
        let mut lanes = self.lanes.iter().filter(|lane| lane.hears(stream));
        lanes.all(|lane| {
            let track = &self.tracks[lane.first_track + (stream - lane.streams.start) as usize];
            let missing = track.missing.as_ref();
            number >= track.next || missing.is_some_and(|m| m.binary_search(&number).is_ok())
        })
    }
}

impl Lane {
    fn hears(&self, stream: u32) -> bool {
        self.streams.contains(&stream) && self.but != Some(stream)
    }
}

impl Track {
    fn heard(&mut self, number: u32) -> Fit {
        if number == self.next {
            self.next += 1;
            return Fit::Next;
        }
        if number > self.next {
            let gap = self.next..number;
            self.missing.get_or_insert_default().extend(gap);
            self.next = number + 1;
            return Fit::Ahead;
        }
        let Some(missing) = &mut self.missing else {
            return Fit::Doubled;
        };
        let Ok(at) = missing.binary_search(&number) else {
            return Fit::Doubled;
        };
        missing.remove(at);
        if missing.is_empty() {
            self.missing = None;
        }
        Fit::Late
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// One lane of one stream that hears `numbers`, of which `sent` were sent.
    fn story(numbers: &[u32], sent: u32) -> Counts {
        let mut ledger = Ledger::default();
        let lane = ledger.lane(0..1);
        for number in numbers {
            ledger.heard(lane, 0, *number, None);
        }
        ledger.close(&[sent], &[])
    }

    fn counts(delivered: u64, lost: u64, doubled: u64, out_of_order: u64) -> Counts {
        Counts {
            delivered,
            lost,
            doubled,
            out_of_order,
            stray: 0,
        }
    }

    #[test]
    fn all_in_order_is_clean() {
        assert_eq!(story(&[0, 1, 2, 3], 4), counts(4, 0, 0, 0));
        assert_eq!(story(&[], 0), Counts::default());
    }

    #[test]
    fn a_hole_and_a_missing_end_are_lost() {
        assert_eq!(story(&[0, 2, 3], 4), counts(3, 1, 0, 0));
        assert_eq!(story(&[0, 1], 4), counts(2, 2, 0, 0));
        assert_eq!(story(&[3], 5), counts(1, 4, 0, 0));
        assert_eq!(story(&[], 3), counts(0, 3, 0, 0));
    }

    #[test]
    fn a_repeat_is_doubled_wherever_it_comes() {
        assert_eq!(story(&[0, 0, 1], 2), counts(2, 0, 1, 0));
        assert_eq!(story(&[0, 1, 2, 0, 2], 3), counts(3, 0, 2, 0));
        // A repeat of one that came late.
        assert_eq!(story(&[0, 2, 1, 1], 3), counts(3, 0, 1, 1));
    }

    #[test]
    fn what_comes_after_a_later_one_is_out_of_order_and_not_lost() {
        assert_eq!(story(&[1, 0], 2), counts(2, 0, 0, 1));
        assert_eq!(story(&[3, 2, 1, 0], 4), counts(4, 0, 0, 3));
    }

    #[test]
    fn what_is_not_the_lanes_or_was_never_sent_is_stray() {
        let mut ledger = Ledger::default();
        let lane = ledger.lane(2..4);
        assert_eq!(ledger.heard(lane, 1, 0, None), Fit::Stray);
        assert_eq!(ledger.heard(lane, 4, 0, None), Fit::Stray);
        assert_eq!(ledger.heard(lane, 3, 0, None), Fit::Next);
        let closed = ledger.close(&[9, 9, 0, 0], &[]);
        assert_eq!((closed.stray, closed.lost, closed.delivered), (3, 0, 0));
    }

    #[test]
    fn seq_must_rise_across_the_senders_of_a_conversation() {
        let mut ledger = Ledger::default();
        let lane = ledger.lane_of_one_conversation(0..2);
        ledger.heard(lane, 0, 0, Some(5));
        ledger.heard(lane, 1, 0, Some(7));
        // In order for its own stream, but not for the conversation.
        ledger.heard(lane, 0, 1, Some(6));
        assert_eq!(ledger.close(&[2, 1], &[]), counts(3, 0, 0, 1));
    }

    #[test]
    fn seqs_of_separate_conversations_are_apart() {
        let mut ledger = Ledger::default();
        let lane = ledger.lane(0..2);
        ledger.heard(lane, 0, 0, Some(5));
        ledger.heard(lane, 1, 0, Some(1));
        ledger.heard(lane, 1, 1, Some(1));
        assert_eq!(ledger.close(&[1, 2], &[]), counts(3, 0, 0, 1));
    }

    #[test]
    fn what_was_refused_is_not_lost_unless_somebody_heard_it() {
        let mut ledger = Ledger::default();
        let (one, other) = (ledger.lane(0..2), ledger.lane(0..1));
        ledger.heard(one, 0, 0, None);
        ledger.heard(one, 0, 2, None);
        ledger.heard(other, 0, 2, None);
        // 0 was heard by one of two, 1 and 3 by nobody.
        assert_eq!(ledger.close(&[4, 0], &[0, 0]), counts(3, 5, 0, 0));
        assert_eq!(ledger.close(&[4, 0], &[1, 0]), counts(3, 3, 0, 0));
        assert_eq!(ledger.close(&[4, 0], &[3, 0]), counts(3, 1, 0, 0));
    }

    #[test]
    fn listeners_are_lanes_with_the_stream() {
        let mut ledger = Ledger::default();
        ledger.lane(0..10);
        ledger.lane(3..4);
        assert_eq!((ledger.listeners(3), ledger.listeners(4)), (2, 1));
    }

    #[test]
    fn a_listener_does_not_miss_its_own_stream_and_must_not_hear_it() {
        let mut ledger = Ledger::default();
        let lane = ledger.lane_of_others(0..3, 1);
        assert_eq!((ledger.listeners(0), ledger.listeners(1)), (1, 0));
        assert_eq!(ledger.heard(lane, 1, 0, None), Fit::Stray);
        assert_eq!(ledger.heard(lane, 2, 0, None), Fit::Next);
        let closed = ledger.close(&[2, 7, 1], &[]);
        assert_eq!((closed.delivered, closed.lost, closed.stray), (1, 2, 1));
    }

    proptest! {
        /// Against the plain way to count: a set of what was heard, and the highest so far.
        #[test]
        fn any_story_is_counted_right(numbers in prop::collection::vec(0_u32..40, 0..80), extra in 0_u32..10) {
            let sent = numbers.iter().max().map_or(0, |n| n + 1) + extra;
            let mut heard = HashSet::new();
            let (mut doubled, mut late) = (0, 0);
            for number in &numbers {
                let is_late = heard.iter().any(|other| other > number);
                if !heard.insert(*number) {
                    doubled += 1;
                } else if is_late {
                    late += 1;
                }
            }
            let delivered = heard.len() as u64;
            prop_assert_eq!(
                story(&numbers, sent),
                counts(delivered, u64::from(sent) - delivered, doubled, late)
            );
        }
    }
}
