//! Messages and conversations in MySQL. A message is stored and its conversation brought up to date in one transaction.
//! Who takes part in a conversation does not change, so it is read once.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use parking_lot::RwLock;
use serde::Serialize;
use sqlx::mysql::{MySqlPool, MySqlPoolOptions};

use crate::User;

/// The database, and what need not be read twice.
#[derive(Clone)]
pub struct Store {
    pool: MySqlPool,
    conversations: Arc<RwLock<HashMap<i32, Arc<Conversation>>>>,
}

/// Who takes part in a conversation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Conversation {
    id: i32,
    client_id: i32,
    agency_id: i32,
    pub client: Client,
    /// The client's account, where it has one.
    #[serde(skip)]
    client_user: Option<i32>,
}

#[derive(Debug, Serialize)]
pub struct Client {
    id: i32,
    name: String,
    company: Option<String>,
    email: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    id: u64,
    conversation_id: i32,
    sender_id: i32,
    pub receiver_id: i32,
    sender_type: &'static str,
    content: String,
    is_read: bool,
    read_at: Option<String>,
    created_at: String,
    updated_at: String,
}

/// A stored message, and how its conversation stands.
pub struct Stored {
    pub message: Message,
    pub conversation: Arc<Conversation>,
    pub unread_count: i32,
}

#[derive(Debug)]
pub enum Failure {
    NotFound,
    NotYours,
    NoAccount,
    BadText,
    Database,
}

impl Failure {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "CONVERSATION_NOT_FOUND",
            Self::NotYours => "FORBIDDEN",
            Self::NoAccount => "CLIENT_HAS_NO_ACCOUNT",
            Self::BadText => "VALIDATION_ERROR",
            Self::Database => "INTERNAL_ERROR",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such conversation",
            Self::NotYours => "this conversation is not yours",
            Self::NoAccount => "the client has no account",
            Self::BadText => "a message has 1 to 5,000 characters",
            Self::Database => "the database failed",
        })
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        eprintln!("{error}");
        Self::Database
    }
}

type ConversationRow = (i32, i32, i32, String, Option<String>, String, Option<i32>);

impl Store {
    pub async fn connect(url: &str) -> Result<Self, sqlx::Error> {
        let pool = MySqlPoolOptions::new()
            .max_connections(32)
            .connect(url)
            .await?;
        Ok(Self {
            pool,
            conversations: Arc::default(),
        })
    }

    /// A conversation that this user may see.
    pub async fn conversation(&self, id: i32, user: &User) -> Result<Arc<Conversation>, Failure> {
        let known = self.conversations.read().get(&id).cloned();
        let conversation = match known {
            Some(conversation) => conversation,
            None => self.read(id).await?,
        };
        if user.role != "admin" && conversation.client.email != user.email {
            return Err(Failure::NotYours);
        }
        Ok(conversation)
    }

    async fn read(&self, id: i32) -> Result<Arc<Conversation>, Failure> {
        let row: Option<ConversationRow> = sqlx::query_as(
            "SELECT v.id, v.clientId, v.agencyId, c.name, c.company, c.email, u.id
             FROM Conversations v JOIN Clients c ON c.id = v.clientId LEFT JOIN Users u ON u.email = c.email
             WHERE v.id = ?",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        let (id, client_id, agency_id, name, company, email, client_user) =
            row.ok_or(Failure::NotFound)?;
        let conversation = Arc::new(Conversation {
            id,
            client_id,
            agency_id,
            client: Client {
                id: client_id,
                name,
                company,
                email,
            },
            client_user,
        });
        self.conversations.write().insert(id, conversation.clone());
        Ok(conversation)
    }

    /// Stores a message.
    pub async fn send(&self, id: i32, user: &User, content: String) -> Result<Stored, Failure> {
        if content.trim().is_empty() || content.chars().count() > 5_000 {
            return Err(Failure::BadText);
        }
        let conversation = self.conversation(id, user).await?;
        let from_client = user.role == "user";
        let (sender_type, receiver_id) = if from_client {
            ("client", conversation.agency_id)
        } else {
            (
                "agency",
                conversation.client_user.ok_or(Failure::NoAccount)?,
            )
        };
        let at = Utc::now();
        let mut transaction = self.pool.begin().await?;
        // First, for its lock: two that insert a row that refers to the conversation, and then want to change it, wait for
        // each other.
        sqlx::query(
            "UPDATE Conversations
             SET lastMessage = ?, lastMessageTime = ?, unreadCount = unreadCount + ?, updatedAt = ? WHERE id = ?",
        )
        .bind(&content)
        .bind(at)
        .bind(i32::from(from_client))
        .bind(at)
        .bind(id)
        .execute(&mut *transaction)
        .await?;
        let unread_count: i32 =
            sqlx::query_scalar("SELECT unreadCount FROM Conversations WHERE id = ?")
                .bind(id)
                .fetch_one(&mut *transaction)
                .await?;
        let inserted = sqlx::query(
            "INSERT INTO Messages (conversationId, senderId, receiverId, senderType, content, createdAt, updatedAt)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(id)
        .bind(user.id)
        .bind(receiver_id)
        .bind(sender_type)
        .bind(&content)
        .bind(at)
        .bind(at)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let at = at.to_rfc3339_opts(SecondsFormat::Millis, true);
        let message = Message {
            id: inserted.last_insert_id(),
            conversation_id: id,
            sender_id: user.id,
            receiver_id,
            sender_type,
            content,
            is_read: false,
            read_at: None,
            created_at: at.clone(),
            updated_at: at,
        };
        Ok(Stored {
            message,
            conversation,
            unread_count,
        })
    }
}

/// Now, as clients read it.
pub fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}
