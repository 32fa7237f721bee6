//! What every process that speaks to the gateway must agree on: ids, room names, the names and
//! payloads of commands and events, error codes, the envelope on the bus, and the wire grammars.
//!
//! Pure: nothing here does I/O, knows a runtime or keeps state.

pub mod command;
pub mod envelope;
pub mod error;
pub mod event;
pub mod ids;
pub mod model;
mod object;
pub mod protocol;
pub mod role;
pub mod room;
pub mod timestamp;

pub use envelope::{Delivery, Envelope, Origin};
pub use error::ErrorCode;
pub use ids::{ClientId, ConversationId, EventSeq, MessageId, Seq, SocketId, UserId};
pub use role::{Role, SenderType};
pub use room::Room;
pub use timestamp::Timestamp;
