//! What is kept: accounts, sessions, conversations, messages and the log of their changes. This file says what the rest
//! of the house may ask of a database; `sql/` answers for MySQL and SQLite. SQL stands nowhere else, and no rule of the
//! chat (who may do what) stands here.

mod error;
mod settings;
mod sql;
mod types;

pub use error::{StoreError, UpkeepError};
pub use settings::{InvalidUrl, Settings};
pub use sql::open;
pub use types::*;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use shared::envelope::{Position, Revocation};
use shared::model::{Message, User};
use shared::{ConversationId, EventSeq, Timestamp, UserId};

/// A whole store.
///
/// Every call is bounded in time by the configured timeouts and fails with `StoreError::Unavailable` when the database
/// can't be reached, is too slow, or has no free connection, and at once with `StoreError::Full` when too many calls wait for a
/// connection. Nothing was changed then, but for one case: where the connection is lost at the commit, the call finds out
/// by itself whether the change was made, and only where it can't in its time is that unknown.
/// E-mail addresses are compared without case everywhere.
pub trait Store: Schema + Accounts + Sessions + Conversations + Messages + Log + Upkeep {}

impl<T: Schema + Accounts + Sessions + Conversations + Messages + Log + Upkeep> Store for T {}

/// The database as such.
#[async_trait]
pub trait Schema: Send + Sync + 'static {
    /// Brings the schema to this version's, adopting an existing database of the old system: only adds tables, columns,
    /// indexes and missing values. Safe to run again, and from several nodes at once: one works, the others wait.
    /// Rows that the old system wrote since the last run (no `seq` yet) are taken in.
    async fn migrate(&self) -> Result<MigrationReport, StoreError>;

    /// Whether the database answers and has this version's schema.
    async fn check(&self) -> Result<SchemaState, StoreError>;

    /// Closes every connection, after the calls under way.
    async fn close(&self);
}

/// Rows of `Users` and `Clients`.
#[async_trait]
pub trait Accounts: Send + Sync + 'static {
    /// One account.
    async fn user(&self, id: UserId) -> Result<Option<User>, StoreError>;

    /// Those accounts of `ids` that exist, in no order. For a reader, who sees its own changes; those of others may be as old as
    /// a replica may be behind.
    async fn users(&self, reader: UserId, ids: &[UserId]) -> Result<Vec<User>, StoreError>;

    /// An account and its password's hash, for login.
    async fn credentials(&self, email: &str) -> Result<Option<Credentials>, StoreError>;

    /// The same, by id.
    async fn credentials_of(&self, id: UserId) -> Result<Option<Credentials>, StoreError>;

    /// Makes a client: its `Users` row (role `user`) and its `Clients` row, linked, in one transaction.
    /// An address that either table has already is `EmailTaken`, also under concurrent calls.
    async fn register_client(
        &self,
        account: &NewClient,
    ) -> Result<Result<User, EmailTaken>, StoreError>;

    /// Makes an agency account (role `admin`).
    async fn create_admin(
        &self,
        account: &NewAdmin,
    ) -> Result<Result<User, EmailTaken>, StoreError>;

    /// Changes the given columns; `None` where there is no such account.
    async fn update_profile(
        &self,
        id: UserId,
        change: &ProfileChange,
    ) -> Result<Option<User>, StoreError>;
}

/// Sign-ins: a session is a family of refresh tokens; revocations end access tokens before their time.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// Begins a session with its first refresh token.
    async fn begin_session(&self, session: &NewSession) -> Result<(), StoreError>;

    /// Spends a refresh token for another, in one transaction: of two concurrent calls with one token, one is `Rotated`
    /// and the other `Grace`. A token spent more than `grace` ago ends its session, with a revocation as `end_session`
    /// writes it.
    async fn rotate_refresh(
        &self,
        rotation: &RefreshRotation,
    ) -> Result<RotationOutcome, StoreError>;

    /// Ends one session and records the revocation of its access tokens. Ending an ended one is no error.
    async fn end_session(
        &self,
        session_id: &str,
        user: UserId,
        at: Timestamp,
    ) -> Result<(), StoreError>;

    /// Sets a password's hash and ends all of the user's sessions but `keep`, in one transaction, with one revocation
    /// of scope `AllBut(keep)`.
    async fn change_password(
        &self,
        user: UserId,
        hash: &str,
        keep: Option<&str>,
        at: Timestamp,
    ) -> Result<(), StoreError>;

    /// Records a revocation by itself: of a token that has no session.
    async fn revoke(&self, revocation: &Revocation) -> Result<(), StoreError>;

    /// Every revocation recorded since `since` by the clock of the nodes.
    async fn revocations_since(&self, since: Timestamp) -> Result<Vec<Revocation>, StoreError>;

    /// Deletes what no longer matters: sessions expired before `now`, revocations older than `now` less the life of an
    /// access token. Bounded in rows a call; returns how many went.
    async fn prune_sessions(&self, now: Timestamp) -> Result<u64, StoreError>;
}

/// Rows of `Conversations`.
#[async_trait]
pub trait Conversations: Send + Sync + 'static {
    /// One conversation.
    async fn conversation(
        &self,
        id: ConversationId,
    ) -> Result<Option<ConversationRecord>, StoreError>;

    /// A page of the conversations a viewer may see, latest activity first, then by id, newest first. Activity is the
    /// last message's time, or the creation where there is none. The viewer sees its own changes; those of others may be as old
    /// as a replica may be behind.
    async fn conversations(
        &self,
        viewer: Viewer,
        after: Option<&ConversationCursor>,
        limit: u32,
    ) -> Result<Vec<ConversationRecord>, StoreError>;

    /// Opens the conversation of a client's account with an agent, or finds the one there is. Makes the account's
    /// `Clients` row where the old system left none. Without an agent, the client's open conversation with the latest
    /// activity; where it has none, one with the agent who has the fewest open conversations.
    /// A new one's change is logged in the same transaction.
    async fn open_conversation(
        &self,
        client: UserId,
        agent: Option<UserId>,
        at: Timestamp,
    ) -> Result<OpenOutcome, StoreError>;

    /// Deletes a conversation with its messages and its log, but for the logged deletion itself, which stays as its
    /// tombstone. `None` where there is no such conversation.
    async fn delete_conversation(
        &self,
        id: ConversationId,
        by: UserId,
        at: Timestamp,
    ) -> Result<Option<Logged>, StoreError>;

    /// Marks the other side's messages up to a place as read, as one logged change; no change is logged where nothing
    /// turned read. `None` where there is no such conversation.
    async fn mark_read(&self, mark: &ReadMark) -> Result<Option<ReadOutcome>, StoreError>;

    /// The unread counts of the viewer's side; as old as `conversations`.
    async fn unread(&self, viewer: Viewer) -> Result<UnreadTotals, StoreError>;

    /// The people a user shares a conversation with: an agent's clients' accounts, a client's agents; as old as
    /// `conversations`.
    async fn counterparts(&self, viewer: Viewer) -> Result<Vec<UserId>, StoreError>;
}

/// Decides over one message of a batch while its conversation is locked: whom it goes to, or why not.
pub type Admission = dyn Fn(&NewMessage, &Parties) -> Result<UserId, Rejection> + Send + Sync;

/// Rows of `Messages`.
#[async_trait]
pub trait Messages: Send + Sync + 'static {
    /// Stores a batch in one transaction: all that are admitted, or, on an error, none. Conversations are locked in the
    /// order of their ids; within each, messages are numbered in the order of the batch; each gets its row in the
    /// conversation's log. One answer for each message of the batch, in its order.
    ///
    /// A `client_message_id` that its sender has used in that conversation (also earlier in the same batch) answers
    /// `Appended::Repeat` with the stored message; the admission is asked all the same.
    ///
    /// Where it stays unknown whether the batch was stored, repeats with a `client_message_id` find out. Never `Full`: its
    /// callers are few.
    async fn append(
        &self,
        batch: &[NewMessage],
        admit: &Admission,
    ) -> Result<AppendOutcome, StoreError>;

    /// A page of a conversation's messages in `seq` order.
    async fn messages(
        &self,
        conversation: ConversationId,
        page: MessagePage,
    ) -> Result<Vec<Message>, StoreError>;
}

/// The log of durable changes, which is also the outbox of what is still to be published.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// The changes of one conversation after a place, oldest first, at most `limit`.
    async fn log_after(
        &self,
        conversation: ConversationId,
        after: EventSeq,
        limit: u32,
    ) -> Result<Vec<Logged>, StoreError>;

    /// The conversations with ids above `after` that have changes made at or after `since`, each with the first of these,
    /// in the order of their ids, at most `limit`. Deleted ones included.
    async fn changed_since(
        &self,
        since: Timestamp,
        after: ConversationId,
        limit: u32,
    ) -> Result<Vec<Position>, StoreError>;

    /// The heads of the logs of `ids` (all that the viewer may see, without `ids`), deleted conversations included where
    /// they are asked for by id. An unknown id has no entry.
    async fn heads(
        &self,
        viewer: Viewer,
        ids: Option<&[ConversationId]>,
    ) -> Result<Vec<LogHead>, StoreError>;

    /// Outbox entries older than `age_ms` by the database's clock, oldest first: changes that a node committed and
    /// perhaps never published. Entries that another node is looking at just now may be skipped.
    async fn stale_outbox(&self, age_ms: u64, limit: u32) -> Result<Vec<OutboxEntry>, StoreError>;

    /// The oldest change of a conversation that may not have been published yet: where a bus that has forgotten the
    /// conversation must begin. `None` where all are.
    async fn first_unpublished(
        &self,
        conversation: ConversationId,
    ) -> Result<Option<EventSeq>, StoreError>;

    /// Strikes entries from the outbox: their changes were published.
    async fn clear_outbox(&self, ids: &[OutboxId]) -> Result<(), StoreError>;
}

/// What keeps a database in shape, asked by commands, never by a request.
#[async_trait]
pub trait Upkeep: Send + Sync + 'static {
    /// Moves messages from before a time out of the table that the chat works with. They stay in every answer: pages, `sync`,
    /// repeats, marks. Each batch is a transaction of its own, so a run that was cut short goes on with the next one. Of two
    /// runs at once, on MySQL one is `Busy`. Nodes of a version that knows no archive must not run any more.
    async fn archive(&self, order: ArchiveOrder) -> Result<ArchiveOutcome, StoreError>;

    /// Writes all of the database, as it is at one moment, into a new file that only its owner can read, while others go on
    /// writing; its size. The file has its name only once it is whole and on the disk.
    async fn backup(&self, to: &Path) -> Result<u64, UpkeepError>;

    /// Puts a backup into the database, which must be empty, unless all that is in it may be `replace`d, and which nobody else may
    /// be connected to. Brings it to this version's schema. Ids and `eventSeq` go on far beyond those of the backup, and further the later it
    /// is, so that what was handed out since, also after an earlier restore, never names something else. On MySQL a restore that was cut short leaves a database that no node serves.
    async fn restore(&self, from: &Path, replace: bool) -> Result<Restored, UpkeepError>;

    /// What the database says of itself.
    async fn inspect(&self) -> Result<Inspection, StoreError>;

    /// Gives back the room that deleted rows have left, and counts the keys of the large tables anew: how large each was and
    /// is. On MySQL others read and write meanwhile; on SQLite writers wait, or fail where it takes longer than they may.
    async fn optimize(&self) -> Result<Vec<TableSize>, StoreError>;
}

/// A store as the house passes it around.
pub type SharedStore = Arc<dyn Store>;
