//! Ids and room names. The input is a word, as it stands in a path or a room's name, and JSON, as it stands in a payload.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::{ClientId, ConversationId, EventSeq, MessageId, Role, Room, Seq, UserId};

/// An id is a whole number in its range, or the digits of one, and nothing else; a room is one of three kinds.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    id(text, 1, UserId::get);
    id(text, 1, ClientId::get);
    id(text, 1, ConversationId::get);
    id(text, 1, MessageId::get);
    id(text, 0, Seq::get);
    id(text, 0, EventSeq::get);
    room(text);
}

fn id<T>(text: &str, least: i64, get: impl Fn(T) -> i64)
where
    T: Copy + Debug + PartialEq + Display + FromStr + Serialize + DeserializeOwned,
{
    let expected = number(text).filter(|number| *number >= least);
    assert_eq!(text.parse().ok().map(&get), expected, "{text:?}");

    let value: Option<Value> = serde_json::from_str(text).ok();
    let expected = match &value {
        Some(Value::String(text)) => number(text),
        Some(Value::Number(number)) => number.as_i64(),
        _ => None,
    };
    let read: Option<T> = serde_json::from_str(text).ok();
    assert_eq!(
        read.map(&get),
        expected.filter(|number| *number >= least),
        "{text:?}"
    );

    if let Some(id) = read {
        let written = serde_json::to_string(&id).unwrap();
        assert_eq!(written, get(id).to_string());
        assert_eq!(written, id.to_string());
        assert_eq!(serde_json::from_str::<T>(&written).unwrap(), id);
        assert_eq!(
            serde_json::from_str::<T>(&format!("\"{written}\"")).unwrap(),
            id
        );
    }
}

/// A number from nothing but digits.
fn number(text: &str) -> Option<i64> {
    let mut number = None;
    for c in text.chars() {
        let digit = i64::from(c.to_digit(10)?);
        number = Some(
            number
                .unwrap_or(0_i64)
                .checked_mul(10)?
                .checked_add(digit)?,
        );
    }
    number
}

fn room(text: &str) {
    let positive = |text| number(text).filter(|number| *number > 0);
    let expected = match text {
        "admin" => Some(Room::Role(Role::Admin)),
        "user" => Some(Room::Role(Role::User)),
        _ => match text.split_once('_') {
            Some(("user", id)) => positive(id).map(|id| Room::User(UserId::new(id))),
            Some(("conversation", id)) => {
                positive(id).map(|id| Room::Conversation(ConversationId::new(id)))
            }
            _ => None,
        },
    };
    let read = text.parse::<Room>().ok();
    assert_eq!(read, expected, "{text:?}");
    let json = serde_json::to_string(text).unwrap();
    assert_eq!(serde_json::from_str::<Room>(&json).ok(), read, "{text:?}");
    if let Some(room) = read {
        assert_eq!(room.to_string().parse(), Ok(room));
        let json = serde_json::to_string(&room).unwrap();
        assert_eq!(serde_json::from_str::<Room>(&json).unwrap(), room);
    }
}
