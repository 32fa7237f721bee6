//! What waits to be written to one connection: a queue bounded in bytes that nobody ever waits for. Which frames these
//! are and when they are written is not known here.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::application::CloseKind;
use shared::SocketId;

/// A frame ready for the wire. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A text frame; over Engine.IO a whole packet with its type digit.
    Text(Utf8Bytes),
    /// A binary frame; over Engine.IO a binary message.
    Binary(Bytes),
}

impl Frame {
    /// The bytes it will take, without the framing.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// Whether frames may be left out when the connection is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worth {
    /// Must arrive, or the connection ends.
    Durable,
    /// First to go.
    Volatile,
}

/// The queue of one connection: any task puts in, the connection's own task takes out.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// Guards the queue; held for a push or a take, never across an await.
    state: Mutex<State>,
    /// The connection's task, which sleeps here.
    task: AtomicWaker,
    /// How many bytes may wait.
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<(Frame, Worth)>,
    /// The sum over `frames`.
    bytes: usize,
    /// Sockets of this connection that the program closed, not yet seen by the task.
    closed_sockets: Vec<(SocketId, CloseKind)>,
    /// Why the connection is to end. Set once; nothing is put in after it.
    end: Option<CloseKind>,
}

/// What became of frames put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// They wait.
    Queued,
    /// They were volatile, and the connection is slow.
    Dropped,
    /// The connection is ending.
    Ended,
}

impl Outbox {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(State::default()),
            task: AtomicWaker::new(),
            limit,
        }
    }

    /// Puts frames in, side by side. A queue that is over its limit already ends the connection; so one frame of any size
    /// passes through a connection that keeps up, and no more than the limit and one push are ever held.
    pub(crate) fn push(&self, frames: impl IntoIterator<Item = Frame>, worth: Worth) -> Pushed {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return Pushed::Ended;
        }
        // From half the limit on, what may be lost is lost first.
        if worth == Worth::Volatile && state.bytes > self.limit / 2 {
            drop(state);
            metrics::counter!("chat_volatile_dropped_total").increment(1);
            return Pushed::Dropped;
        }
        if state.bytes > self.limit {
            let evicted = state.evict_volatile();
            if evicted > 0 {
                metrics::counter!("chat_volatile_dropped_total").increment(evicted);
            }
        }
        if state.bytes > self.limit {
            state.end = Some(CloseKind::TooSlow);
            state.frames = VecDeque::new();
            state.bytes = 0;
            drop(state);
            metrics::counter!("chat_slow_socket_closings_total").increment(1);
            self.task.wake();
            return Pushed::Ended;
        }
        for frame in frames {
            state.bytes += frame.len();
            state.frames.push_back((frame, worth));
        }
        drop(state);
        self.task.wake();
        Pushed::Queued
    }

    /// Moves frames of about `bytes` bytes to `into`, at least one where there is one.
    pub(crate) fn take(&self, bytes: usize, into: &mut Vec<Frame>) {
        let mut state = self.state.lock();
        let mut taken = 0;
        while let Some((frame, _)) = state.frames.front() {
            if taken > 0 && taken + frame.len() > bytes {
                break;
            }
            taken += frame.len();
            if let Some((frame, _)) = state.frames.pop_front() {
                into.push(frame);
            }
        }
        state.bytes -= taken;
        // A burst should not be paid for during an idle hour.
        if state.frames.is_empty() && state.frames.capacity() > 16 {
            state.frames = VecDeque::new();
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().frames.is_empty()
    }

    /// The connection's task will be woken by the next change.
    pub(crate) fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Asks the connection to end after what waits; what comes later is dropped. The first reason stands.
    pub(crate) fn end(&self, kind: CloseKind) {
        let mut state = self.state.lock();
        if state.end.is_none() {
            state.end = Some(kind);
        }
        drop(state);
        self.task.wake();
    }

    /// Why the connection is to end, where it is.
    pub(crate) fn ending(&self) -> Option<CloseKind> {
        self.state.lock().end
    }

    /// Asks the connection to end one of its sockets.
    pub(crate) fn close_socket(&self, socket: SocketId, kind: CloseKind) {
        self.state.lock().closed_sockets.push((socket, kind));
        self.task.wake();
    }

    /// The sockets that the program closed since the last call.
    pub(crate) fn take_closed_sockets(&self) -> Vec<(SocketId, CloseKind)> {
        std::mem::take(&mut self.state.lock().closed_sockets)
    }
}

impl State {
    fn evict_volatile(&mut self) -> u64 {
        let before = self.frames.len();
        self.frames.retain(|(_, worth)| *worth == Worth::Durable);
        self.bytes = self.frames.iter().map(|(frame, _)| frame.len()).sum();
        (before - self.frames.len()) as u64
    }
}
