//! Sockets as such: Socket.IO over Engine.IO, and plain JSON over WebSocket. Generic over an [`Application`]; knows nothing
//! of what it does.
//!
//! ```text
//!   router ── engine_io::http ──┐                 ┌── socket_io ──┐
//!        │    (polls, posts,    ├── connection ───┤               ├── Application
//!        │     upgrades)        │   (one task)    ├── plain ──────┘
//!        └── plain ─────────────┘        │        └── engine_io::bare
//!                                     outbox ── socket (the program's handle)
//! ```

mod application;
mod client_address;
mod connection;
mod connections;
mod engine_io;
mod event;
mod frame;
mod outbox;
mod plain;
mod router;
mod settings;
mod socket;
mod socket_io;
mod stream;
mod upgrade;
mod wire;

pub use application::*;
pub use client_address::client_address;
pub use connection::close_code;
pub use connections::Connections;
pub use engine_io::{EngineMessage, EngineProgram, EngineSession};
pub use event::Event;
pub use outbox::Unsent;
pub use router::{ENGINE_IO_PATH, PLAIN_PATH, SOCKET_IO_PATH, engine_io_router, router};
pub use settings::Settings;
#[cfg(test)]
pub(crate) use socket::Loose;
pub use socket::{Ack, Answer, NoAnswer, Protocol, Socket};
