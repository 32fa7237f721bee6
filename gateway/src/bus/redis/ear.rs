//! Where the subscription link's connection puts what it hears, for `hand_on` to take. Bounded: the connection's reader can't
//! wait, so an ear that is full ends the link.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use redis::aio::{AsyncPushSender, SendError};
use redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::echo::Echo;
use super::frame::Frame;
use crate::bus::Place;

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
    /// The name of the frame taken last: an envelope comes once for each of its channels, one right after the other.
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

/// What a connection has brought.
pub(super) enum Heard {
    /// On a room's channel.
    Frame(Vec<u8>),
    /// On the channel of all nodes.
    Notice(Vec<u8>),
    /// Not heard but known: whatever stands at or before this place has been heard, as of then.
    Sound(Place, Instant),
}

/// Notes on a connection's backlog how far it is sound.
pub(super) struct Marker {
    heard: mpsc::Sender<Heard>,
    broken: CancellationToken,
}

impl Marker {
    /// Redis said on this connection, when it was asked not before `asked`, that the order had come to `place`. It writes to a
    /// connection in the order of its doing, so all frames up to there came before that answer, and stand in the backlog.
    pub(super) fn sound(&self, place: Place, asked: Instant) {
        if !self.broken.is_cancelled() {
            // No room: what is sound stays behind what is known, which costs a longer replay.
            let _ = self.heard.try_send(Heard::Sound(place, asked));
        }
    }
}

impl Ear {
    pub(super) fn new(
        channels: Channels,
        bounds: Bounds,
        echo: Arc<Echo>,
        broken: CancellationToken,
    ) -> (Self, Marker, Backlog) {
        let (sender, heard) = mpsc::channel(bounds.frames.max(1));
        let bytes = Arc::new(AtomicUsize::new(0));
        let marker = Marker {
            heard: sender.clone(),
            broken: broken.clone(),
        };
        let ear = Self {
            channels,
            heard: sender,
            bytes: Arc::clone(&bytes),
            most_bytes: bounds.bytes,
            last: Mutex::default(),
            echo,
            broken,
        };
        (ear, marker, Backlog { heard, bytes })
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
        if **last == *frame.name {
            return false;
        }
        *last = frame.name.into();
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
    /// Bytes it holds.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Frame(bytes) | Self::Notice(bytes) => bytes.len(),
            Self::Sound(..) => 0,
        }
    }
}

impl Backlog {
    /// What was heard next; `None` when the connection has ended and its last frame was taken. What it was goes on counting
    /// as waiting until `taken`.
    pub(super) async fn next(&mut self) -> Option<Heard> {
        self.heard.recv().await
    }

    /// Something that `next` returned, by its size, does not wait any more.
    pub(super) fn taken(&self, size: usize) {
        self.bytes.fetch_sub(size, Ordering::Relaxed);
    }
}
