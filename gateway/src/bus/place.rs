//! Places in the one order of everything that a bus keeps.

use std::fmt;
use std::str::FromStr;

/// A place in the order of what is kept. Those of one epoch can be compared; an epoch ends with the data it is about, or
/// when the bus goes on from an older copy of them, so that what an offset names never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which order: a random number.
    pub epoch: u64,
    /// How many envelopes came so far. They have no holes.
    pub offset: u64,
}

/// One event of the order: an envelope may bear several. What a socket got last, as its client shows it when it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The envelope's place.
    pub place: Place,
    /// Which of its deliveries; `Mark::ALL`: the last one, however many it has.
    pub delivery: u32,
}

impl Mark {
    /// Stands for the last delivery of an envelope.
    pub const ALL: u32 = u32::MAX;

    /// Everything up to a place.
    pub const fn after(place: Place) -> Self {
        Self {
            place,
            delivery: Self::ALL,
        }
    }

    /// The place up to which every envelope is whole.
    pub fn whole(self) -> Place {
        let is_whole = self.delivery == Self::ALL;
        Place {
            offset: self.place.offset.saturating_sub(u64::from(!is_whole)),
            ..self.place
        }
    }

    /// The latest of several marks within an epoch; those of another one say nothing.
    pub fn latest(marks: impl IntoIterator<Item = Self>, epoch: u64) -> Option<Self> {
        marks
            .into_iter()
            .filter(|mark| mark.place.epoch == epoch)
            .max_by_key(|mark| (mark.place.offset, mark.delivery))
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.delivery {
            Self::ALL => write!(f, "{}", self.place),
            delivery => write!(f, "{}:{delivery}", self.place),
        }
    }
}

impl FromStr for Mark {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        match text.match_indices(':').nth(1) {
            None => Ok(Self::after(text.parse()?)),
            Some((end, _)) => {
                let delivery = text.get(end + 1..).ok_or(NoPlace)?;
                let is_plain = delivery.bytes().all(|byte| byte.is_ascii_digit());
                let delivery = delivery
                    .parse()
                    .ok()
                    .filter(|&number| is_plain && number != Self::ALL);
                Ok(Self {
                    place: text.get(..end).ok_or(NoPlace)?.parse()?,
                    delivery: delivery.ok_or(NoPlace)?,
                })
            }
        }
    }
}

/// Text that names no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no place")]
pub struct NoPlace;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}:{}", self.epoch, self.offset)
    }
}

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (epoch, offset) = text.split_once(':').ok_or(NoPlace)?;
        // Only what `Display` writes: one place has one name.
        let is_plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_plain(epoch) || !is_plain(offset) {
            return Err(NoPlace);
        }
        Ok(Self {
            epoch: u64::from_str_radix(epoch, 16).map_err(|_| NoPlace)?,
            offset: offset.parse().map_err(|_| NoPlace)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_text() {
        let place = Place {
            epoch: 0x0f00_0000_0000_00ff,
            offset: 12,
        };
        assert_eq!(place.to_string(), "0f000000000000ff:12");
        assert_eq!("0f000000000000ff:12".parse(), Ok(place));
        for bad in [
            "",
            ":",
            "1",
            "1:",
            ":1",
            "g:1",
            "1:a",
            "1:-1",
            "+1:1",
            "1:+1",
            "1:1:1",
            "11112222333344445:1",
        ] {
            assert_eq!(bad.parse::<Place>(), Err(NoPlace), "{bad}");
        }
    }

    fn mark(epoch: u64, offset: u64, delivery: u32) -> Mark {
        Mark {
            place: Place { epoch, offset },
            delivery,
        }
    }

    #[test]
    fn a_mark_survives_its_text() {
        for mark in [
            mark(1, 2, 3),
            mark(1, 2, 0),
            mark(u64::MAX, u64::MAX, Mark::ALL),
        ] {
            assert_eq!(mark.to_string().parse(), Ok(mark));
        }
        assert_eq!(mark(1, 2, 3).to_string(), "0000000000000001:2:3");
        for bad in [
            "",
            "1:2:",
            "1:2:x",
            "1:2:-1",
            "1:2:+1",
            "1:2:3:4",
            "1:2:4294967295",
            "1::1",
        ] {
            assert_eq!(bad.parse::<Mark>(), Err(NoPlace), "{bad}");
        }
    }

    #[test]
    fn the_latest_mark_is_of_the_epoch() {
        let marks = [
            mark(1, 9, 0),
            mark(2, 4, 1),
            mark(2, 4, 0),
            mark(3, 7, Mark::ALL),
        ];
        assert_eq!(Mark::latest(marks, 2), Some(mark(2, 4, 1)));
        assert_eq!(Mark::latest(marks, 4), None);
        assert_eq!(mark(2, 4, 1).whole().offset, 3);
        assert_eq!(mark(2, 4, Mark::ALL).whole().offset, 4);
    }
}
