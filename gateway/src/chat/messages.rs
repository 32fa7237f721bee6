//! Commands on messages: say one, page through them.

use serde::Serialize;
use shared::command::Draft;
use shared::model::Message;
use shared::{ConversationId, ErrorCode, SocketId, Timestamp};
use tokio::sync::oneshot;

use super::{Chat, draft};
use crate::failure::Failure;
use crate::store::{Appended, Change, MessagePage, NewMessage, PagePosition, Viewer};

/// Which page of messages.
#[derive(Debug, Clone, Copy)]
pub struct MessagesRequest {
    /// From where.
    pub position: PagePosition,
    /// How many at the most.
    pub limit: u32,
}

/// A page of messages in `seq` order.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessagesPage {
    /// The page.
    pub messages: Vec<Message>,
    /// Whether there are more in the direction of the page.
    pub has_more: bool,
}

/// A message that is stored.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The message.
    pub message: Message,
    /// Whether it was stored before, under the same `clientMessageId`.
    pub repeat: bool,
}

impl Chat {
    /// Hands a message in; `done` is called once it is committed (or is not), before anybody hears of it. What one
    /// caller hands in one after another is stored in that order, and need not be waited for in between. Where too many
    /// wait to be stored, it is called at once.
    pub fn submit(
        &self,
        sender: Viewer,
        conversation: ConversationId,
        draft: Draft,
        origin: Option<SocketId>,
        done: impl FnOnce(Result<Sent, Failure>) + Send + 'static,
    ) {
        let draft = match draft::check(draft) {
            Ok(draft) => draft,
            Err(failure) => return done(Err(failure)),
        };
        let message = NewMessage {
            conversation,
            sender: sender.user,
            role: sender.role,
            content: draft.message,
            client_message_id: draft.client_message_id,
            at: Timestamp::now(),
        };
        let done = Box::new(move |result: Result<Appended, Failure>| done(result.and_then(sent)));
        self.writers.submit(message, origin, done);
    }

    /// Says something and waits for the commit.
    pub async fn send(
        &self,
        sender: Viewer,
        conversation: ConversationId,
        draft: Draft,
    ) -> Result<Sent, Failure> {
        let (done, result) = oneshot::channel();
        // The caller may be gone by then; the message is stored all the same.
        let done = move |outcome| drop(done.send(outcome));
        self.submit(sender, conversation, draft, None, done);
        result.await.unwrap_or_else(|_| {
            Err(Failure::new(
                ErrorCode::ServiceUnavailable,
                "this node is going away",
            ))
        })
    }

    /// A page of a conversation's messages.
    pub async fn messages(
        &self,
        viewer: Viewer,
        conversation: ConversationId,
        request: MessagesRequest,
    ) -> Result<MessagesPage, Failure> {
        let record = self.visible(viewer, conversation).await?;
        let MessagesRequest { position, limit } = request;
        // One more than asked for tells whether there are more.
        let page = MessagePage {
            position,
            limit: limit + 1,
            as_of: Some(record.conversation.last_event_seq),
        };
        let mut messages = self.store.messages(conversation, page).await?;
        let has_more = messages.len() > limit as usize;
        if has_more {
            match position {
                PagePosition::After(_) => messages.truncate(limit as usize),
                PagePosition::Latest | PagePosition::Before(_) => drop(messages.remove(0)),
            }
        }
        Ok(MessagesPage { messages, has_more })
    }
}

fn sent(appended: Appended) -> Result<Sent, Failure> {
    match appended {
        Appended::Repeat(message) => Ok(Sent {
            message,
            repeat: true,
        }),
        Appended::New(logged) => match logged.change {
            Change::Message { message, .. } => Ok(Sent {
                message,
                repeat: false,
            }),
            _ => Err(Failure::internal("a message was logged as another change")),
        },
    }
}
