//! What travels between nodes: an envelope for room events, a notice for the nodes themselves.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::{ConversationId, EventSeq, SocketId, UserId};
use crate::room::Room;

/// One change, or one passing sign, on its way to every socket that should hear of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope {
    /// The change's place in a conversation's log; `None` for what is not stored (typing, presence).
    /// The bus hands on envelopes with a position in order, each once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The events to deliver, in this order.
    pub deliveries: Vec<Delivery>,
    /// When the node that publishes took the command in, milliseconds since 1970: what message latency is measured from.
    pub sent_at: i64,
    /// A room that is no more once this was delivered: a deleted conversation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes: Option<Room>,
    /// The span that publishes it, where the change is traced: a `traceparent` (W3C Trace Context, section 3.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Box<str>>,
}

/// A place in a conversation's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Which conversation.
    pub conversation: ConversationId,
    /// Which change.
    pub event_seq: EventSeq,
}

/// One event for one set of rooms. A socket in several of them hears it once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivery {
    /// The event's name.
    pub event: String,
    /// Where it goes.
    pub rooms: Vec<Room>,
    /// Its payload, already JSON: it is never parsed again on its way.
    pub data: Box<RawValue>,
    /// The socket that caused it, where that one hears something else or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// A person none of whose sockets hear it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except_user: Option<UserId>,
    /// What follows by itself if nothing else does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lapse: Option<Lapse>,
}

/// The socket that caused an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Which socket.
    pub socket: SocketId,
    /// The name under which it hears the event, where it is in one of the rooms; `None`: it hears nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

/// A state that ends by itself. Each node that delivered it delivers its end to the same rooms, so the death of the node
/// that sent it leaves nobody waiting.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lapse {
    /// What the state belongs to: a later delivery with the same key replaces this one.
    pub key: String,
    /// How long the state lasts, in milliseconds, and the payload of the same event that ends it.
    /// `None`: the state has ended already; the key's timer is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<LapseEnd>,
}

/// How a state ends by itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LapseEnd {
    /// After how long, milliseconds.
    pub after_ms: u64,
    /// The payload that says so.
    pub data: Box<RawValue>,
}

/// News for the nodes, not for sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Notice {
    /// Tokens were revoked: every node refuses them from now on and closes the sockets that live by them.
    Revoked(Revocation),
}

/// Which access tokens are no longer good. It may be forgotten once the youngest token it can mean has expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// Whose tokens.
    pub user: UserId,
    /// Which of them.
    pub scope: RevocationScope,
    /// Tokens issued up to here, milliseconds since 1970.
    pub at: i64,
}

/// Which of a person's tokens a revocation means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RevocationScope {
    /// Those that bear this `sid`.
    Session(String),
    /// The one with this SHA-256, in hex: a token without a session.
    Token(String),
    /// All, but those that bear this `sid`, or, of those without one, the one with this SHA-256 in hex.
    AllBut(Option<String>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_that_is_not_traced_is_as_it_was_before_there_were_traces() {
        let before = r#"{"position":{"conversation":1,"event_seq":2},"deliveries":[],"sent_at":3}"#;
        let mut envelope: Envelope = serde_json::from_str(before).unwrap();
        assert_eq!(envelope.trace, None);
        assert_eq!(serde_json::to_string(&envelope).unwrap(), before);
        envelope.trace = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
        let traced = serde_json::to_string(&envelope).unwrap();
        let read: Envelope = serde_json::from_str(&traced).unwrap();
        assert_eq!(read.trace, envelope.trace);
    }
}
