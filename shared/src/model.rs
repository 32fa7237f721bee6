//! The things a client is shown: users, conversations, messages, in the JSON form that REST and events share.
//! Missing values are null, never left out.

use serde::{Deserialize, Serialize};

use crate::ids::{ClientId, ConversationId, EventSeq, MessageId, Seq, UserId};
use crate::role::{Role, SenderType};
use crate::timestamp::Timestamp;

/// An account: every column of `Users` but the password.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are the columns of the same name")]
pub struct User {
    pub id: UserId,
    pub email: String,
    pub role: Role,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub company: Option<String>,
    pub phone: Option<String>,
    pub profile_picture: Option<String>,
    pub is_onboarding_completed: bool,
    pub created_at: Option<Timestamp>,
    pub updated_at: Option<Timestamp>,
}

/// A message as every surface shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Row id, unique over all conversations.
    pub id: MessageId,
    /// Where it was said.
    pub conversation_id: ConversationId,
    /// Who said it.
    pub sender_id: UserId,
    /// Whom it was said to: the agent, or the client's account.
    pub receiver_id: UserId,
    /// The side it was said for.
    pub sender_type: SenderType,
    /// Exactly as sent, outer white space included.
    pub content: String,
    /// Whether the other side has read it.
    pub is_read: bool,
    /// When the other side read it.
    pub read_at: Option<Timestamp>,
    /// When it was stored.
    pub created_at: Option<Timestamp>,
    /// When the row last changed.
    pub updated_at: Option<Timestamp>,
    /// Its place among the conversation's messages.
    pub seq: Seq,
    /// The place, in the conversation's log, of the change that stored it.
    pub event_seq: EventSeq,
    /// The sender's own name for it, by which a repeat is known.
    pub client_message_id: Option<String>,
}

/// The client's side of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are the columns of the same name")]
pub struct ClientSummary {
    pub id: ClientId,
    pub name: String,
    pub company: Option<String>,
    pub email: String,
    /// The client's account; null while it has none.
    pub user_id: Option<UserId>,
}

/// The agency's side of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are the columns of the same name")]
pub struct AgencySummary {
    pub id: UserId,
    pub email: String,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
}

/// A conversation as one caller sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Conversation {
    /// Row id.
    pub id: ConversationId,
    /// The client's row.
    pub client_id: ClientId,
    /// The agent it is assigned to.
    pub agency_id: UserId,
    /// What was said last.
    pub last_message: Option<String>,
    /// When it was said.
    pub last_message_time: Option<Timestamp>,
    /// What the caller's side has not read.
    pub unread_count: i64,
    /// Whether it is open.
    pub is_active: bool,
    /// When it was opened.
    pub created_at: Option<Timestamp>,
    /// When the row last changed.
    pub updated_at: Option<Timestamp>,
    /// The client.
    pub client: ClientSummary,
    /// The agent.
    pub agency: AgencySummary,
    /// The newest message's place; 0 while there is none.
    pub last_seq: Seq,
    /// The newest change's place; 0 while there is none.
    pub last_event_seq: EventSeq,
}

/// Somebody who is online.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the fields are the columns of the same name")]
pub struct OnlineUser {
    pub id: UserId,
    pub role: Role,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
}
