//! Calls on people: who is online.

use std::sync::Arc;

use axum::extract::State;
use shared::event::OnlineUsers;

use super::envelope::Data;
use super::extract::Caller;
use super::openapi::{Success, failures};
use crate::chat::Chat;
use crate::failure::Failure;

failures!(OnlineFailures: BEARER);

/// Who is online, as far as the caller may see
///
/// An admin sees everyone, a client the agents it has conversations with.
#[utoipa::path(
    get,
    path = "/api/chat/online",
    operation_id = "online_users",
    tag = "people",
    security(("bearer" = [])),
    responses((status = 200, description = "They are", body = Success<OnlineUsers>), OnlineFailures),
)]
pub(super) async fn online(
    State(chat): State<Arc<Chat>>,
    caller: Caller,
) -> Result<Data<OnlineUsers>, Failure> {
    Ok(Data(chat.online(caller.viewer()).await?))
}
