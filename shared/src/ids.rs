//! Newtypes for every id, made where a number comes in, so that inside nothing is a bare integer.
//!
//! On the wire an id may be a JSON number or a string of digits; it is always written as a number.
//! Zero, signs, fractions, exponents and anything that does not fit are refused.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// Why a string or number is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a positive whole number, or a string of its digits")]
pub struct InvalidId;

/// Reads digits only: `i64::from_str` alone would let a sign through.
fn parse_digits(text: &str) -> Result<i64, InvalidId> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(InvalidId);
    }
    text.parse().map_err(|_| InvalidId)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, least $least:tt) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[cfg_attr(feature = "openapi", schema(minimum = $least))]
        #[serde(transparent)]
        pub struct $name(i64);

        impl $name {
            /// Takes a number that the database or this program made.
            pub const fn new(value: i64) -> Self {
                Self(value)
            }

            /// The bare number, for SQL and arithmetic.
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl TryFrom<i64> for $name {
            type Error = InvalidId;

            fn try_from(value: i64) -> Result<Self, InvalidId> {
                if value < $least { Err(InvalidId) } else { Ok(Self(value)) }
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::try_from(parse_digits(text)?)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = deserializer.deserialize_any(NumberOrDigits)?;
                Self::try_from(value).map_err(de::Error::custom)
            }
        }
    };
}

id!(
    /// A row of `Users`.
    UserId, least 1
);
id!(
    /// A row of `Clients`.
    ClientId, least 1
);
id!(
    /// A row of `Conversations`.
    ConversationId, least 1
);
id!(
    /// A row of `Messages`.
    MessageId, least 1
);
id!(
    /// A message's place in its conversation: 1, 2, 3 ... without gaps, in commit order. 0 stands for "before the first".
    Seq, least 0
);
id!(
    /// A durable change's place in its conversation's log: 1, 2, 3 ... without gaps, in commit order. 0 stands for
    /// "before the first".
    EventSeq, least 0
);

impl Seq {
    /// The place before the first message.
    pub const ZERO: Self = Self(0);

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl EventSeq {
    /// The place before the first change.
    pub const ZERO: Self = Self(0);

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A socket, unique over all nodes and all time: random, so it can't be guessed, and public, so it is no credential.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SocketId(Box<str>);

impl SocketId {
    /// Wraps an id made by the realtime layer.
    pub fn new(id: impl Into<Box<str>>) -> Self {
        Self(id.into())
    }

    /// The id as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

struct NumberOrDigits;

impl Visitor<'_> for NumberOrDigits {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number or a string of its digits")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
        i64::try_from(value).map_err(|_| E::custom(InvalidId))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<i64, E> {
        parse_digits(value).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_or_digits_and_nothing_else() {
        for good in ["7", "\"7\"", "\"007\""] {
            assert_eq!(
                serde_json::from_str::<UserId>(good).unwrap(),
                UserId(7),
                "{good}"
            );
        }
        for bad in [
            "0",
            "-1",
            "1.5",
            "1e3",
            "\"\"",
            "\"-1\"",
            "\"+1\"",
            "\" 1\"",
            "null",
            "true",
            "[]",
            "{}",
            "9223372036854775808",
        ] {
            assert!(serde_json::from_str::<UserId>(bad).is_err(), "{bad}");
        }
        assert_eq!(serde_json::from_str::<Seq>("0").unwrap(), Seq::ZERO);
    }

    #[test]
    fn ids_are_written_as_numbers() {
        assert_eq!(serde_json::to_string(&ConversationId(12)).unwrap(), "12");
    }
}
