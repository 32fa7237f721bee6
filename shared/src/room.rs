//! Rooms: the addresses events are sent to. A room's name is also the name of its channel on the bus.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{ConversationId, UserId};
use crate::role::Role;

/// Where an event may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Room {
    /// `user_{id}`: every socket of one person.
    User(UserId),
    /// `admin` or `user`: every socket of a role.
    Role(Role),
    /// `conversation_{id}`: the sockets that have a conversation open.
    Conversation(ConversationId),
}

/// A name that is no room's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such room")]
pub struct UnknownRoom;

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user_{id}"),
            Self::Role(role) => f.write_str(role.as_str()),
            Self::Conversation(id) => write!(f, "conversation_{id}"),
        }
    }
}

impl FromStr for Room {
    type Err = UnknownRoom;

    fn from_str(name: &str) -> Result<Self, UnknownRoom> {
        match name {
            "admin" => return Ok(Self::Role(Role::Admin)),
            "user" => return Ok(Self::Role(Role::User)),
            _ => {}
        }
        if let Some(id) = name.strip_prefix("user_") {
            return id.parse().map(Self::User).map_err(|_| UnknownRoom);
        }
        if let Some(id) = name.strip_prefix("conversation_") {
            return id.parse().map(Self::Conversation).map_err(|_| UnknownRoom);
        }
        Err(UnknownRoom)
    }
}

impl Serialize for Room {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Room {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_round_trip() {
        for room in [
            Room::User(UserId::new(5)),
            Room::Role(Role::Admin),
            Room::Role(Role::User),
            Room::Conversation(ConversationId::new(9)),
        ] {
            assert_eq!(room.to_string().parse(), Ok(room));
        }
        assert_eq!("user_".parse::<Room>(), Err(UnknownRoom));
        assert_eq!("user_x".parse::<Room>(), Err(UnknownRoom));
        assert_eq!("lobby".parse::<Room>(), Err(UnknownRoom));
    }
}
