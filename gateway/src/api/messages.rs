//! Calls on messages: page through them, say one, mark them as read, count those that are not, find out what was missed.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use shared::command::{Draft, MarkAsRead, Sync};
use shared::event::SyncAnswer;
use shared::model::Message;
use shared::{ConversationId, Seq};
use utoipa::ToSchema;

use super::envelope::Data;
use super::extract::{Body, Caller, Id, Query};
use super::openapi::{Success, failures};
use super::page::Limit;
use crate::chat::{Chat, MessagesPage, MessagesRequest, ReadAnswer, UnreadCount};
use crate::failure::Failure;
use crate::store::PagePosition;

/// Which page; the latest without a position.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// How many at the most.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// The page that ends before this message. Not together with `afterSeq`.
    #[serde(default)]
    before_seq: Option<Seq>,
    /// The page that begins after this message.
    #[serde(default)]
    after_seq: Option<Seq>,
}

impl ListQuery {
    fn position(&self) -> Result<PagePosition, Failure> {
        match (self.before_seq, self.after_seq) {
            (None, None) => Ok(PagePosition::Latest),
            (Some(seq), None) => Ok(PagePosition::Before(seq)),
            (None, Some(seq)) => Ok(PagePosition::After(seq)),
            (Some(_), Some(_)) => Err(Failure::validation(
                "beforeSeq and afterSeq can't be given together",
            )),
        }
    }
}

failures!(ListFailures: BEARER, ValidationError, Forbidden, ConversationNotFound);

/// A page of a conversation's messages, in `seq` order
#[utoipa::path(
    get,
    path = "/api/chat/conversations/{id}/messages",
    operation_id = "list_messages",
    tag = "messages",
    security(("bearer" = [])),
    params(("id" = ConversationId, Path, description = "Which conversation", example = 1), ListQuery),
    responses((status = 200, description = "A page", body = Success<MessagesPage>), ListFailures),
)]
pub(super) async fn list(
    State(chat): State<Arc<Chat>>,
    caller: Caller,
    Id(id): Id<ConversationId>,
    Query(query): Query<ListQuery>,
) -> Result<Data<MessagesPage>, Failure> {
    let request = MessagesRequest {
        position: query.position()?,
        limit: query.limit.get(),
    };
    Ok(Data(chat.messages(caller.viewer(), id, request).await?))
}

failures!(SendFailures: BEARER | BODY, EmptyMessage, Forbidden, ConversationNotFound, ClientHasNoAccount);

/// Say something
///
/// Has the same effect as the event `chatMessage`. A repeat of a `clientMessageId` is answered with the stored message.
#[utoipa::path(
    post,
    path = "/api/chat/conversations/{id}/messages",
    operation_id = "send_message",
    tag = "messages",
    security(("bearer" = [])),
    params(("id" = ConversationId, Path, description = "Which conversation", example = 1)),
    request_body = Draft,
    responses(
        (status = 201, description = "Stored", body = Success<Message>),
        (status = 200, description = "It was stored before", body = Success<Message>),
        SendFailures,
    ),
)]
pub(super) async fn send(
    State(chat): State<Arc<Chat>>,
    caller: Caller,
    Id(id): Id<ConversationId>,
    Body(draft): Body<Draft>,
) -> Result<(StatusCode, Data<Message>), Failure> {
    let sent = chat.send(caller.viewer(), id, draft).await?;
    let status = if sent.repeat {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((status, Data(sent.message)))
}

/// Up to where.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({}))]
pub(super) struct ReadRequest {
    /// The last message read; the conversation's last if not given.
    #[serde(default)]
    up_to_seq: Option<Seq>,
}

failures!(ReadFailures: BEARER | BODY, Forbidden, ConversationNotFound);

/// Mark the other side's messages as read
#[utoipa::path(
    post,
    path = "/api/chat/conversations/{id}/read",
    operation_id = "mark_as_read",
    tag = "messages",
    security(("bearer" = [])),
    params(("id" = ConversationId, Path, description = "Which conversation", example = 1)),
    request_body = Option<ReadRequest>,
    responses((status = 200, description = "Marked", body = Success<ReadAnswer>), ReadFailures),
)]
pub(super) async fn read(
    State(chat): State<Arc<Chat>>,
    caller: Caller,
    Id(conversation_id): Id<ConversationId>,
    Body(request): Body<ReadRequest>,
) -> Result<Data<ReadAnswer>, Failure> {
    let mark = MarkAsRead {
        conversation_id,
        up_to_seq: request.up_to_seq,
    };
    Ok(Data(chat.mark_read(caller.viewer(), &mark).await?))
}

failures!(UnreadFailures: BEARER);

/// How many messages the caller has not read
///
/// For an admin over all conversations, with `mine` over its own.
#[utoipa::path(
    get,
    path = "/api/chat/unread-count",
    operation_id = "unread_count",
    tag = "messages",
    security(("bearer" = [])),
    responses((status = 200, description = "So many", body = Success<UnreadCount>), UnreadFailures),
)]
pub(super) async fn unread(
    State(chat): State<Arc<Chat>>,
    caller: Caller,
) -> Result<Data<UnreadCount>, Failure> {
    Ok(Data(chat.unread(caller.viewer()).await?))
}

failures!(SyncFailures: BEARER | BODY, Forbidden, ConversationNotFound);

/// What the caller missed
///
/// Has the same payload and answer as the event `sync`.
#[utoipa::path(
    post,
    path = "/api/chat/sync",
    tag = "messages",
    security(("bearer" = [])),
    request_body = Option<Sync>,
    responses((status = 200, description = "The events, or the heads", body = Success<SyncAnswer>), SyncFailures),
)]
pub(super) async fn sync(
    State(chat): State<Arc<Chat>>,
    caller: Caller,
    Body(request): Body<Sync>,
) -> Result<Data<SyncAnswer>, Failure> {
    Ok(Data(chat.sync(caller.viewer(), request).await?))
}
