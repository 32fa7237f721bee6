//! What a Socket.IO client may pick up again after its connection broke, on any node: the contract of the store of connection
//! states. Which events it missed is the bus's to tell.

use std::time::Duration;

use async_trait::async_trait;
use shared::{ConversationId, Role, SocketId, UserId};

use crate::bus::{BusError, Mark, Place};

/// How long a client may have been away: the longest that the wire contract promises, and Socket.IO's own default.
pub const AWAY: Duration = Duration::from_secs(120);

/// How often a node says that its sockets are still open.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(10);

/// How long after a node's last sign its sockets may be picked up: `AWAY`, and what it may have lived on after the sign.
pub const NODE_AWAY: Duration = Duration::from_secs(AWAY.as_secs() + BEAT_INTERVAL.as_secs());

/// A connection state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionState {
    /// Who alone may pick it up.
    pub user: UserId,
    /// In which role alone.
    pub role: Role,
    /// The socket's id, which it keeps.
    pub socket: SocketId,
    /// The conversations it has open.
    pub conversations: Vec<ConversationId>,
    /// Its client has received every event up to here that was for it, or needs none from before.
    pub from: Mark,
}

/// A state as one connection holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The state's name: Socket.IO's `pid`, which nobody can guess.
    pub state: Box<str>,
    /// Which connection: random. What an earlier one still has to say after another took over is not heard.
    pub connection: u64,
    /// When the connection began, by the node's own clock: time since the node started.
    pub since: Duration,
}

/// A state that may be picked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The state. `from` is as late as what is known of its connection allows.
    pub state: ConnectionState,
    /// The connection that holds it, or held it last.
    pub connection: u64,
}

/// What every connection of a node that began at some time or before has received for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Connections that began up to then, as `Holder::since`.
    pub since: Duration,
    /// Everything for their rooms up to here.
    pub place: Place,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which one.
    pub holder: Holder,
    /// What its client has received for certain; `None` where it must not be picked up again.
    pub received: Option<Mark>,
}

/// Connection states of all nodes.
///
/// A state may be picked up while its connection is open (the client may know of its end before the node does), for `AWAY`
/// after its end, and for `NODE_AWAY` after the last sign of a node that died: nothing needs to be written at a node's end.
/// A store that came back empty has forgotten them: their clients begin anew.
#[async_trait]
pub trait ConnectionStates: Send + Sync + 'static {
    /// Notes that a connection of this node holds a state. Forgotten after `life`. `instead_of`: the connection that held it
    /// when it was found; `None` for a new state. False, and nothing is noted, where another holds it by now or it has been
    /// forgotten: a client that tried twice has come in by the other way, and what it does there must be noted.
    async fn open(
        &self,
        holder: &Holder,
        state: &ConnectionState,
        life: Duration,
        instead_of: Option<u64>,
    ) -> Result<bool, BusError>;

    /// The state's conversations are others now, and it is forgotten after `life`. Does nothing where another connection
    /// holds it, its connection has ended, or it has been forgotten.
    async fn update(
        &self,
        holder: &Holder,
        conversations: &[ConversationId],
        life: Duration,
    ) -> Result<(), BusError>;

    /// Connections have ended. Does nothing for states that others hold.
    async fn end(&self, ended: &[Ended]) -> Result<(), BusError>;

    /// The state by its name, if it may still be picked up.
    async fn find(&self, state: &str) -> Result<Option<Found>, BusError>;

    /// A sign of life of this node, to be given every `BEAT_INTERVAL`. `received`: see there; `None` while nothing is known.
    async fn beat(&self, received: Option<Received>) -> Result<(), BusError>;
}
