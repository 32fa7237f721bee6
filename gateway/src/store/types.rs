//! What goes into and comes out of a store, where it is not shown to clients as it is.

use shared::envelope::{Position, Revocation};
use shared::model::{ClientSummary, Conversation, Message, User};
use shared::{ConversationId, EventSeq, Role, SenderType, Seq, Timestamp, UserId};

/// What a migration did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MigrationReport {
    /// Schema versions applied.
    pub applied: u32,
    /// Whether tables of the old system were found and adopted in this run.
    pub adopted: bool,
    /// Messages that got their `seq` and `eventSeq` in this run.
    pub numbered_messages: u64,
    /// Clients that were linked to their account in this run.
    pub linked_clients: u64,
}

/// What is said of `SchemaState::RestoreUnfinished`.
pub(super) const UNFINISHED_RESTORE: &str = "a restore is under way or was cut short: if none runs, stop the nodes and run \
                                             gateway restore again, with --replace-everything";

/// Whether the database can be worked with as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// It has this version's schema.
    Current,
    /// `migrate` has to run first.
    Outdated,
    /// A restore is under way, or was cut short: what is there is a part of something.
    RestoreUnfinished,
}

impl SchemaState {
    /// What stands in the way of working with it, and what to do.
    pub const fn obstacle(self) -> Option<&'static str> {
        match self {
            Self::Current => None,
            Self::Outdated => Some("the schema is older than this version: run gateway migrate"),
            Self::RestoreUnfinished => Some(UNFINISHED_RESTORE),
        }
    }
}

/// An account with what proves it. Never logged: it has no `Debug`.
#[derive(Clone)]
pub struct Credentials {
    /// The account.
    pub user: User,
    /// The password's bcrypt hash.
    pub password_hash: String,
}

/// An address that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmailTaken;

/// A client that registers.
#[derive(Clone)]
#[expect(missing_docs, reason = "the fields are the columns of the same name")]
pub struct NewClient {
    pub email: String,
    pub password_hash: String,
    pub first_name: String,
    pub last_name: String,
    pub company: Option<String>,
    pub phone: Option<String>,
    pub country: Option<String>,
    pub at: Timestamp,
}

/// A new agency account.
#[derive(Clone)]
#[expect(missing_docs, reason = "the fields are the columns of the same name")]
pub struct NewAdmin {
    pub email: String,
    pub password_hash: String,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
    pub at: Timestamp,
}

/// Columns to change: the outer `None` leaves one as it is, the inner one clears it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the columns of the same name")]
pub struct ProfileChange {
    pub first_name: Option<Option<String>>,
    pub last_name: Option<Option<String>>,
    pub company: Option<Option<String>>,
    pub phone: Option<Option<String>>,
    pub profile_picture: Option<Option<String>>,
    pub is_onboarding_completed: Option<bool>,
}

/// SHA-256 of a refresh token: the token itself is never stored.
pub type TokenHash = [u8; 32];

/// A session that begins.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// The session's id: `sid` in its access tokens.
    pub id: String,
    /// Whose.
    pub user: UserId,
    /// Its first refresh token.
    pub refresh_hash: TokenHash,
    /// When it begins.
    pub at: Timestamp,
    /// When it ends by itself, unless it is refreshed.
    pub expires_at: Timestamp,
}

/// A refresh token to be spent.
#[derive(Debug, Clone)]
pub struct RefreshRotation {
    /// The token shown.
    pub spent: TokenHash,
    /// The one to replace it.
    pub fresh: TokenHash,
    /// Now.
    pub at: Timestamp,
    /// For how long a spent token is taken for a second tab's, milliseconds.
    pub grace_ms: i64,
    /// When the session ends by itself, unless it is refreshed again.
    pub expires_at: Timestamp,
}

/// What became of a rotation.
#[derive(Debug, Clone)]
pub enum RotationOutcome {
    /// The fresh token is good now.
    Rotated {
        /// Whose session.
        user: User,
        /// Which.
        session_id: String,
    },
    /// Spent a moment ago: good for an access token, not for a refresh token.
    Grace {
        /// Whose session.
        user: User,
        /// Which.
        session_id: String,
    },
    /// Spent long ago: somebody has a copy. The session was ended just now, by this revocation.
    Reused(Revocation),
    /// No such token, or its session has ended.
    Unknown,
}

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Viewer {
    /// The account.
    pub user: UserId,
    /// Its role: an admin sees every conversation, a client its own.
    pub role: Role,
}

/// A conversation with both sides' counts; `seen_by` makes it what one caller is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct ConversationRecord {
    /// As the agency sees it.
    pub conversation: Conversation,
    /// What the client has not read.
    pub client_unread_count: i64,
    /// Whether the client may write.
    pub client_active: bool,
}

impl ConversationRecord {
    /// The cursor of the page that goes on after this conversation. One without any time stands at 1970, last of all.
    pub fn cursor(&self) -> ConversationCursor {
        let conversation = &self.conversation;
        ConversationCursor {
            activity: conversation
                .last_message_time
                .or(conversation.created_at)
                .unwrap_or(Timestamp(chrono::DateTime::UNIX_EPOCH)),
            id: conversation.id,
        }
    }

    /// The conversation as a caller of that role is shown it.
    pub fn seen_by(&self, role: Role) -> Conversation {
        let mut conversation = self.conversation.clone();
        if role == Role::User {
            conversation.unread_count = self.client_unread_count;
        }
        conversation
    }

    /// Who talks here.
    pub fn parties(&self) -> Parties {
        Parties {
            agency: self.conversation.agency_id,
            client_user: self.conversation.client.user_id,
            client_active: self.client_active,
        }
    }
}

/// Who talks in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parties {
    /// The agent it is assigned to.
    pub agency: UserId,
    /// The client's account, where it has one.
    pub client_user: Option<UserId>,
    /// Whether the client may write.
    pub client_active: bool,
}

/// Where a page of conversations goes on: after this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversationCursor {
    /// Its activity.
    pub activity: Timestamp,
    /// Its id.
    pub id: ConversationId,
}

/// What came of opening a conversation.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "short-lived, one for each call")]
pub enum OpenOutcome {
    /// It is new.
    Created(ConversationRecord, Logged),
    /// It was there.
    Existing(ConversationRecord),
    /// The agent named is none.
    UnknownAgent,
    /// There is no agent at all.
    NoAgent,
    /// The client may not write.
    ClientInactive,
}

/// A reader's mark.
#[derive(Debug, Clone, Copy)]
pub struct ReadMark {
    /// Where.
    pub conversation: ConversationId,
    /// Who reads.
    pub reader: UserId,
    /// For which side.
    pub side: SenderType,
    /// Up to which message; the last if not given. Beyond the last it means the last.
    pub up_to: Option<Seq>,
    /// When.
    pub at: Timestamp,
}

/// What a mark did.
#[derive(Debug, Clone)]
pub struct ReadOutcome {
    /// The place that was meant.
    pub up_to: Seq,
    /// How many messages turned read.
    pub count: i64,
    /// The change, where there was one.
    pub logged: Option<Logged>,
}

/// Unread messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UnreadTotals {
    /// In all conversations the viewer sees.
    pub all: i64,
    /// In those assigned to the viewer; for a client the same as `all`.
    pub mine: i64,
}

/// A message to be stored.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Where.
    pub conversation: ConversationId,
    /// Who says it.
    pub sender: UserId,
    /// As what.
    pub role: Role,
    /// The text.
    pub content: String,
    /// The sender's own name for it.
    pub client_message_id: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// Which page of a conversation's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessagePage {
    /// From where.
    pub position: PagePosition,
    /// How many at the most.
    pub limit: u32,
    /// The conversation's last change that the reader knows of: a page from before it is none. `None`: the latest there is.
    pub as_of: Option<EventSeq>,
}

/// From where a page of messages goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagePosition {
    /// The newest.
    Latest,
    /// The newest of those before.
    Before(Seq),
    /// The oldest of those after.
    After(Seq),
}

/// Why a message was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// No such conversation.
    ConversationNotFound,
    /// Not the sender's.
    NotAParticipant,
    /// The client may read, not write.
    ClientInactive,
    /// Nobody there to receive it.
    ClientHasNoAccount,
}

/// What a batch did.
#[derive(Debug, Clone)]
pub struct AppendOutcome {
    /// One for each message of the batch.
    pub results: Vec<Result<Appended, Rejection>>,
    /// The outbox entries of the transaction, to be struck once all of its changes are published.
    pub outbox: Vec<OutboxId>,
}

/// What became of one message.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "repeats are rare")]
pub enum Appended {
    /// Stored now.
    New(Logged),
    /// Stored before.
    Repeat(Message),
}

/// A change in a conversation's log, with all that its events say.
#[derive(Debug, Clone)]
pub struct Logged {
    /// Its place.
    pub position: Position,
    /// When it was made.
    pub at: Timestamp,
    /// Who made it.
    pub actor: UserId,
    /// The conversation's parties.
    pub parties: Parties,
    /// What changed.
    pub change: Change,
    /// The outbox entry to strike once it is published; `None` where it was read from the log, or where a batch has one
    /// of its own for all its changes.
    pub outbox: Option<OutboxId>,
}

/// What a durable change was.
#[derive(Debug, Clone)]
pub enum Change {
    /// Somebody wrote.
    Message {
        /// The message.
        message: Message,
        /// The client it was written by or to.
        client: ClientSummary,
        /// What the agency had not read after it.
        unread_count: i64,
    },
    /// Somebody read.
    Read {
        /// For which side.
        side: SenderType,
        /// Up to where.
        up_to: Seq,
        /// How many messages turned read.
        count: i64,
    },
    /// The conversation was opened: as it was then.
    Created(Conversation),
    /// The conversation was deleted.
    Deleted,
}

/// The end of a conversation's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHead {
    /// Which conversation.
    pub conversation: ConversationId,
    /// The newest message; 0 for none.
    pub last_seq: Seq,
    /// The newest change; 0 for none.
    pub last_event_seq: EventSeq,
    /// Whether the conversation was deleted.
    pub gone: bool,
    /// Who talks, or talked, there.
    pub parties: Parties,
}

/// A row of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutboxId(pub i64);

/// Changes of one conversation that were committed together and are not known to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxEntry {
    /// The row.
    pub id: OutboxId,
    /// Whose changes.
    pub conversation: ConversationId,
    /// The first.
    pub first: EventSeq,
    /// The last.
    pub last: EventSeq,
}

/// What to archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveOrder {
    /// Messages from before this time.
    pub before: Timestamp,
    /// The most messages of one transaction.
    pub batch: u32,
    /// Only say how many there are.
    pub dry_run: bool,
}

/// What came of archiving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveOutcome {
    /// All that is old is archived.
    Done(Archived),
    /// Another run is at it.
    Busy,
    /// `Messages` has columns that this program does not know and would lose; nothing was done.
    UnknownColumns(Vec<String>),
}

/// How much was archived, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Archived {
    /// Conversations of which something was.
    pub conversations: u64,
    /// Messages.
    pub messages: u64,
}

/// What a restored database holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Accounts.
    pub users: i64,
    /// Conversations.
    pub conversations: i64,
    /// Messages that are not archived.
    pub messages: i64,
    /// Archived messages.
    pub archived: i64,
    /// Conversations that lack some of the messages they have counted: taken out by hand before the backup, or lost.
    pub incomplete: i64,
}

/// What a database says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// By how much its clock is ahead of this machine's, milliseconds.
    pub ahead_ms: i64,
    /// How long it took to answer.
    pub took: std::time::Duration,
    /// What only MySQL has.
    pub mysql: Option<MySqlSettings>,
}

/// Settings of a MySQL server that the chat depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MySqlSettings {
    /// `VERSION()`.
    pub version: String,
    /// `innodb_flush_log_at_trx_commit`.
    pub flush_at_commit: i64,
    /// `max_connections`.
    pub max_connections: i64,
    /// `max_allowed_packet`, bytes.
    pub max_packet: i64,
    /// `read_only`.
    pub read_only: bool,
}

/// A table before and after it was put in shape, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSize {
    /// Which.
    pub name: &'static str,
    /// What it took.
    pub before: i64,
    /// What it takes.
    pub after: i64,
}
