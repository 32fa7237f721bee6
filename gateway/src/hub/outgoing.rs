//! One event on its way to many sockets: made once and encoded once, whoever hears it and when. Which sockets are in its
//! rooms is the hub's business.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde_json::value::RawValue;
use shared::envelope::Origin;
use shared::{Delivery, SocketId, UserId};

use crate::bus::Mark;
use crate::realtime::Event;

/// An event, with what different sockets are to hear of it.
#[derive(Debug)]
pub struct Outgoing {
    event: Arc<Event>,
    source: Source,
    except_user: Option<UserId>,
    origin: Option<Origin>,
    /// What the socket that caused it hears instead. Made where it is needed: of all nodes that hear an event, one has that
    /// socket.
    for_origin: OnceLock<Arc<Event>>,
}

/// How an event came to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// As a passing sign, which may be left out where a socket is slow.
    Passing,
    /// In the bus's order, at this place.
    Order(Mark),
    /// As `Order`, for those only who came back after a moment: the others have been told from the log by then.
    Again(Mark, Instant),
    /// From the database's log, because the bus had missed it: its place in the bus's order, if it has one, is not known. Who
    /// came back after this moment may have heard it elsewhere.
    Log(Instant),
}

/// What one socket is to hear of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Nothing: it is not for its owner.
    Nothing,
    /// What all hear.
    Common,
    /// What the socket that caused it hears.
    Origin,
}

impl Outgoing {
    /// An event from a delivery.
    pub fn new(delivery: &Delivery, source: Source) -> Self {
        Self {
            event: Arc::new(make(&delivery.event, &delivery.data, source)),
            source,
            except_user: delivery.except_user,
            origin: delivery.origin.clone(),
            for_origin: OnceLock::new(),
        }
    }

    /// How it came to this node.
    pub fn source(&self) -> Source {
        self.source
    }

    /// About the bytes of its frame.
    pub fn size(&self) -> usize {
        /// Brackets, quotes, and a mark: up to 16 and twice 20 digits.
        const REST: usize = 72;
        self.event.name().len() + self.event.data().get().len() + REST
    }

    /// What a socket is to hear of it.
    pub fn share_of(&self, user: UserId, socket: &SocketId) -> Share {
        if self.except_user == Some(user) {
            return Share::Nothing;
        }
        match &self.origin {
            Some(origin) if origin.socket == *socket => match origin.event {
                Some(_) => Share::Origin,
                None => Share::Nothing,
            },
            _ => Share::Common,
        }
    }

    /// The event that a share stands for.
    pub fn event(&self, share: Share) -> Option<&Arc<Event>> {
        match share {
            Share::Nothing => None,
            Share::Common => Some(&self.event),
            Share::Origin => {
                let name = self.origin.as_ref()?.event.as_deref()?;
                Some(
                    self.for_origin
                        .get_or_init(|| Arc::new(make(name, self.event.data(), self.source))),
                )
            }
        }
    }
}

fn make(name: &str, data: &RawValue, source: Source) -> Event {
    let event = Event::new(name, data.to_owned(), source == Source::Passing);
    match source {
        Source::Order(mark) | Source::Again(mark, _) => event.at_offset(mark.to_string()),
        Source::Passing | Source::Log(_) => event,
    }
}
