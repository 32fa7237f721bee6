//! What a client may ask for over a socket: one event, one function.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use shared::command::{
    Authenticate, ConversationRef, Draft, MarkAsRead, SendMessage, Sync, Typing, name,
};
use shared::event::{self, TokenExpiry};
use shared::model::Conversation;
use shared::{ErrorCode, Room};

use super::Shared;
use super::participant::Session;
use super::reply::Reply;
use crate::chat::{ReadAnswer, Sent, raw};
use crate::failure::Failure;
use crate::realtime::CloseKind;

/// Runs one event. Returns when the socket may send the next: a message is only handed in by then, so that one socket's
/// messages share transactions.
pub(super) async fn run(
    shared: &Arc<Shared>,
    session: &Arc<Session>,
    event: &str,
    args: &RawValue,
    reply: Reply,
) {
    let payload = first(args);
    match event {
        name::CHAT_MESSAGE => return chat_message(shared, session, payload, reply),
        name::AUTHENTICATE => {
            return reply.finish(authenticate(shared, session, payload).await);
        }
        _ => {}
    }
    let _place = match shared.commands.enter() {
        Ok(place) => place,
        Err(full) => return reply.fail(&full.into()),
    };
    match event {
        name::JOIN_CONVERSATION => reply.finish(join_conversation(shared, session, payload).await),
        name::LEAVE_CONVERSATION => {
            reply.finish(leave_conversation(shared, session, payload).await)
        }
        name::TYPING => reply.finish(typing(shared, session, payload).await),
        name::MARK_AS_READ => reply.finish(mark_as_read(shared, session, payload).await),
        name::GET_ONLINE_USERS => get_online_users(shared, session, reply).await,
        name::SYNC => reply.finish(sync(shared, session, payload).await),
        _ => reply.fail(&Failure::new(
            ErrorCode::UnknownEvent,
            "there is no such event",
        )),
    }
}

fn chat_message(shared: &Shared, session: &Session, payload: &RawValue, reply: Reply) {
    let SendMessage {
        conversation_id,
        message,
        client_message_id,
    } = match parse(payload) {
        Ok(command) => command,
        Err(failure) => return reply.fail(&failure),
    };
    let draft = Draft {
        message,
        client_message_id,
    };
    let origin = session.participant().socket().id().clone();
    let done = move |result: Result<Sent, Failure>| match result {
        // Nobody hears a repeat through the bus, so one who did not ask for an answer is told here.
        Ok(sent) if sent.repeat && !reply.is_awaited() => match raw(&sent.message) {
            Ok(message) => reply.emit(event::name::MESSAGE_RECEIVED, message),
            Err(failure) => reply.fail(&failure),
        },
        Ok(sent) => reply.done(&sent.message),
        Err(failure) => reply.fail(&failure),
    };
    shared
        .chat
        .submit(session.viewer(), conversation_id, draft, Some(origin), done);
}

async fn join_conversation(
    shared: &Shared,
    session: &Session,
    payload: &RawValue,
) -> Result<Conversation, Failure> {
    let ConversationRef { conversation_id } = parse(payload)?;
    let viewer = session.viewer();
    shared.chat.conversation(viewer, conversation_id).await?;
    if !session.note_joined(conversation_id) {
        return Err(Failure::validation(
            "this socket has too many conversations open: leave some first",
        ));
    }
    let participant = session.participant();
    let joined = shared
        .relay
        .join(
            Room::Conversation(conversation_id),
            participant.key,
            participant,
        )
        .await;
    let joined = match joined {
        // A client that comes back relies on it: it is told only of what it has open.
        Ok(()) => session.note_state().await,
        Err(error) => Err(error),
    };
    // Read again: what happened before the room was joined must show in the answer, as it is not heard.
    let conversation = match joined {
        Ok(()) => shared.chat.conversation(viewer, conversation_id).await,
        Err(error) => Err(error.into()),
    };
    if conversation.is_err() {
        session.leave(conversation_id);
        // Where it can't be noted, a client that comes back has it open: more than it was told, and nothing is missing.
        let _ = session.note_state().await;
    }
    conversation
}

async fn leave_conversation(
    shared: &Shared,
    session: &Session,
    payload: &RawValue,
) -> Result<Conversation, Failure> {
    let ConversationRef { conversation_id } = parse(payload)?;
    session.leave(conversation_id);
    if session.note_typing(conversation_id, false) {
        shared
            .chat
            .typing(session.viewer(), conversation_id, false, true)
            .await?;
    }
    session.note_state().await?;
    shared
        .chat
        .conversation(session.viewer(), conversation_id)
        .await
}

async fn typing(shared: &Shared, session: &Session, payload: &RawValue) -> Result<(), Failure> {
    let Typing {
        conversation_id,
        is_typing,
    } = parse(payload)?;
    let may_view = session.has_joined(conversation_id);
    shared
        .chat
        .typing(session.viewer(), conversation_id, is_typing, may_view)
        .await?;
    session.note_typing(conversation_id, is_typing);
    Ok(())
}

async fn mark_as_read(
    shared: &Shared,
    session: &Session,
    payload: &RawValue,
) -> Result<ReadAnswer, Failure> {
    let mark: MarkAsRead = parse(payload)?;
    shared.chat.mark_read(session.viewer(), &mark).await
}

async fn get_online_users(shared: &Shared, session: &Session, reply: Reply) {
    match shared.chat.online(session.viewer()).await {
        Ok(online) => {
            match raw(&online) {
                Ok(data) => reply.emit(event::name::ONLINE_USERS, data),
                Err(failure) => return reply.fail(&failure),
            }
            reply.done(&online);
        }
        Err(failure) => reply.fail(&failure),
    }
}

async fn sync(
    shared: &Shared,
    session: &Session,
    payload: &RawValue,
) -> Result<event::SyncAnswer, Failure> {
    let request: Sync = parse(payload)?;
    shared.chat.sync(session.viewer(), request).await
}

/// A fresh token for a live socket: of the same person, in the same role.
async fn authenticate(
    shared: &Shared,
    session: &Session,
    payload: &RawValue,
) -> Result<TokenExpiry, Failure> {
    let Authenticate { token } = parse(payload)?;
    let identity = shared.auth.authenticate(&token)?;
    let viewer = session.viewer();
    if identity.user != viewer.user || identity.role != viewer.role {
        return Err(Failure::forbidden(
            "this token is another account's: connect anew with it",
        ));
    }
    let expires_at = identity.expires_at;
    session.participant().renew(identity);
    shared.expiry.watch(session.participant());
    // A revocation that came after the look at the token found the one before it here, and has closed nothing.
    if shared
        .auth
        .revocations()
        .is_revoked(&session.participant().identity())
    {
        session.participant().close(CloseKind::Unauthorized);
    }
    // Where it can't be noted, the client begins anew if it comes back after the old token's end.
    let _ = session.note_state().await;
    Ok(TokenExpiry { expires_at })
}

/// An event's payload: its first argument; `{}` where there is none.
fn first(args: &RawValue) -> &RawValue {
    static EMPTY: std::sync::LazyLock<Box<RawValue>> =
        std::sync::LazyLock::new(|| RawValue::from_string("{}".to_owned()).unwrap_or_default());
    let args: Vec<&RawValue> = serde_json::from_str(args.get()).unwrap_or_default();
    args.first()
        .copied()
        .filter(|first| first.get() != "null")
        .unwrap_or(&EMPTY)
}

fn parse<T: DeserializeOwned>(payload: &RawValue) -> Result<T, Failure> {
    // serde would take an array for the fields in their order.
    if !payload.get().trim_start().starts_with('{') {
        return Err(Failure::validation("the payload must be an object"));
    }
    serde_json::from_str(payload.get()).map_err(|error| Failure::unreadable(&error))
}
