//! A TCP connection for as long as HTTP is spoken on it. Where the last answer is a 101, that is not written but kept for whoever
//! takes the connection over: he has most often something to say as well, and a write is what a client that comes in costs
//! most.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// See the module. What takes it over must take it apart: once the last answer is kept, nothing that is written to it as a whole
/// goes out.
#[derive(Debug)]
pub struct HttpStream {
    tcp: TcpStream,
    hands_over: HandsOver,
    kept: Vec<u8>,
}

/// Tells a stream that the answer which is written next is HTTP's last on it.
#[derive(Debug, Clone, Default)]
pub(super) struct HandsOver(Arc<AtomicBool>);

impl HandsOver {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl HttpStream {
    pub(super) fn new(tcp: TcpStream) -> (Self, HandsOver) {
        let hands_over = HandsOver::default();
        let stream = Self {
            tcp,
            hands_over: hands_over.clone(),
            kept: Vec::new(),
        };
        (stream, hands_over)
    }

    /// The connection, and what is to be written to it before anything else.
    pub fn into_parts(self) -> (TcpStream, Bytes) {
        (self.tcp, self.kept.into())
    }

    fn keeps(&self) -> bool {
        self.hands_over.0.load(Ordering::Acquire)
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.keeps() {
            self.kept.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.keeps() {
            let before = self.kept.len();
            for slice in slices {
                self.kept.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(self.kept.len() - before));
        }
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
