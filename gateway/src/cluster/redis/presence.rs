//! Who is online, over all nodes: by Redis's clock, in scripts that each do a bounded piece of work at once.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use redis::Script;
use shared::{Role, UserId};

use super::{millis, role};
use crate::bus::BusError;
use crate::bus::redis::Commands;
use crate::cluster::{Presence, PresenceSettings};

/// People in one call: Redis serves nobody else meanwhile.
const BATCH: usize = 500;

/// Calls in one sweep. What is left then is the next sweep's, a second later.
const SWEEP_CALLS: usize = 64;

/// Presence in Redis, as one node sees it.
#[derive(Debug)]
pub struct RedisPresence {
    commands: Commands,
    settings: PresenceSettings,
    /// This node, a random string: a restarted one is another.
    node: String,
    scripts: Scripts,
    keys: Keys,
}

#[derive(Debug)]
struct Scripts {
    arrive: Script,
    depart: Script,
    sweep: Script,
}

#[derive(Debug)]
struct Keys {
    /// Sorted set: node to the end of its lease, milliseconds.
    nodes: String,
    /// Set: the people on this node.
    here: String,
    /// Hash: person to role.
    online: String,
    /// Sorted set: person to the end of their grace, milliseconds.
    leaving: String,
    /// What the keys of people's nodes (sets) begin with.
    person: String,
    /// What the keys of nodes' people (sets) begin with.
    node: String,
}

impl RedisPresence {
    /// For a node, over the bus's way to Redis. `node` must be unique among nodes and over restarts: random.
    pub fn new(commands: Commands, node: &str, settings: PresenceSettings) -> Self {
        let key = |rest: &str| commands.name(format_args!("presence:{rest}"));
        let keys = Keys {
            nodes: key("nodes"),
            here: key(&format!("node:{node}")),
            online: key("online"),
            leaving: key("leaving"),
            person: key("user:"),
            node: key("node:"),
        };
        Self {
            commands,
            settings,
            node: node.to_owned(),
            scripts: Scripts {
                arrive: Script::new(include_str!("arrive.lua")),
                depart: Script::new(include_str!("depart.lua")),
                sweep: Script::new(include_str!("sweep.lua")),
            },
            keys,
        }
    }

    /// Notes arrivals; true for each who turned online. Without any it only renews the lease.
    async fn note_arrivals(&self, people: &[(UserId, Role)]) -> Result<Vec<bool>, BusError> {
        let keys = &self.keys;
        let mut call = self.scripts.arrive.prepare_invoke();
        for key in [&keys.nodes, &keys.here, &keys.online, &keys.leaving] {
            call.key(key);
        }
        call.arg(&self.node)
            .arg(millis(self.settings.lease))
            .arg(&keys.person);
        for (user, role) in people {
            call.arg(user.get()).arg(role.as_str());
        }
        self.commands.invoke(&call).await
    }

    async fn note_departures(&self, people: &[UserId]) -> Result<(), BusError> {
        let keys = &self.keys;
        let mut call = self.scripts.depart.prepare_invoke();
        for key in [&keys.here, &keys.online, &keys.leaving] {
            call.key(key);
        }
        call.arg(&self.node)
            .arg(millis(self.settings.grace))
            .arg(&keys.person);
        for user in people {
            call.arg(user.get());
        }
        self.commands.invoke(&call).await
    }

    /// One piece of a sweep: who is gone, and whether there may be more.
    async fn sweep_some(&self) -> Result<(Vec<(UserId, Role)>, bool), BusError> {
        let keys = &self.keys;
        let mut call = self.scripts.sweep.prepare_invoke();
        for key in [&keys.nodes, &keys.online, &keys.leaving] {
            call.key(key);
        }
        call.arg(millis(self.settings.grace))
            .arg(BATCH)
            .arg(&keys.person)
            .arg(&keys.node);
        let (more, gone): (bool, Vec<(String, String)>) = self.commands.invoke(&call).await?;
        let gone = gone.iter().filter_map(|(id, role)| person(id, role));
        Ok((gone.collect(), more))
    }

    /// Whom Redis believes to be on this node.
    async fn noted_here(&self) -> Result<HashSet<UserId>, BusError> {
        let mut people = HashSet::new();
        let mut cursor = 0;
        loop {
            let mut scan = redis::cmd("SSCAN");
            scan.arg(&self.keys.here)
                .arg(cursor)
                .arg("COUNT")
                .arg(BATCH);
            let (next, some): (u64, Vec<String>) = self.commands.query(&scan).await?;
            people.extend(some.iter().filter_map(|id| id.parse::<UserId>().ok()));
            if next == 0 {
                return Ok(people);
            }
            cursor = next;
        }
    }
}

#[async_trait]
impl Presence for RedisPresence {
    async fn arrive(&self, user: UserId, role: Role) -> Result<bool, BusError> {
        let turned = self.note_arrivals(&[(user, role)]).await?;
        Ok(turned == [true])
    }

    async fn depart(&self, user: UserId) -> Result<(), BusError> {
        self.note_departures(&[user]).await
    }

    async fn renew(&self, here: &[(UserId, Role)]) -> Result<(), BusError> {
        self.note_arrivals(&[]).await?;
        let noted = self.noted_here().await?;
        let mut missing = here.to_vec();
        missing.retain(|(user, _)| !noted.contains(user));
        for batch in missing.chunks(BATCH) {
            self.note_arrivals(batch).await?;
        }
        let ids: HashSet<UserId> = here.iter().map(|&(user, _)| user).collect();
        let departed: Vec<UserId> = noted.difference(&ids).copied().collect();
        for batch in departed.chunks(BATCH) {
            self.note_departures(batch).await?;
        }
        Ok(())
    }

    async fn sweep(&self) -> Result<Vec<(UserId, Role)>, BusError> {
        let mut gone = Vec::new();
        for _ in 0..SWEEP_CALLS {
            match self.sweep_some().await {
                Ok((some, more)) => {
                    gone.extend(some);
                    if !more {
                        break;
                    }
                }
                // Those taken out already are nobody else's to announce.
                Err(error) if !gone.is_empty() => {
                    tracing::warn!(%error, "a sweep of presence was cut short");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }

    async fn online(&self) -> Result<Vec<(UserId, Role)>, BusError> {
        let mut people = HashMap::new();
        let mut cursor = 0;
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(&self.keys.online)
                .arg(cursor)
                .arg("COUNT")
                .arg(BATCH);
            let (next, some): (u64, Vec<(String, String)>) = self.commands.query(&scan).await?;
            people.extend(some.iter().filter_map(|(id, role)| person(id, role)));
            if next == 0 {
                return Ok(people.into_iter().collect());
            }
            cursor = next;
        }
    }

    async fn online_among(&self, users: &[UserId]) -> Result<Vec<(UserId, Role)>, BusError> {
        let wanted: Vec<UserId> = users
            .iter()
            .copied()
            .collect::<HashSet<_>>()
            .into_iter()
            .collect();
        let mut online = Vec::new();
        for batch in wanted.chunks(BATCH) {
            let mut get = redis::cmd("HMGET");
            get.arg(&self.keys.online);
            for user in batch {
                get.arg(user.get());
            }
            let roles: Vec<Option<String>> = self.commands.query(&get).await?;
            let found = batch.iter().zip(&roles);
            online
                .extend(found.filter_map(|(&user, known)| Some((user, role(known.as_deref()?)?))));
        }
        Ok(online)
    }
}

fn person(id: &str, name: &str) -> Option<(UserId, Role)> {
    Some((id.parse().ok()?, role(name)?))
}
