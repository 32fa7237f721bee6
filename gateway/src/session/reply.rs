//! How an event is answered: by its acknowledgement where it asked for one, else, where it failed, by an `error` event.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use shared::event::name;

use crate::config::AppEnv;
use crate::failure::{Failure, success};
use crate::realtime::{Ack, Event, Socket};

/// How much of an event's name is shown back: more is nobody's event.
const MAX_SHOWN_NAME: usize = 64;

/// The answer to one event.
pub(super) struct Reply {
    socket: Socket,
    /// The event's name, for the `error` event.
    event: Box<str>,
    ack: Option<Ack>,
    mode: AppEnv,
}

impl Reply {
    pub(super) fn new(socket: &Socket, event: &str, ack: Option<Ack>, mode: AppEnv) -> Self {
        let event = event
            .chars()
            .take(MAX_SHOWN_NAME)
            .collect::<String>()
            .into_boxed_str();
        Self {
            socket: socket.clone(),
            event,
            ack,
            mode,
        }
    }

    /// Whether an acknowledgement was asked for.
    pub(super) fn is_awaited(&self) -> bool {
        self.ack.is_some()
    }

    /// It was done.
    pub(super) fn done<T: Serialize + ?Sized>(self, data: &T) {
        let Some(ack) = self.ack else { return };
        match success(data) {
            Ok(envelope) => ack.send(&envelope),
            Err(failure) => {
                failure.log();
                ack.send(&failure.envelope(self.mode));
            }
        }
    }

    /// It was not done.
    pub(super) fn fail(self, failure: &Failure) {
        failure.log();
        match self.ack {
            Some(ack) => ack.send(&failure.envelope(self.mode)),
            None => emit(
                &self.socket,
                name::ERROR,
                failure.envelope_for(self.mode, &self.event),
            ),
        }
    }

    /// It was done, or not.
    pub(super) fn finish<T: Serialize>(self, result: Result<T, Failure>) {
        match result {
            Ok(data) => self.done(&data),
            Err(failure) => self.fail(&failure),
        }
    }

    /// Sends the asker an event besides the answer.
    pub(super) fn emit(&self, event: &'static str, data: Box<RawValue>) {
        emit(&self.socket, event, data);
    }
}

/// Sends one socket an event of its own.
pub(super) fn emit(socket: &Socket, event: &'static str, data: Box<RawValue>) {
    socket.emit(&Arc::new(Event::new(event, data, false)));
}
