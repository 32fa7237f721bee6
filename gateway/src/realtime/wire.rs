//! A WebSocket and its buffers: frames in, frames out in as few writes as may be, and the closing of it. What the frames
//! mean is not known here.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame as WireFrame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::outbox::Frame;

/// Held by every idle connection, so as small as chat frames are; larger ones grow it while they last.
const READ_BUFFER: usize = 2 << 10;

/// How much is gathered for one write, and the most of one frame on the wire: larger messages go in fragments. The write
/// buffer never shrinks, so without that every connection would keep the size of its largest message.
const WRITE_BATCH: usize = 16 << 10;

/// A longer list of frames is given back once it was written.
const KEPT_BATCH: usize = 4;

/// How long the other end may take to say goodbye.
const CLOSING: Duration = Duration::from_secs(3);

/// The server's end of a WebSocket.
#[derive(Debug)]
pub(super) struct Wire {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    /// Taken from the outbox, not yet in the write buffer.
    batch: VecDeque<Frame>,
    /// What is left of a message that goes in fragments.
    rest: Option<Bytes>,
    /// A ping is to be sent.
    ping: bool,
    /// Something may stand in the write buffer.
    dirty: bool,
    /// Reading failed: what is left of the stream means nothing.
    broken: bool,
}

impl Wire {
    pub(super) async fn new(upgraded: Upgraded, max_payload: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BATCH)
            .max_message_size(Some(max_payload))
            .max_frame_size(Some(max_payload));
        let io = TokioIo::new(upgraded);
        Self {
            socket: WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await,
            batch: VecDeque::new(),
            rest: None,
            ping: false,
            dirty: false,
            broken: false,
        }
    }

    /// How many bytes of frames it takes now: none while the last ones are not written.
    pub(super) fn room(&self) -> usize {
        if self.batch.is_empty() && self.rest.is_none() && !self.dirty {
            WRITE_BATCH
        } else {
            0
        }
    }

    /// Where frames to be written are put.
    pub(super) fn batch(&mut self) -> &mut VecDeque<Frame> {
        &mut self.batch
    }

    /// A WebSocket ping goes out with the next write.
    pub(super) fn ping(&mut self) {
        self.ping = true;
    }

    /// Writes what there is to write. Ready when all of it has left.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.ping {
            ready!(self.socket.poll_ready_unpin(cx))?;
            self.socket.start_send_unpin(Message::Ping(Bytes::new()))?;
            self.ping = false;
            self.dirty = true;
        }
        while !self.batch.is_empty() || self.rest.is_some() {
            ready!(self.socket.poll_ready_unpin(cx))?;
            if let Some(message) = self.next_message() {
                self.socket.start_send_unpin(message)?;
                self.dirty = true;
            }
        }
        if self.dirty {
            ready!(self.socket.poll_flush_unpin(cx))?;
            self.dirty = false;
            if self.batch.capacity() > KEPT_BATCH {
                self.batch = VecDeque::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads the next frame. `None`: the closing handshake is done.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, Error>>> {
        let message = ready!(self.socket.poll_next_unpin(cx));
        match &message {
            // The pong stands in the write buffer.
            Some(Ok(Message::Ping(_))) => self.dirty = true,
            Some(Err(_)) => self.broken = true,
            _ => {}
        }
        Poll::Ready(message)
    }

    /// Reads the next frame.
    pub(super) async fn read(&mut self) -> Option<Result<Message, Error>> {
        self.socket.next().await
    }

    /// Writes one frame, at once.
    pub(super) async fn write(&mut self, frame: Frame) -> Result<(), Error> {
        self.socket.send(frame.into()).await
    }

    /// Writes what is left, says goodbye, and waits a little for the other end to say so too. A connection that is cut
    /// while bytes of the client's lie unread is reset, and the goodbye with it.
    pub(super) async fn close(mut self, code: u16, reason: &'static str) {
        let goodbye = async {
            while let Some(message) = self.next_message() {
                self.socket.feed(message).await?;
            }
            let frame = CloseFrame {
                code: CloseCode::from(code),
                reason: reason.into(),
            };
            // Refused where the other end said it first; what is left then is to flush the answer.
            let _ = self.socket.send(Message::Close(Some(frame))).await;
            self.socket.flush().await?;
            while !self.broken {
                match self.socket.next().await {
                    // Both have said it.
                    None | Some(Ok(Message::Close(_))) => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) => self.broken = true,
                }
            }
            // What is left of the stream is taken unseen.
            let io = self.socket.get_mut();
            io.shutdown().await?;
            let mut rest = [0; 1024];
            while io.read(&mut rest).await? > 0 {}
            Ok::<_, Error>(())
        };
        // Whether the other end took its leave in order is nothing to act on.
        let _ = tokio::time::timeout(CLOSING, goodbye).await;
    }
}

impl Wire {
    /// The next frame for the write buffer.
    fn next_message(&mut self) -> Option<Message> {
        let (bytes, data) = match self.rest.take() {
            Some(rest) => (rest, Data::Continue),
            None => match self.batch.pop_front()? {
                Frame::Text(text) if text.len() > WRITE_BATCH => (text.into(), Data::Text),
                Frame::Binary(bytes) if bytes.len() > WRITE_BATCH => (bytes, Data::Binary),
                small => return Some(small.into()),
            },
        };
        let mut rest = bytes;
        let part = rest.split_to(rest.len().min(WRITE_BATCH));
        let last = rest.is_empty();
        self.rest = (!last).then_some(rest);
        let fragment = WireFrame::message(part, OpCode::Data(data), last);
        Some(Message::Frame(fragment))
    }
}

impl From<Frame> for Message {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Text(text) => Self::Text(text),
            Frame::Binary(bytes) => Self::Binary(bytes),
        }
    }
}
