//! Which events a durable change is heard as, and by whom: live, as an envelope for the bus, and later, as an answer to
//! `sync`. Both are made from the same row of the log, so they can't differ.

use serde::Serialize;
use serde_json::value::RawValue;
use shared::envelope::{Delivery, Envelope, Origin};
use shared::event::{
    ConversationCreated, ConversationDeleted, MessagesMarkedRead, MessagesRead,
    NewMessageNotification, SyncedEvent, name,
};
use shared::{Role, Room, SenderType, SocketId, UserId};

use crate::failure::Failure;
use crate::store::{Change, Logged, Viewer};

/// The envelope of a change. `origin` is the socket that asked for it, where one did.
pub(super) fn envelope(
    logged: &Logged,
    origin: Option<&SocketId>,
    sent_at: i64,
) -> Result<Envelope, Failure> {
    let closes = matches!(logged.change, Change::Deleted)
        .then_some(Room::Conversation(logged.position.conversation));
    let deliveries = addressed(logged)?
        .into_iter()
        .map(|event| Delivery {
            origin: (event.name == name::CHAT_MESSAGE)
                .then(|| {
                    origin.map(|socket| Origin {
                        socket: socket.clone(),
                        event: Some(name::MESSAGE_RECEIVED.to_owned()),
                    })
                })
                .flatten(),
            event: event.name.to_owned(),
            rooms: event.rooms,
            data: event.data,
            except_user: None,
            lapse: None,
        })
        .collect();
    Ok(Envelope {
        position: Some(logged.position),
        deliveries,
        sent_at,
        closes,
        trace: None,
    })
}

/// The events of a change that a viewer who has the conversation open would have heard.
pub(super) fn heard_by(logged: &Logged, viewer: Viewer) -> Result<Vec<SyncedEvent>, Failure> {
    let own = [
        Room::User(viewer.user),
        Room::Role(viewer.role),
        Room::Conversation(logged.position.conversation),
    ];
    Ok(addressed(logged)?
        .into_iter()
        .filter(|event| event.rooms.iter().any(|room| own.contains(room)))
        .map(|event| SyncedEvent {
            event_seq: logged.position.event_seq,
            event: event.name.to_owned(),
            data: event.data,
        })
        .collect())
}

struct Addressed {
    name: &'static str,
    rooms: Vec<Room>,
    data: Box<RawValue>,
}

impl Addressed {
    fn new(
        name: &'static str,
        rooms: Vec<Room>,
        payload: &impl Serialize,
    ) -> Result<Self, Failure> {
        Ok(Self {
            name,
            rooms,
            data: raw(payload)?,
        })
    }
}

/// The events of a change with the rooms they go to: the one table of who hears what.
fn addressed(logged: &Logged) -> Result<Vec<Addressed>, Failure> {
    let conversation_id = logged.position.conversation;
    let event_seq = logged.position.event_seq;
    let parties = logged.parties;
    let room = Room::Conversation(conversation_id);
    match &logged.change {
        Change::Message {
            message,
            client,
            unread_count,
        } => {
            // The assigned agent hears what a colleague writes, though neither sender nor receiver: it takes part.
            let people = rooms_of([message.receiver_id, message.sender_id, parties.agency]);
            let mut events = vec![Addressed::new(
                name::CHAT_MESSAGE,
                with(people, room),
                message,
            )?];
            if message.sender_type == SenderType::Client {
                let notification = NewMessageNotification {
                    conversation_id,
                    event_seq,
                    message: message.clone(),
                    client: client.clone(),
                    unread_count: *unread_count,
                };
                events.push(Addressed::new(
                    name::NEW_MESSAGE_NOTIFICATION,
                    vec![Room::Role(Role::Admin)],
                    &notification,
                )?);
            }
            Ok(events)
        }
        Change::Read { side, up_to, count } => {
            let (up_to_seq, count, read_at) = (*up_to, *count, logged.at);
            let mut events = vec![Addressed::new(
                name::MESSAGES_MARKED_READ,
                vec![Room::User(logged.actor)],
                &MessagesMarkedRead {
                    conversation_id,
                    event_seq,
                    up_to_seq,
                    count,
                    read_at,
                },
            )?];
            let other = match side {
                SenderType::Client => Some(parties.agency),
                SenderType::Agency => parties.client_user,
            };
            if let Some(other) = other {
                let payload = MessagesRead {
                    conversation_id,
                    event_seq,
                    read_by: logged.actor,
                    up_to_seq,
                    count,
                    read_at,
                };
                events.push(Addressed::new(
                    name::MESSAGES_READ,
                    vec![Room::User(other)],
                    &payload,
                )?);
            }
            Ok(events)
        }
        Change::Created(conversation) => {
            let payload = ConversationCreated {
                conversation_id,
                event_seq,
                conversation: conversation.clone(),
            };
            Ok(vec![Addressed::new(
                name::CONVERSATION_CREATED,
                everyone(logged),
                &payload,
            )?])
        }
        Change::Deleted => {
            let payload = ConversationDeleted {
                conversation_id,
                event_seq,
            };
            Ok(vec![Addressed::new(
                name::CONVERSATION_DELETED,
                with(everyone(logged), room),
                &payload,
            )?])
        }
    }
}

/// Both parties, and the whole agency.
fn everyone(logged: &Logged) -> Vec<Room> {
    let parties = logged.parties;
    let mut rooms = rooms_of(parties.client_user.into_iter().chain([parties.agency]));
    rooms.push(Room::Role(Role::Admin));
    rooms
}

fn rooms_of(people: impl IntoIterator<Item = UserId>) -> Vec<Room> {
    let mut rooms = Vec::with_capacity(4);
    for room in people.into_iter().map(Room::User) {
        if !rooms.contains(&room) {
            rooms.push(room);
        }
    }
    rooms
}

fn with(mut rooms: Vec<Room>, room: Room) -> Vec<Room> {
    rooms.push(room);
    rooms
}

/// A payload as JSON text, written once.
pub(crate) fn raw(payload: &impl Serialize) -> Result<Box<RawValue>, Failure> {
    serde_json::value::to_raw_value(payload).map_err(Failure::internal)
}
