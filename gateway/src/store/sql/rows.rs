//! From rows to the things they mean: the columns every query of a kind asks for, and how they are read.

use serde::{Deserialize, Serialize};
use shared::model::{AgencySummary, ClientSummary, Conversation, Message, User};
use shared::{
    ClientId, ConversationId, EventSeq, MessageId, Role, SenderType, Seq, Timestamp, UserId,
};

use super::fault::Fault;
use super::query::Cells;
use crate::store::{ConversationRecord, Parties};

/// A user's columns, of `u`.
pub(super) const USER: &str = "u.id, u.email, u.role, u.firstName, u.lastName, u.company, u.phone, u.profilePicture, \
     COALESCE(u.isOnboardingCompleted, 0), u.createdAt, u.updatedAt";

pub(super) fn user(cells: &mut Cells<'_>) -> Result<User, Fault> {
    Ok(User {
        id: UserId::new(cells.int()?),
        email: cells.text()?,
        role: role(cells.opt_text()?.as_deref()),
        first_name: cells.opt_text()?,
        last_name: cells.opt_text()?,
        company: cells.opt_text()?,
        phone: cells.opt_text()?,
        profile_picture: cells.opt_text()?,
        is_onboarding_completed: cells.bool()?,
        created_at: cells.time()?,
        updated_at: cells.time()?,
    })
}

/// A message's columns, of `m`.
pub(super) const MESSAGE: &str = "m.id, m.conversationId, m.senderId, m.receiverId, m.senderType, m.content, \
     COALESCE(m.isRead, 0), m.readAt, m.createdAt, m.updatedAt, m.seq, m.eventSeq, m.clientMessageId";

pub(super) fn message(cells: &mut Cells<'_>) -> Result<Message, Fault> {
    Ok(Message {
        id: MessageId::new(cells.int()?),
        conversation_id: ConversationId::new(cells.int()?),
        sender_id: UserId::new(cells.int()?),
        receiver_id: UserId::new(cells.int()?),
        sender_type: side(&cells.text()?),
        content: cells.text()?,
        is_read: cells.bool()?,
        read_at: cells.time()?,
        created_at: cells.time()?,
        updated_at: cells.time()?,
        seq: Seq::new(cells.int()?),
        event_seq: EventSeq::new(cells.int()?),
        client_message_id: cells
            .opt_bytes()?
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    })
}

/// The account of the client `cl`: the linked one, or, while none is, the one with its address. NULL when it has none.
/// The tables of a client's account join so: `LEFT JOIN Users cu ON cu.id = ` this.
pub(super) const CLIENT_USER: &str = "COALESCE(cl.userId, \
     (SELECT MIN(f.id) FROM Users f WHERE f.emailLower = cl.emailLower AND f.role = 'user'))";

/// A conversation's columns, of `cv`, its client `cl`, the client's account `cu` and its agent `ag`.
pub(super) const CONVERSATION: &str = "cv.id, cv.clientId, cv.agencyId, cv.lastMessage, cv.lastMessageTime, \
     COALESCE(cv.unreadCount, 0), COALESCE(cv.isActive, 1), cv.createdAt, cv.updatedAt, cv.lastSeq, cv.lastEventSeq, \
     cv.clientUnreadCount, cl.name, cl.company, cl.email, cl.status, cl.userId, cu.id, ag.email, ag.firstName, ag.lastName";

/// The tables beside `cv` that `CONVERSATION` reads.
pub(super) fn conversation_joins() -> String {
    format!(
        "JOIN Clients cl ON cl.id = cv.clientId JOIN Users ag ON ag.id = cv.agencyId \
         LEFT JOIN Users cu ON cu.id = {CLIENT_USER}"
    )
}

/// A conversation as read, and whether its client's account was found by its address only.
pub(super) struct ConversationRow {
    pub(super) record: ConversationRecord,
    pub(super) unlinked: bool,
}

pub(super) fn conversation(cells: &mut Cells<'_>) -> Result<ConversationRow, Fault> {
    let id = ConversationId::new(cells.int()?);
    let client_id = ClientId::new(cells.int()?);
    let agency_id = UserId::new(cells.int()?);
    let last_message = cells.opt_text()?;
    let last_message_time = cells.time()?;
    let unread_count = cells.int()?;
    let is_active = cells.bool()?;
    let created_at = cells.time()?;
    let updated_at = cells.time()?;
    let last_seq = Seq::new(cells.int()?);
    let last_event_seq = EventSeq::new(cells.int()?);
    let client_unread_count = cells.int()?;
    let (name, company, email) = (cells.text()?, cells.opt_text()?, cells.text()?);
    let client_active = is_client_active(cells.opt_text()?.as_deref());
    let linked = cells.opt_int()?;
    let user_id = cells.opt_int()?.map(UserId::new);
    let conversation = Conversation {
        id,
        client_id,
        agency_id,
        last_message,
        last_message_time,
        unread_count,
        is_active,
        created_at,
        updated_at,
        client: ClientSummary {
            id: client_id,
            name,
            company,
            email,
            user_id,
        },
        agency: AgencySummary {
            id: agency_id,
            email: cells.text()?,
            first_name: cells.opt_text()?,
            last_name: cells.opt_text()?,
        },
        last_seq,
        last_event_seq,
    };
    Ok(ConversationRow {
        unlinked: linked.is_none() && user_id.is_some(),
        record: ConversationRecord {
            conversation,
            client_unread_count,
            client_active,
        },
    })
}

/// An unknown role is the lesser one.
pub(super) fn role(text: Option<&str>) -> Role {
    match text {
        Some("admin") => Role::Admin,
        _ => Role::User,
    }
}

/// A client without a status is active: that is the column's default.
pub(super) fn is_client_active(status: Option<&str>) -> bool {
    status != Some("inactive")
}

pub(super) fn side(text: &str) -> SenderType {
    match text {
        "agency" => SenderType::Agency,
        _ => SenderType::Client,
    }
}

/// The column `kind` of `ConversationEvents`.
pub(super) mod kind {
    pub(in super::super) const MESSAGE: &str = "message";
    pub(in super::super) const READ: &str = "read";
    pub(in super::super) const CREATED: &str = "created";
    pub(in super::super) const DELETED: &str = "deleted";
}

/// What the log keeps of a read: `ConversationEvents.payload` of the kind `read`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReadPayload {
    pub(super) side: SenderType,
    pub(super) up_to_seq: Seq,
    pub(super) count: i64,
}

/// What the log keeps of a deleted conversation: the payload of the kind `deleted`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeletedPayload {
    pub(super) agency_id: UserId,
    pub(super) client_user_id: Option<UserId>,
    pub(super) last_seq: Seq,
}

impl DeletedPayload {
    pub(super) const fn parties(&self) -> Parties {
        Parties {
            agency: self.agency_id,
            client_user: self.client_user_id,
            // Nobody writes there any more.
            client_active: false,
        }
    }
}

/// A payload for the column. Failing is impossible for these types, yet answered.
pub(super) fn to_payload<T: Serialize>(payload: &T) -> Result<String, Fault> {
    serde_json::to_string(payload).map_err(|error| Fault::Sql(sqlx::Error::Encode(error.into())))
}

pub(super) fn from_payload<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| {
        Fault::Sql(sqlx::Error::ColumnDecode {
            index: "payload".to_owned(),
            source: error.into(),
        })
    })
}

/// Milliseconds since 1970, as the columns of this program's own tables hold times.
pub(super) fn from_millis(millis: i64) -> Timestamp {
    Timestamp(chrono::DateTime::from_timestamp_millis(millis).unwrap_or_default())
}
