//! The envelopes published last on a local bus, for sockets that come back. No queue, no lock.

use std::collections::VecDeque;
use std::sync::Arc;

use shared::Envelope;

use crate::bus::{Kept, Place};

/// A bounded history without holes, in an epoch of its own: it dies with the process.
#[derive(Debug)]
pub(super) struct History {
    /// The newest stands at `here`, the one before it at the offset before, and so on.
    kept: VecDeque<Arc<Envelope>>,
    /// The sum of `weight` over `kept`.
    bytes: usize,
    here: Place,
    most: usize,
    most_bytes: usize,
}

impl History {
    pub(super) fn new(most: usize, most_bytes: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            bytes: 0,
            here: Place {
                epoch: rand::random(),
                offset: 0,
            },
            most,
            most_bytes,
        }
    }

    /// The place of the newest.
    pub(super) fn here(&self) -> Place {
        self.here
    }

    /// The place of the one that is added next.
    pub(super) fn next(&self) -> Place {
        Place {
            offset: self.here.offset + 1,
            ..self.here
        }
    }

    pub(super) fn add(&mut self, envelope: &Arc<Envelope>) {
        self.here = self.next();
        self.bytes += weight(envelope);
        self.kept.push_back(Arc::clone(envelope));
        while self.kept.len() > self.most || self.bytes > self.most_bytes {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.bytes -= weight(&oldest);
        }
    }

    /// What came after a place; `None` where that is not known, or not any more.
    pub(super) fn after(&self, place: Place, limit: usize) -> Option<Vec<Kept>> {
        if place.epoch != self.here.epoch {
            return None;
        }
        let missing = usize::try_from(self.here.offset.checked_sub(place.offset)?).ok()?;
        let first = self.kept.len().checked_sub(missing)?;
        let kept = self.kept.range(first..).take(limit);
        let kept = kept.zip(place.offset + 1..);
        Some(
            kept.map(|(envelope, offset)| Kept {
                offset,
                envelope: Some(Arc::clone(envelope)),
            })
            .collect(),
        )
    }
}

/// About what an envelope takes.
fn weight(envelope: &Envelope) -> usize {
    /// Beside the payloads: names, rooms, counts.
    const REST: usize = 256;
    let payloads = envelope.deliveries.iter().map(|to| to.data.get().len());
    REST + payloads.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Arc<Envelope> {
        Arc::new(Envelope {
            position: None,
            deliveries: Vec::new(),
            sent_at: 0,
            closes: None,
            trace: None,
        })
    }

    fn offsets(history: &History, after: u64, limit: usize) -> Option<Vec<u64>> {
        let place = Place {
            offset: after,
            ..history.here()
        };
        let kept = history.after(place, limit)?;
        Some(kept.iter().map(|kept| kept.offset).collect())
    }

    #[test]
    fn what_is_kept_is_told_from_any_place_it_reaches_back_to() {
        let mut history = History::new(3, usize::MAX);
        assert_eq!(offsets(&history, 0, 9), Some(vec![]));
        for _ in 0..5 {
            history.add(&envelope());
        }
        assert_eq!(offsets(&history, 5, 9), Some(vec![]));
        assert_eq!(offsets(&history, 2, 9), Some(vec![3, 4, 5]));
        assert_eq!(offsets(&history, 2, 2), Some(vec![3, 4]));
        assert_eq!(offsets(&history, 1, 9), None);
        assert_eq!(offsets(&history, 6, 9), None);
        let other = Place {
            epoch: history.here().epoch.wrapping_add(1),
            offset: 5,
        };
        assert!(history.after(other, 9).is_none());
    }

    #[test]
    fn bytes_are_bounded() {
        let mut history = History::new(usize::MAX, 2 * weight(&envelope()));
        for _ in 0..5 {
            history.add(&envelope());
        }
        assert_eq!(history.kept.len(), 2);
        assert_eq!(offsets(&history, 3, 9), Some(vec![4, 5]));
    }
}
