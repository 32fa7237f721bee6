//! A WebSocket of one client: frames in, and the closing of it. What the frames mean is not known here, and while a
//! connection rides on it, what goes out is written by its outbox.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use tokio::io::AsyncReadExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::frame::Frame;
use super::outbox::{Leftover, Outbox, Worth};
use super::stream::{self, Reader, Sink};

/// Held by every idle connection, so as small as most chat frames are; larger ones grow it while they last.
const READ_BUFFER: usize = 512;

/// How long the other end may take to say goodbye.
const CLOSING: Duration = Duration::from_secs(3);

/// The server's end of a WebSocket.
#[derive(Debug)]
pub(super) struct Wire {
    socket: WebSocketStream<Reader>,
    /// The writing half; an outbox has it while a connection rides on this.
    sink: Option<Sink>,
    /// What is to be written before anything else. `None` once a connection rides on this: its outbox has it.
    opening: Option<Frame>,
    /// Reading failed: what is left of the stream means nothing.
    broken: bool,
}

impl Wire {
    pub(super) async fn new(upgraded: Upgraded, max_payload: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(max_payload))
            .max_frame_size(Some(max_payload));
        let (reader, sink, opening) = stream::split(upgraded);
        Self {
            socket: WebSocketStream::from_raw_socket(reader, Role::Server, Some(config)).await,
            sink: Some(sink),
            opening,
            broken: false,
        }
    }

    /// From now on the outbox writes.
    pub(super) fn ride(&mut self, outbox: &Outbox) {
        if let Some(sink) = self.sink.take() {
            outbox.attach(sink, self.opening.take());
        }
    }

    /// Reads the next frame. `None`: the closing handshake is done. What the WebSocket has to say to it by itself goes into
    /// the outbox.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        outbox: &Outbox,
    ) -> Poll<Option<Result<Message, Error>>> {
        let message = self.socket.poll_next_unpin(cx);
        match &message {
            // The pong stands in the write buffer. An error of writing to memory there is none.
            Poll::Ready(Some(Ok(Message::Ping(_)))) => {
                let _ = ready!(self.socket.poll_flush_unpin(cx));
            }
            Poll::Ready(Some(Err(_))) => self.broken = true,
            _ => {}
        }
        if let Some(control) = self.socket.get_mut().take_control() {
            outbox.push([Frame::control(control)], Worth::Durable);
        }
        message
    }

    /// Reads the next frame. Only where no connection rides on this.
    pub(super) async fn read(&mut self) -> Option<Result<Message, Error>> {
        if let Err(error) = self.write_opening().await {
            return Some(Err(error.into()));
        }
        let message = self.socket.next().await;
        if let Some(Ok(Message::Ping(_))) = &message {
            let _ = self.socket.flush().await;
        }
        match self.write_control().await {
            Ok(()) => message,
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Writes one frame, at once. Only where no connection rides on this.
    pub(super) async fn write(&mut self, frame: &Frame) -> io::Result<()> {
        self.write_opening().await?;
        match &mut self.sink {
            Some(sink) => sink.write_all(frame.wire()).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Writes what a connection has left, says goodbye, and waits a little for the other end to say so too. A connection
    /// that is cut while bytes of the client's lie unread is reset, and the goodbye with it.
    pub(super) async fn close(mut self, code: u16, reason: &'static str, left: Leftover) {
        let Leftover {
            sink,
            frames,
            written,
        } = left;
        self.sink = sink.or(self.sink);
        // Whether the other end took its leave in order is nothing to act on.
        let goodbye = self.goodbye(code, reason, frames, written);
        let _ = tokio::time::timeout(CLOSING, goodbye).await;
    }

    async fn goodbye(
        &mut self,
        code: u16,
        reason: &'static str,
        frames: VecDeque<Frame>,
        mut written: usize,
    ) -> Result<(), Error> {
        self.write_opening().await?;
        for frame in frames {
            if let Some(sink) = &mut self.sink {
                sink.write_all(&frame.wire()[written..]).await?;
            }
            written = 0;
        }
        let frame = CloseFrame {
            code: CloseCode::from(code),
            reason: reason.into(),
        };
        // Refused where the other end said it first; what is left then is to flush the answer.
        let _ = self.socket.send(Message::Close(Some(frame))).await;
        let _ = self.socket.flush().await;
        self.write_control().await?;
        while !self.broken {
            let message = self.socket.next().await;
            self.write_control().await?;
            match message {
                // Both have said it.
                None | Some(Ok(Message::Close(_))) => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(_)) => self.broken = true,
            }
        }
        // What is left of the stream is taken unseen.
        if let Some(sink) = &mut self.sink {
            sink.shutdown().await?;
        }
        let reader = self.socket.get_mut();
        let mut rest = [0; 1024];
        while reader.read(&mut rest).await? > 0 {}
        Ok(())
    }

    async fn write_opening(&mut self) -> io::Result<()> {
        if let (Some(sink), Some(opening)) = (&mut self.sink, self.opening.take()) {
            sink.write_all(opening.wire()).await?;
        }
        Ok(())
    }

    async fn write_control(&mut self) -> io::Result<()> {
        if let Some(control) = self.socket.get_mut().take_control()
            && let Some(sink) = &mut self.sink
        {
            sink.write_all(&control).await?;
        }
        Ok(())
    }
}
