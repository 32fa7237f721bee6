//! What waits to be written to one connection: a queue bounded in bytes that nobody ever waits for. Which frames these
//! are, and when they are written, is not known here.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use metrics::counter;
use parking_lot::Mutex;
use shared::SocketId;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::application::CloseKind;
use crate::telemetry::metrics as names;

/// A queue longer than this is given back to the allocator once it ran empty: a burst is not paid for during an idle hour.
const KEPT_CAPACITY: usize = 16;

/// A frame ready for the wire. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// A text frame; over Engine.IO a whole packet with its type digit.
    Text(Utf8Bytes),
    /// A binary frame; over Engine.IO a binary message.
    Binary(Bytes),
}

impl Frame {
    /// The bytes it will take, without the framing.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// Whether frames may be left out when the connection is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// Must arrive, or the connection ends.
    Durable,
    /// First to go.
    Volatile,
}

/// The queue of one connection: any task puts in, the connection's own task takes out.
#[derive(Debug)]
pub(super) struct Outbox {
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
    closed: Vec<(SocketId, CloseKind)>,
    /// Whether the connection is to end (`Draining`) as soon as it owes its client nothing.
    leaving: bool,
    /// Why the connection is to end. Set once; nothing is put in after it.
    end: Option<CloseKind>,
}

/// What the connection's task should know besides frames.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Sockets that the program closed since the last time.
    pub(super) closed: Vec<(SocketId, CloseKind)>,
    /// Whether it is to end as soon as it owes its client nothing.
    pub(super) leaving: bool,
    /// Why the connection is to end, where it is.
    pub(super) end: Option<CloseKind>,
}

impl Outbox {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(State::default()),
            task: AtomicWaker::new(),
            limit,
        }
    }

    /// Puts frames in, side by side, or leaves them out where they are volatile and half the limit waits already. What is
    /// over the limit before this push ends the connection: so one frame of any size gets through to a client that keeps
    /// up, and no more than the limit and one push is ever held.
    pub(super) fn push(&self, frames: impl IntoIterator<Item = Frame>, worth: Worth) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        if worth == Worth::Volatile && state.bytes > self.limit / 2 {
            drop(state);
            counter!(names::VOLATILE_DROPPED).increment(1);
            return;
        }
        let evicted = if state.bytes > self.limit {
            state.evict_volatile()
        } else {
            0
        };
        let too_slow = state.bytes > self.limit;
        if too_slow {
            state.end(CloseKind::TooSlow);
        } else {
            for frame in frames {
                state.bytes += frame.len();
                state.frames.push_back((frame, worth));
            }
        }
        drop(state);
        if evicted > 0 {
            counter!(names::VOLATILE_DROPPED).increment(evicted);
        }
        self.task.wake();
    }

    /// Moves frames to `into` while their cost stays within `room`, and at least one where there is room at all.
    pub(super) fn collect(
        &self,
        room: usize,
        cost: impl Fn(&Frame) -> usize,
        into: &mut VecDeque<Frame>,
    ) -> Signals {
        let mut state = self.state.lock();
        let mut spent = 0;
        while let Some((frame, _)) = state.frames.front() {
            let total = spent + cost(frame);
            // Even a frame that is larger than the room must go some time: alone.
            if room == 0 || (spent > 0 && total > room) {
                break;
            }
            spent = total;
            if let Some((frame, _)) = state.frames.pop_front() {
                state.bytes -= frame.len();
                into.push_back(frame);
            }
        }
        if state.frames.is_empty() && state.frames.capacity() > KEPT_CAPACITY {
            state.frames = VecDeque::new();
        }
        Signals {
            closed: std::mem::take(&mut state.closed),
            leaving: state.leaving,
            end: state.end,
        }
    }

    /// How many bytes may wait.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The task that the next change wakes.
    pub(super) fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Asks the connection to end after what waits. The first reason stands; what comes later is dropped.
    pub(super) fn end(&self, kind: CloseKind) {
        self.state.lock().end(kind);
        self.task.wake();
    }

    /// Asks the connection to end as soon as it owes its client nothing: what is put in until then goes out.
    pub(super) fn leave(&self) {
        self.state.lock().leaving = true;
        self.task.wake();
    }

    /// Wakes the connection's task: something it waits for besides frames has come.
    pub(super) fn wake(&self) {
        self.task.wake();
    }

    /// Whether what is put in now is lost for certain.
    pub(super) fn is_ended(&self) -> bool {
        self.state.lock().end.is_some()
    }

    /// Asks the connection's task to end one of its sockets.
    pub(super) fn close_socket(&self, socket: SocketId, kind: CloseKind) {
        self.state.lock().closed.push((socket, kind));
        self.task.wake();
    }
}

impl State {
    fn evict_volatile(&mut self) -> u64 {
        let before = self.frames.len();
        self.frames.retain(|(_, worth)| *worth == Worth::Durable);
        self.bytes = self.frames.iter().map(|(frame, _)| frame.len()).sum();
        (before - self.frames.len()) as u64
    }

    /// The first reason stands. Nobody waits for the rest of a connection that is too slow.
    fn end(&mut self, kind: CloseKind) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(kind);
        if kind == CloseKind::TooSlow {
            self.frames = VecDeque::new();
            self.bytes = 0;
            counter!(names::SLOW_SOCKET_CLOSINGS).increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &'static str) -> Frame {
        Frame::Text(Utf8Bytes::from_static(text))
    }

    fn collect(outbox: &Outbox, room: usize) -> (Vec<Frame>, Signals) {
        let mut frames = VecDeque::new();
        let signals = outbox.collect(room, Frame::len, &mut frames);
        (frames.into(), signals)
    }

    #[test]
    fn frames_come_out_in_order_and_within_the_room() {
        let outbox = Outbox::new(100);
        outbox.push([text("aaa"), text("bb")], Worth::Durable);
        outbox.push([text("c")], Worth::Durable);
        assert!(collect(&outbox, 0).0.is_empty());
        assert_eq!(collect(&outbox, 1).0, [text("aaa")]);
        assert_eq!(collect(&outbox, 3).0, [text("bb"), text("c")]);
        assert!(collect(&outbox, 3).0.is_empty());
    }

    #[test]
    fn volatile_frames_go_first_and_then_the_connection() {
        let outbox = Outbox::new(10);
        outbox.push([text("12345")], Worth::Volatile);
        outbox.push([text("678")], Worth::Durable);
        // Over half: left out.
        outbox.push([text("v")], Worth::Volatile);
        // Over the limit only after this one.
        outbox.push([text("9abc")], Worth::Durable);
        // What is volatile makes room.
        outbox.push([text("defgh")], Worth::Durable);
        assert!(!outbox.is_ended());
        outbox.push([text("i")], Worth::Durable);
        assert!(outbox.is_ended());
        let (frames, signals) = collect(&outbox, 100);
        assert_eq!((frames.len(), signals.end), (0, Some(CloseKind::TooSlow)));
    }

    #[test]
    fn one_frame_of_any_size_passes_an_empty_outbox() {
        let outbox = Outbox::new(2);
        outbox.push([text("12345")], Worth::Durable);
        assert_eq!(collect(&outbox, 100).0, [text("12345")]);
        assert!(!outbox.is_ended());
    }

    #[test]
    fn nothing_is_put_in_after_the_end_and_the_first_reason_stands() {
        let outbox = Outbox::new(10);
        outbox.push([text("before")], Worth::Durable);
        outbox.end(CloseKind::Draining);
        outbox.end(CloseKind::TooSlow);
        outbox.push([text("after")], Worth::Durable);
        let (frames, signals) = collect(&outbox, 100);
        assert_eq!(frames, [text("before")]);
        assert_eq!(signals.end, Some(CloseKind::Draining));
    }
}
