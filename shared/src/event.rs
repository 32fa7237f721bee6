//! What clients are told over a socket: the events' names and payloads.

use serde::{Deserialize, Serialize};

use crate::ids::{ConversationId, EventSeq, Seq, UserId};
use crate::model::{ClientSummary, Conversation, Message, OnlineUser};
use crate::role::Role;
use crate::timestamp::Timestamp;

/// Names of the server's events.
#[expect(missing_docs, reason = "the names say it")]
pub mod name {
    pub const MESSAGE_RECEIVED: &str = "messageReceived";
    pub const CHAT_MESSAGE: &str = "chatMessage";
    pub const NEW_MESSAGE_NOTIFICATION: &str = "newMessageNotification";
    pub const TYPING_STATUS: &str = "typingStatus";
    pub const MESSAGES_MARKED_READ: &str = "messagesMarkedRead";
    pub const MESSAGES_READ: &str = "messagesRead";
    pub const USER_ONLINE: &str = "userOnline";
    pub const USER_OFFLINE: &str = "userOffline";
    pub const ONLINE_USERS: &str = "onlineUsers";
    pub const CONVERSATION_CREATED: &str = "conversationCreated";
    pub const CONVERSATION_DELETED: &str = "conversationDeleted";
    pub const TOKEN_EXPIRING: &str = "tokenExpiring";
    pub const ERROR: &str = "error";

    /// Every name.
    pub const ALL: &[&str] = &[
        MESSAGE_RECEIVED,
        CHAT_MESSAGE,
        NEW_MESSAGE_NOTIFICATION,
        TYPING_STATUS,
        MESSAGES_MARKED_READ,
        MESSAGES_READ,
        USER_ONLINE,
        USER_OFFLINE,
        ONLINE_USERS,
        CONVERSATION_CREATED,
        CONVERSATION_DELETED,
        TOKEN_EXPIRING,
        ERROR,
    ];
}

/// `newMessageNotification`: to the agency, when a client wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewMessageNotification {
    /// Where.
    pub conversation_id: ConversationId,
    /// The change's place in the conversation's log: that of the message.
    pub event_seq: EventSeq,
    /// What was said.
    pub message: Message,
    /// Who said it.
    pub client: ClientSummary,
    /// What the agency has not read there, this message included.
    pub unread_count: i64,
}

/// `typingStatus`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TypingStatus {
    /// Where.
    pub conversation_id: ConversationId,
    /// Who.
    pub user_id: UserId,
    /// Whether they are writing.
    pub is_typing: bool,
}

/// `messagesMarkedRead`: to the reader's own sockets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessagesMarkedRead {
    /// Where.
    pub conversation_id: ConversationId,
    /// The change's place in the conversation's log.
    pub event_seq: EventSeq,
    /// The last message read.
    pub up_to_seq: Seq,
    /// How many messages turned read.
    pub count: i64,
    /// When.
    pub read_at: Timestamp,
}

/// `messagesRead`: to the other party.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessagesRead {
    /// Where.
    pub conversation_id: ConversationId,
    /// The change's place in the conversation's log.
    pub event_seq: EventSeq,
    /// Who read.
    pub read_by: UserId,
    /// The last message read.
    pub up_to_seq: Seq,
    /// How many messages turned read.
    pub count: i64,
    /// When.
    pub read_at: Timestamp,
}

/// `userOnline` and `userOffline`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PresenceChange {
    /// Who.
    pub user_id: UserId,
    /// Their role.
    pub role: Role,
    /// When they turned.
    pub at: Timestamp,
}

/// `onlineUsers`, and the data of `GET /api/chat/online`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OnlineUsers {
    /// Everyone the asker may see.
    pub users: Vec<OnlineUser>,
}

/// `conversationCreated`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConversationCreated {
    /// Which.
    pub conversation_id: ConversationId,
    /// The change's place in the conversation's log.
    pub event_seq: EventSeq,
    /// The conversation as it was opened.
    pub conversation: Conversation,
}

/// `conversationDeleted`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConversationDeleted {
    /// Which.
    pub conversation_id: ConversationId,
    /// The change's place in the conversation's log: its last.
    pub event_seq: EventSeq,
}

/// `tokenExpiring`, and the answer to `authenticate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenExpiry {
    /// When the socket's token ends.
    pub expires_at: Timestamp,
}

/// The answer to `sync`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SyncAnswer {
    /// One entry for each conversation asked for, in the order asked.
    pub conversations: Vec<SyncedConversation>,
}

/// One conversation in a `SyncAnswer`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SyncedConversation {
    /// Which.
    pub conversation_id: ConversationId,
    /// The newest message's place.
    pub last_seq: Seq,
    /// The newest change's place: what a caller has that read every page.
    pub last_event_seq: EventSeq,
    /// What the caller missed, oldest first. One change may be several events.
    pub events: Vec<SyncedEvent>,
    /// Whether more follow: ask again after the last one's `eventSeq`.
    pub has_more: bool,
    /// Set, and true, where the conversation was deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

/// An event as it was heard live.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct SyncedEvent {
    /// The change's place in the conversation's log.
    pub event_seq: EventSeq,
    /// The event's name.
    pub event: String,
    /// The event's payload.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub data: Box<serde_json::value::RawValue>,
}
