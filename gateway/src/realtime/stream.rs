//! The two halves of a connection's byte stream, so that who writes needs nobody who reads: the reading half is the
//! connection's task's, the writing half is whoever's that has something to write. What the bytes mean is not known here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use hyper::upgrade::{Parts, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::frame::Frame;
use crate::listener::HttpStream;

/// Takes a stream that HTTP has let go apart. With what HTTP has left to be written first, if anything.
pub(super) fn split(upgraded: Upgraded) -> (Reader, Sink, Option<Frame>) {
    match upgraded.downcast::<TokioIo<HttpStream>>() {
        Ok(Parts { io, read_buf, .. }) => {
            let (tcp, opening) = io.into_inner().into_parts();
            let (read, write) = tcp.into_split();
            // A copy, most often of nothing: the original would keep the buffer that the request was read into.
            let ahead = Bytes::copy_from_slice(&read_buf);
            let opening = (!opening.is_empty()).then(|| Frame::opening(opening));
            (
                Reader::new(Source::Tcp(read), ahead),
                Sink::Tcp(write),
                opening,
            )
        }
        Err(upgraded) => {
            let (read, write) = tokio::io::split(TokioIo::new(upgraded));
            let reader = Reader::new(Source::Other(read), Bytes::new());
            (reader, Sink::Other(write), None)
        }
    }
}

/// The writing half.
#[derive(Debug)]
pub(super) enum Sink {
    Tcp(OwnedWriteHalf),
    /// Not a socket of the system: a pipe of a test.
    Other(WriteHalf<TokioIo<Upgraded>>),
}

impl Sink {
    /// Writes what goes in at once. `WouldBlock`: nothing does, and nobody is told when that changes.
    pub(super) fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(half) => write_to(half, slices),
            Self::Other(half) => {
                let mut cx = Context::from_waker(Waker::noop());
                match Pin::new(half).poll_write_vectored(&mut cx, slices) {
                    Poll::Ready(written) => written,
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                }
            }
        }
    }

    /// Writes what goes in; where nothing does, the task is woken once something would.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(half) => loop {
                match write_to(half, slices) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(half.as_ref().poll_write_ready(cx))?;
                    }
                    written => return Poll::Ready(written),
                }
            },
            Self::Other(half) => Pin::new(half).poll_write_vectored(cx, slices),
        }
    }

    /// Writes all of it.
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.write_all(bytes).await,
            Self::Other(half) => half.write_all(bytes).await,
        }
    }

    /// Nothing more will be written.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => half.shutdown().await,
            Self::Other(half) => half.shutdown().await,
        }
    }
}

/// One slice has a system call of its own, which costs less than the one for many.
fn write_to(half: &OwnedWriteHalf, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    match slices {
        [one] => half.try_write(one),
        many => half.try_write_vectored(many),
    }
}

/// The reading half, in the shape that a WebSocket's grammar needs: what that writes by itself (answers to pings, its part
/// of the closing handshake) is gathered in `control` for whoever has the writing half.
#[derive(Debug)]
pub(super) struct Reader {
    source: Source,
    /// Read by HTTP already.
    ahead: Bytes,
    /// Whole frames to be written.
    control: Vec<u8>,
}

#[derive(Debug)]
enum Source {
    Tcp(OwnedReadHalf),
    Other(ReadHalf<TokioIo<Upgraded>>),
}

impl Reader {
    fn new(source: Source, ahead: Bytes) -> Self {
        Self {
            source,
            ahead,
            control: Vec::new(),
        }
    }

    /// What is to be written, if anything.
    pub(super) fn take_control(&mut self) -> Option<Bytes> {
        (!self.control.is_empty()).then(|| std::mem::take(&mut self.control).into())
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let len = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..len]);
            self.ahead.advance(len);
            if self.ahead.is_empty() {
                self.ahead = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        match &mut self.source {
            Source::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            Source::Other(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

/// Takes everything: one buffer of it at a time is as much as a client makes by its pings before it is read on.
impl AsyncWrite for Reader {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.control.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
