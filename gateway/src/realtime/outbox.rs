//! What waits to be written to one connection: a queue bounded in bytes that nobody ever waits for. On a WebSocket it also
//! writes: whoever puts something in, or the connection's task where the client is slow. What the frames say is not known
//! here.

mod unsent;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker, ready};

use futures_util::task::AtomicWaker;
use metrics::counter;
use parking_lot::Mutex;
use shared::SocketId;

use super::application::CloseKind;
use super::frame::{Frame, Kind};
use super::stream::Sink;
use crate::telemetry::metrics as names;
pub use unsent::Unsent;

/// A queue longer than this is given back to the allocator once it ran empty: a burst is not paid for during an idle hour.
const KEPT_CAPACITY: usize = 4;

/// The most frames of one write: a cost counts by the write, and with so many the rest is nothing any more.
const FRAMES: usize = 64;

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
    /// Where frames are written; `None` where they are fetched, by long-polling.
    sink: Option<Sink>,
    /// How much of the first frame is written already.
    written: usize,
    /// Somebody has undertaken to write what waits.
    claimed: bool,
    /// The client takes no more just now: the connection's task waits until it does, and writes what waits.
    congested: bool,
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

/// What a connection leaves behind.
#[derive(Debug, Default)]
pub(super) struct Leftover {
    /// The writing half, where it was on a WebSocket.
    pub(super) sink: Option<Sink>,
    /// What is still to be written.
    pub(super) frames: VecDeque<Frame>,
    /// How much of the first of them is.
    pub(super) written: usize,
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
    /// up, and no more than the limit and one push is ever held. The connection's task writes them.
    pub(super) fn push(&self, frames: impl IntoIterator<Item = Frame>, worth: Worth) {
        if self.put(frames, worth).is_some() {
            self.task.wake();
        }
    }

    /// Puts a frame in as `push` does, and leaves it to the caller to `flush` soon: by then more may be there to go out in
    /// the same write. False where nothing is left to do, as somebody else will write it.
    fn push_unsent(&self, frame: Frame, worth: Worth) -> bool {
        let Some(mut state) = self.put([frame], worth) else {
            return false;
        };
        if state.sink.is_none() || state.end.is_some() {
            drop(state);
            self.task.wake();
            return false;
        }
        !state.congested && !std::mem::replace(&mut state.claimed, true)
    }

    /// Writes what waits, as far as the client takes it. The rest, and what became of the connection, is for its task.
    fn flush(&self) {
        let mut state = self.state.lock();
        state.claimed = false;
        let result = state.write(|sink, slices| match sink.try_write(slices) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        });
        // A failure comes again when the task writes.
        state.congested = !matches!(result, Poll::Ready(Ok(())));
        let is_for_task = state.congested || state.sink.is_none();
        drop(state);
        if is_for_task {
            self.task.wake();
        }
    }

    /// Writes what waits. Ready when all of it has left.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock();
        let result = state.write(|sink, slices| sink.poll_write(cx, slices));
        state.congested = result.is_pending();
        result
    }

    /// From now on frames are written here, after what opens the connection.
    pub(super) fn attach(&self, sink: Sink, opening: Option<Frame>) {
        let mut state = self.state.lock();
        state.sink = Some(sink);
        if let Some(opening) = opening {
            state.bytes += opening.len();
            state.frames.push_front((opening, Worth::Durable));
        }
    }

    /// Takes out the writing half, and what it has not written of what must be: all, or with `is_over` only the rest of a
    /// frame that has begun.
    pub(super) fn detach(&self, is_over: bool) -> Leftover {
        let mut state = self.state.lock();
        if is_over {
            state.clear();
        }
        state.bytes = 0;
        Leftover {
            sink: state.sink.take(),
            frames: state.frames.drain(..).map(|(frame, _)| frame).collect(),
            written: std::mem::take(&mut state.written),
        }
    }

    /// What the connection's task should know besides frames.
    pub(super) fn signals(&self) -> Signals {
        self.state.lock().signals()
    }

    /// Where it went in, what else there is, for a caller who has more to do with it. `None`: it did not go in.
    fn put(
        &self,
        frames: impl IntoIterator<Item = Frame>,
        worth: Worth,
    ) -> Option<parking_lot::MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return None;
        }
        if worth == Worth::Volatile && state.bytes > self.limit / 2 {
            counter!(names::VOLATILE_DROPPED).increment(1);
            return None;
        }
        if state.bytes > self.limit {
            let evicted = state.evict_volatile();
            if evicted > 0 {
                counter!(names::VOLATILE_DROPPED).increment(evicted);
            }
        }
        if state.bytes > self.limit {
            state.end(CloseKind::TooSlow);
        } else {
            for frame in frames {
                state.bytes += frame.len();
                state.frames.push_back((frame, worth));
            }
        }
        Some(state)
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
        state.shrink();
        state.signals()
    }

    /// How many bytes wait.
    pub(super) fn bytes(&self) -> usize {
        self.state.lock().bytes
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
    /// Writes frames by `write` until it has no more or `write` is pending.
    fn write(
        &mut self,
        mut write: impl FnMut(&mut Sink, &[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        let Some(sink) = &mut self.sink else {
            return Poll::Ready(Ok(()));
        };
        while let Some((first, _)) = self.frames.front() {
            let result = if self.frames.len() == 1 {
                write(sink, &[IoSlice::new(&first.wire()[self.written..])])
            } else {
                let mut slices = [IoSlice::new(&[]); FRAMES];
                let mut used = 0;
                for (slice, (frame, _)) in slices.iter_mut().zip(&self.frames) {
                    *slice = IoSlice::new(frame.wire());
                    used += 1;
                }
                slices[0].advance(self.written);
                write(sink, &slices[..used])
            };
            let mut taken = ready!(result)?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some((frame, _)) = self.frames.front() {
                let left = frame.wire().len() - self.written;
                if taken < left {
                    self.written += taken;
                    break;
                }
                taken -= left;
                self.written = 0;
                self.bytes -= frame.len();
                self.frames.pop_front();
            }
        }
        self.shrink();
        Poll::Ready(Ok(()))
    }

    fn shrink(&mut self) {
        if self.frames.is_empty() && self.frames.capacity() > KEPT_CAPACITY {
            self.frames = VecDeque::new();
        }
    }

    fn signals(&mut self) -> Signals {
        Signals {
            closed: std::mem::take(&mut self.closed),
            leaving: self.leaving,
            end: self.end,
        }
    }

    fn evict_volatile(&mut self) -> u64 {
        let before = self.frames.len();
        let mut has_begun = self.has_begun();
        self.frames
            .retain(|(_, worth)| std::mem::take(&mut has_begun) || *worth == Worth::Durable);
        self.bytes = self.frames.iter().map(|(frame, _)| frame.len()).sum();
        (before - self.frames.len()) as u64
    }

    /// Whether the first frame must come to its end, or what follows makes no sense.
    fn has_begun(&self) -> bool {
        let first = self.frames.front();
        self.written > 0 || first.is_some_and(|(frame, _)| frame.kind() == Kind::Opening)
    }

    /// Leaves nothing but the rest of a frame that has begun.
    fn clear(&mut self) {
        self.frames.truncate(usize::from(self.has_begun()));
        self.frames.shrink_to_fit();
        self.bytes = self.frames.iter().map(|(frame, _)| frame.len()).sum();
    }

    /// The first reason stands. Nobody waits for the rest of a connection that is too slow.
    fn end(&mut self, kind: CloseKind) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(kind);
        if kind == CloseKind::TooSlow {
            self.clear();
            counter!(names::SLOW_SOCKET_CLOSINGS).increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn text(text: &str) -> Frame {
        Frame::text(text)
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

    /// An outbox that writes to a socket, and the other end of that.
    async fn on_the_wire(limit: usize) -> (Outbox, tokio::net::TcpStream) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let (theirs, ours) =
            tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        let outbox = Outbox::new(limit);
        let (_read, write) = ours.unwrap().0.into_split();
        outbox.attach(Sink::Tcp(write), None);
        // Until the system has said so, nothing is known to go in.
        std::future::poll_fn(|cx| outbox.poll_flush(cx))
            .await
            .unwrap();
        (outbox, theirs.unwrap())
    }

    /// Fills it until its client takes no more, and says what went in.
    async fn fill(outbox: &Outbox) -> Vec<u8> {
        let mut sent = Vec::new();
        for number in 0.. {
            let frame = Frame::text(&number.to_string().repeat(10_000));
            sent.extend_from_slice(frame.wire());
            if outbox.push_unsent(frame, Worth::Durable) {
                outbox.flush();
                // The system says what it takes only while nobody works.
                tokio::task::yield_now().await;
            }
            if outbox.state.lock().congested {
                break;
            }
        }
        sent
    }

    #[tokio::test]
    async fn what_a_slow_client_did_not_take_is_written_later_byte_for_byte() {
        use tokio::io::AsyncReadExt;

        let (outbox, mut client) = on_the_wire(usize::MAX).await;
        let mut sent = fill(&outbox).await;
        // Nobody is to write now but the task.
        let frame = text("and more");
        sent.extend_from_slice(frame.wire());
        assert!(!outbox.push_unsent(frame, Worth::Durable));
        let mut heard = vec![0; sent.len()];
        let flushed = std::future::poll_fn(|cx| outbox.poll_flush(cx));
        let (flushed, read) = tokio::join!(flushed, client.read_exact(&mut heard));
        flushed.unwrap();
        read.unwrap();
        assert!(heard == sent);
        assert_eq!(outbox.state.lock().bytes, 0);
        // It keeps up again.
        assert!(outbox.push_unsent(text("again"), Worth::Durable));
        assert!(!outbox.push_unsent(text("and again"), Worth::Durable));
        outbox.flush();
        let mut heard = [0; 18];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"\x81\x05again\x81\x09and again");
    }

    #[tokio::test]
    async fn what_opens_a_connection_goes_out_whatever_becomes_of_the_rest() {
        let (outbox, _client) = on_the_wire(10).await;
        outbox.push([text("said before")], Worth::Durable);
        let sink = outbox.detach(true).sink.unwrap();
        outbox.push([text("first"), text("second")], Worth::Durable);
        let opening = Frame::opening(Bytes::from_static(b"HTTP/1.1 101"));
        outbox.attach(sink, Some(opening.clone()));
        outbox.push([text("one too many")], Worth::Durable);
        let left = outbox.detach(true);
        assert_eq!(left.frames, [opening]);
    }

    #[tokio::test]
    async fn a_frame_that_has_begun_comes_to_its_end() {
        let (outbox, _client) = on_the_wire(usize::MAX).await;
        fill(&outbox).await;
        let (begun, written) = {
            let mut state = outbox.state.lock();
            state.frames.front_mut().unwrap().1 = Worth::Volatile;
            state.evict_volatile();
            (state.frames[0].0.clone(), state.written)
        };
        assert!(0 < written && written < begun.wire().len());
        outbox.end(CloseKind::TooSlow);
        let left = outbox.detach(true);
        assert_eq!((left.frames.into(), left.written), (vec![begun], written));
        assert!(left.sink.is_some());
    }
}
