//! Where the subscription link's connection puts what it hears, and the task that hands it on to the relay. Bounded: the
//! connection's reader can't wait, so an ear that is full ends the link.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::{AsyncPushSender, SendError};
use redis::{PushInfo, PushKind, Value};
use shared::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::echo::Echo;
use super::frame::Frame;
use crate::bus::{Incoming, metrics};

/// The channels that are no room's.
#[derive(Debug, Clone)]
pub(super) struct Channels {
    /// For all nodes: notices.
    pub(super) nodes: String,
    /// For this node alone: its `Echo`.
    pub(super) own: String,
}

/// What has been heard and not handed on may hold so much.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) frames: usize,
    pub(super) bytes: usize,
}

/// One connection's ear.
pub(super) struct Ear {
    channels: Channels,
    /// To this connection's `Backlog`.
    heard: mpsc::Sender<Heard>,
    /// Bytes in the backlog. The other hand is `Backlog`'s.
    bytes: Arc<AtomicUsize>,
    most_bytes: usize,
    /// The place of the frame taken last: an envelope comes once for each of its channels, one right after the other.
    last: Mutex<Box<[u8]>>,
    /// What is heard on the node's own channel.
    echo: Arc<Echo>,
    /// Told when this connection is no more, or must be no more. The link waits on it.
    broken: CancellationToken,
}

/// What one connection has heard, in order. It ends with the connection.
pub(super) struct Backlog {
    heard: mpsc::Receiver<Heard>,
    bytes: Arc<AtomicUsize>,
}

enum Heard {
    Frame(Vec<u8>),
    Notice(Vec<u8>),
}

impl Ear {
    pub(super) fn new(
        channels: Channels,
        bounds: Bounds,
        echo: Arc<Echo>,
        broken: CancellationToken,
    ) -> (Self, Backlog) {
        let (sender, heard) = mpsc::channel(bounds.frames.max(1));
        let bytes = Arc::new(AtomicUsize::new(0));
        let ear = Self {
            channels,
            heard: sender,
            bytes: Arc::clone(&bytes),
            most_bytes: bounds.bytes,
            last: Mutex::default(),
            echo,
            broken,
        };
        (ear, Backlog { heard, bytes })
    }

    fn message(&self, channel: &[u8], payload: Vec<u8>) {
        if channel == self.channels.own.as_bytes() {
            if let Some(number) = std::str::from_utf8(&payload)
                .ok()
                .and_then(|n| n.parse().ok())
            {
                self.echo.heard(number);
            }
        } else if channel == self.channels.nodes.as_bytes() {
            self.put(Heard::Notice(payload));
        } else if self.is_new(&payload) {
            self.put(Heard::Frame(payload));
        }
    }

    /// False for another copy of the frame before.
    fn is_new(&self, payload: &[u8]) -> bool {
        let Some(frame) = Frame::split(payload) else {
            tracing::warn!("something on a room's channel is no frame");
            return false;
        };
        let mut last = self.last.lock();
        if **last == *frame.place {
            return false;
        }
        *last = frame.place.into();
        true
    }

    fn put(&self, heard: Heard) {
        let size = heard.size();
        let before = self.bytes.fetch_add(size, Ordering::Relaxed);
        if before + size > self.most_bytes || self.heard.try_send(heard).is_err() {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            // From here on there is a gap: nothing heard later may follow.
            self.broken.cancel();
        }
    }
}

impl AsyncPushSender for Ear {
    fn send(&self, info: PushInfo) -> Result<(), SendError> {
        if self.broken.is_cancelled() {
            return Err(SendError);
        }
        match (info.kind, <[Value; 2]>::try_from(info.data)) {
            (PushKind::Disconnection, _) => self.broken.cancel(),
            (PushKind::Message, Ok([Value::BulkString(channel), Value::BulkString(payload)])) => {
                self.message(&channel, payload);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Heard {
    fn size(&self) -> usize {
        match self {
            Self::Frame(bytes) | Self::Notice(bytes) => bytes.len(),
        }
    }
}

impl Backlog {
    /// Hands everything on, until the connection has ended and its last frame was taken.
    pub(super) async fn drain(mut self, relay: &mpsc::Sender<Incoming>) {
        while let Some(heard) = self.heard.recv().await {
            let size = heard.size();
            if let Some(news) = read(&heard) {
                // Without a relay nobody hears anything, and nothing waits for it.
                let _ = relay.send(news).await;
            }
            self.bytes.fetch_sub(size, Ordering::Relaxed);
        }
    }
}

fn read(heard: &Heard) -> Option<Incoming> {
    let read = match heard {
        Heard::Notice(bytes) => serde_json::from_slice(bytes).map(Incoming::Notice),
        Heard::Frame(bytes) => {
            let frame = Frame::split(bytes)?;
            let lag = Timestamp::now().unix_millis() - frame.sent_at;
            metrics::lagged(Duration::from_millis(u64::try_from(lag).unwrap_or(0)));
            frame
                .envelope()
                .map(|envelope| Incoming::Envelope(Arc::new(envelope)))
        }
    };
    read.inspect_err(|error| {
        // The text of the error could quote the payload.
        tracing::warn!(category = ?error.classify(), "something on the bus can't be read");
    })
    .ok()
}
