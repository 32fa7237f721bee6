//! Engine.IO 4: sessions over WebSocket and long-polling. What rides on it is Socket.IO, or an `EngineProgram` of bare messages.

mod bare;
mod http;
pub(super) mod polling;

use std::sync::Arc;
use std::time::Duration;

use shared::protocol::engine_io::{self, Handshake};

use super::connection::Rider;
use super::connections::Connections;
use super::frame::Frame;
use super::outbox::Worth;
use super::settings::Settings;
use super::socket::Link;

pub(super) use bare::BareRiders;
pub use bare::{EngineMessage, EngineProgram, EngineSession};

/// Makes a rider for every session.
pub(super) trait Riders: Send + Sync + 'static {
    type Rider: Rider;

    /// A session was opened. The rider lives as long as it.
    fn board(&self, link: &Arc<Link>) -> Self::Rider;
}

/// An Engine.IO server.
pub(super) struct EngineIo<F> {
    pub(super) settings: Arc<Settings>,
    pub(super) connections: Arc<Connections>,
    pub(super) sessions: Arc<polling::Sessions>,
    pub(super) riders: F,
}

impl<F: Riders> EngineIo<F> {
    pub(super) fn new(settings: Arc<Settings>, connections: Arc<Connections>, riders: F) -> Self {
        Self {
            settings,
            connections,
            sessions: Arc::default(),
            riders,
        }
    }

    /// The packet that opens a session.
    fn open_packet(&self, sid: &str, upgrades: Vec<&str>) -> String {
        let milliseconds =
            |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        engine_io::encode_handshake(&Handshake {
            sid,
            upgrades,
            ping_interval: milliseconds(self.settings.ping_interval),
            ping_timeout: milliseconds(self.settings.ping_timeout),
            max_payload: self.settings.max_payload as u64,
        })
    }

    fn greet(&self, link: &Link, packet: &str) {
        link.outbox.push([Frame::text(packet)], Worth::Durable);
    }
}
