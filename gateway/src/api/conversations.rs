//! Calls on conversations: list, look, open, delete.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use shared::model::Conversation;
use shared::{ConversationId, UserId};
use utoipa::ToSchema;

use super::envelope::Data;
use super::extract::{Body, Caller, Id, Query};
use super::openapi::{Success, failures};
use super::page::Limit;
use crate::chat::{Chat, ConversationPage, PageRequest};
use crate::failure::Failure;

/// Which page.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// How many at the most.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// `nextCursor` of the page before.
    #[serde(default)]
    cursor: Option<String>,
}

failures!(ListFailures: BEARER, ValidationError);

/// The conversations the caller may see, latest activity first
///
/// A client sees its own, an admin all.
#[utoipa::path(
    get,
    path = "/api/chat/conversations",
    operation_id = "list_conversations",
    tag = "conversations",
    security(("bearer" = [])),
    params(ListQuery),
    responses((status = 200, description = "A page", body = Success<ConversationPage>), ListFailures),
)]
pub(super) async fn list(
    State(chat): State<Arc<Chat>>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Data<ConversationPage>, Failure> {
    let page = PageRequest {
        limit: query.limit.get(),
        cursor: query.cursor,
    };
    Ok(Data(chat.conversations(caller.viewer(), &page).await?))
}

/// Whom to talk to.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({}))]
pub(super) struct OpenRequest {
    /// The agent; without one, that with the fewest open conversations.
    #[serde(default)]
    agency_id: Option<UserId>,
}

failures!(OpenFailures: BEARER | BODY, Forbidden, UserNotFound, NoAgent);

/// Open a conversation with an agent, or find the one there is
///
/// For clients only.
#[utoipa::path(
    post,
    path = "/api/chat/conversations",
    operation_id = "open_conversation",
    tag = "conversations",
    security(("bearer" = [])),
    request_body = Option<OpenRequest>,
    responses(
        (status = 201, description = "Opened", body = Success<Conversation>),
        (status = 200, description = "It was there", body = Success<Conversation>),
        OpenFailures,
    ),
)]
pub(super) async fn open(
    State(chat): State<Arc<Chat>>,
    caller: Caller,
    Body(request): Body<OpenRequest>,
) -> Result<(StatusCode, Data<Conversation>), Failure> {
    let (conversation, is_new) = chat
        .open_conversation(caller.viewer(), request.agency_id)
        .await?;
    let status = if is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Data(conversation)))
}

failures!(ShowFailures: BEARER, ValidationError, Forbidden, ConversationNotFound);

/// One conversation
#[utoipa::path(
    get,
    path = "/api/chat/conversations/{id}",
    operation_id = "show_conversation",
    tag = "conversations",
    security(("bearer" = [])),
    params(("id" = ConversationId, Path, description = "Which", example = 1)),
    responses((status = 200, description = "The conversation", body = Success<Conversation>), ShowFailures),
)]
pub(super) async fn show(
    State(chat): State<Arc<Chat>>,
    caller: Caller,
    Id(id): Id<ConversationId>,
) -> Result<Data<Conversation>, Failure> {
    Ok(Data(chat.conversation(caller.viewer(), id).await?))
}

/// Delete a conversation with its messages
///
/// For admins only.
#[utoipa::path(
    delete,
    path = "/api/chat/conversations/{id}",
    operation_id = "delete_conversation",
    tag = "conversations",
    security(("bearer" = [])),
    params(("id" = ConversationId, Path, description = "Which", example = 1)),
    responses((status = 204, description = "Deleted"), ShowFailures),
)]
pub(super) async fn delete(
    State(chat): State<Arc<Chat>>,
    caller: Caller,
    Id(id): Id<ConversationId>,
) -> Result<StatusCode, Failure> {
    chat.delete_conversation(caller.viewer(), id).await?;
    Ok(StatusCode::NO_CONTENT)
}
