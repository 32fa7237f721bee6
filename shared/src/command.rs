//! What clients ask for over a socket: the events' names and payloads. REST bodies that mean the same use the same types.

use serde::Deserialize;

use crate::ids::{ConversationId, EventSeq, Seq};
use crate::object;

/// Names of the client's events.
#[expect(missing_docs, reason = "the names say it")]
pub mod name {
    pub const JOIN_CONVERSATION: &str = "joinConversation";
    pub const LEAVE_CONVERSATION: &str = "leaveConversation";
    pub const CHAT_MESSAGE: &str = "chatMessage";
    pub const TYPING: &str = "typing";
    pub const MARK_AS_READ: &str = "markAsRead";
    pub const GET_ONLINE_USERS: &str = "getOnlineUsers";
    pub const SYNC: &str = "sync";
    pub const AUTHENTICATE: &str = "authenticate";

    /// Every name.
    pub const ALL: &[&str] = &[
        JOIN_CONVERSATION,
        LEAVE_CONVERSATION,
        CHAT_MESSAGE,
        TYPING,
        MARK_AS_READ,
        GET_ONLINE_USERS,
        SYNC,
        AUTHENTICATE,
    ];
}

/// `joinConversation` and `leaveConversation`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConversationRef {
    /// Which conversation.
    pub conversation_id: ConversationId,
}

/// `chatMessage`: a `Draft` that names its conversation. Its members are repeated, since serde's `flatten` would copy every
/// message through a tree first.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SendMessage {
    /// Where to say it.
    pub conversation_id: ConversationId,
    /// The text.
    pub message: String,
    /// The sender's own name for it.
    #[serde(default)]
    pub client_message_id: Option<String>,
}

/// A message to be said; the body of the REST call, where the path names the conversation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(example = json!({"message": "Hello"})))]
#[serde(rename_all = "camelCase")]
pub struct Draft {
    /// The text, kept exactly as it is: 1 to 5,000 characters not counting outer white space, and no more than 65,535
    /// bytes in all.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 5000))]
    pub message: String,
    /// The sender's own name for it, 1 to 64 characters: sent again with the same, a message is stored once.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 64))]
    pub client_message_id: Option<String>,
}

/// `typing`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Typing {
    /// Where.
    pub conversation_id: ConversationId,
    /// Whether the user is writing just now.
    pub is_typing: bool,
}

/// `markAsRead`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MarkAsRead {
    /// Where.
    pub conversation_id: ConversationId,
    /// The last message read; the conversation's last if not given.
    #[serde(default)]
    pub up_to_seq: Option<Seq>,
}

/// `sync`, and the body of `POST /api/chat/sync`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(example = json!({})))]
#[serde(rename_all = "camelCase")]
pub struct Sync {
    /// What the caller has, of at most 200 conversations; without it, the heads of all its conversations are answered.
    #[serde(default, deserialize_with = "object::optional_list")]
    #[cfg_attr(feature = "openapi", schema(max_items = 200))]
    pub conversations: Option<Vec<SyncPosition>>,
    /// The most changes to answer for each conversation: 1 to 500, 100 if not given.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 500, default = 100))]
    pub limit: Option<i64>,
}

/// How much of one conversation's log a caller has.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SyncPosition {
    /// Which conversation.
    pub conversation_id: ConversationId,
    /// The last change the caller has seen; 0 for none.
    pub after_event_seq: EventSeq,
}

/// `authenticate`. Its `Debug` never shows the token.
#[derive(Clone, PartialEq, Deserialize)]
pub struct Authenticate {
    /// An access token.
    pub token: String,
}

impl std::fmt::Debug for Authenticate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticate").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_objects() {
        let sync = |json: &str| serde_json::from_str::<Sync>(json);
        let position = SyncPosition {
            conversation_id: ConversationId::new(7),
            after_event_seq: EventSeq::ZERO,
        };
        let one = sync(r#"{"conversations":[{"conversationId":"7","afterEventSeq":0}]}"#).unwrap();
        assert_eq!(one.conversations, Some(vec![position]));
        assert_eq!(sync(r#"{"conversations":null}"#).unwrap(), Sync::default());
        assert_eq!(sync("{}").unwrap(), Sync::default());
        for bad in [
            "[[7,0]]",
            "[7]",
            "[null]",
            "{}",
            r#"[{"conversationId":7}]"#,
        ] {
            let json = format!(r#"{{"conversations":{bad}}}"#);
            assert!(sync(&json).is_err(), "{bad}");
        }
    }
}
