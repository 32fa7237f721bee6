//! What nodes tell each other over the bus. The input is JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::envelope::Notice;
use shared::{Envelope, Room};

/// What is read is read the same once written again, and names nothing that can't be.
pub fn check(data: &[u8]) {
    if let Some(envelope) = round_trip::<Envelope>(data) {
        if let Some(position) = envelope.position {
            assert!(position.conversation.get() > 0 && position.event_seq.get() >= 0);
        }
        let rooms = envelope
            .deliveries
            .iter()
            .flat_map(|delivery| &delivery.rooms);
        for room in rooms.chain(&envelope.closes) {
            match room {
                Room::User(id) => assert!(id.get() > 0),
                Room::Conversation(id) => assert!(id.get() > 0),
                Room::Role(_) => {}
            }
        }
        for delivery in &envelope.deliveries {
            assert!(delivery.except_user.is_none_or(|user| user.get() > 0));
        }
    }
    if let Some(Notice::Revoked(revocation)) = round_trip::<Notice>(data) {
        assert!(revocation.user.get() > 0);
    }
}

fn round_trip<T: DeserializeOwned + Serialize>(data: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(data).ok()?;
    let written = serde_json::to_string(&read).unwrap();
    let again: T =
        serde_json::from_str(&written).unwrap_or_else(|error| panic!("{error}: {written}"));
    assert_eq!(serde_json::to_string(&again).unwrap(), written);
    Some(read)
}
