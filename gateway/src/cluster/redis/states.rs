//! Connection states in Redis: a hash for each, and a sign of life for each node. By Redis's clock.

use std::time::Duration;

use async_trait::async_trait;
use redis::Script;
use shared::{ConversationId, SocketId, UserId};

use super::{millis, role};
use crate::bus::redis::{Commands, unavailable};
use crate::bus::{BusError, Mark, Place};
use crate::cluster::{
    AWAY, ConnectionState, ConnectionStates, Ended, Found, Holder, NODE_AWAY, Received,
};

/// States in one call: Redis serves nobody else meanwhile.
const BATCH: usize = 500;

/// How long states may be picked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateSettings {
    /// After the end of their connection.
    pub away: Duration,
    /// After the last sign of a node that died.
    pub node_away: Duration,
}

impl Default for StateSettings {
    fn default() -> Self {
        Self {
            away: AWAY,
            node_away: NODE_AWAY,
        }
    }
}

/// The states of all nodes, as one of them sees them.
#[derive(Debug)]
pub struct RedisConnectionStates {
    commands: Commands,
    settings: StateSettings,
    /// This node, a random string: a restarted one is another.
    node: String,
    open: Script,
    find: Script,
    change: Script,
}

/// What the script that finds a state returns: who holds it, `since`, user, role, socket, conversations, `from`, the node's
/// sign.
type Answer = (u64, u64, i64, String, String, String, String, String);

impl RedisConnectionStates {
    /// For a node, over the bus's way to Redis. `node` must be unique among nodes and over restarts: random.
    pub fn new(commands: Commands, node: &str, settings: StateSettings) -> Self {
        Self {
            commands,
            settings,
            node: node.to_owned(),
            open: Script::new(include_str!("states_open.lua")),
            find: Script::new(include_str!("states.lua")),
            change: Script::new(include_str!("states_change.lua")),
        }
    }

    fn key(&self, state: &str) -> String {
        self.commands.name(format_args!("state:{state}"))
    }

    fn sign_key(&self, node: &str) -> String {
        self.commands.name(format_args!("states:{node}"))
    }
}

#[async_trait]
impl ConnectionStates for RedisConnectionStates {
    async fn open(
        &self,
        holder: &Holder,
        state: &ConnectionState,
        life: Duration,
        instead_of: Option<u64>,
    ) -> Result<bool, BusError> {
        let mut call = self.open.key(self.key(&holder.state));
        call.arg(instead_of.map_or_else(String::new, |before| before.to_string()))
            .arg(millis(life))
            .arg("holder")
            .arg(holder.connection)
            .arg("node")
            .arg(&self.node)
            .arg("since")
            .arg(millis(holder.since))
            .arg("user")
            .arg(state.user.get())
            .arg("role")
            .arg(state.role.as_str())
            .arg("socket")
            .arg(state.socket.as_str())
            .arg("conversations")
            .arg(list(&state.conversations))
            .arg("from")
            .arg(state.from.to_string());
        let noted: u64 = self.commands.invoke_in_line(&call).await?;
        Ok(noted == 1)
    }

    async fn update(
        &self,
        holder: &Holder,
        conversations: &[ConversationId],
        life: Duration,
    ) -> Result<(), BusError> {
        let mut call = self.change.key(self.key(&holder.state));
        call.arg(holder.connection)
            .arg("conversations")
            .arg(list(conversations))
            .arg(millis(life))
            .arg(0);
        let _: u64 = self.commands.invoke_in_line(&call).await?;
        Ok(())
    }

    async fn end(&self, ended: &[Ended]) -> Result<(), BusError> {
        for batch in ended.chunks(BATCH) {
            let mut call = self.change.prepare_invoke();
            for Ended { holder, received } in batch {
                call.key(self.key(&holder.state)).arg(holder.connection);
                match received {
                    Some(from) => call.arg("from").arg(from.to_string()),
                    None => call.arg("").arg(""),
                };
                call.arg(millis(self.settings.away)).arg(1);
            }
            let _: u64 = self.commands.invoke_in_line(&call).await?;
        }
        Ok(())
    }

    async fn find(&self, state: &str) -> Result<Option<Found>, BusError> {
        let mut call = self.find.key(self.key(state));
        call.arg(self.sign_key(""));
        let found: Option<Answer> = self.commands.invoke_in_line(&call).await?;
        found.map(read).transpose()
    }

    async fn beat(&self, received: Option<Received>) -> Result<(), BusError> {
        let sign = received.map_or_else(String::new, |received| {
            format!("{} {}", millis(received.since), received.place)
        });
        let mut set = redis::cmd("SET");
        set.arg(self.sign_key(&self.node))
            .arg(sign)
            .arg("PX")
            .arg(millis(self.settings.node_away));
        self.commands.query_in_line(&set).await
    }
}

fn read(answer: Answer) -> Result<Found, BusError> {
    let (connection, since, user, role_name, socket, conversations, from, sign) = answer;
    let mut from: Mark = from.parse().map_err(unavailable)?;
    if let Some((covered, place)) = sign.split_once(' ')
        && let (Ok(covered), Ok(place)) = (covered.parse::<u64>(), place.parse::<Place>())
        && since <= covered
    {
        from = Mark::latest([from, Mark::after(place)], place.epoch).unwrap_or(from);
    }
    let conversations = conversations.split(',').filter(|id| !id.is_empty());
    let state = ConnectionState {
        user: UserId::new(user),
        role: role(&role_name).ok_or_else(|| BusError("a state has no role".into()))?,
        socket: SocketId::new(socket),
        conversations: conversations
            .map(|id| id.parse::<i64>().map(ConversationId::new))
            .collect::<Result<_, _>>()
            .map_err(unavailable)?,
        from,
    };
    Ok(Found { state, connection })
}

fn list(conversations: &[ConversationId]) -> String {
    let ids: Vec<_> = conversations.iter().map(ToString::to_string).collect();
    ids.join(",")
}
