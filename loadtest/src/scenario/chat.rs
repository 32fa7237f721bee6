//! `chat`: clients who write to their agents. Every client has one socket and one conversation; every agent has one socket
//! and its share of the conversations. Nobody joins a room: all is heard by way of `user_{id}` and `admin`. A message is
//! heard by its sender (`messageReceived`), by the client's agent (`chatMessage`), and by every agent
//! (`newMessageNotification`): with 10 agents 12 deliveries.

use super::traffic::{Kind, Pace, Traffic, What};
use super::{AT_ONCE, Target, Timing};
use crate::net::{ConnId, Engine};
use crate::progress::Progress;
use crate::report::{Outcome, Report};
use crate::world::Fault;

/// The scenario.
#[derive(Debug, Clone, Copy)]
pub struct Chat {
    /// Conversations, and clients.
    pub conversations: u32,
    /// How much is sent.
    pub load: Load,
    /// Bytes of a message's text.
    pub text_bytes: usize,
}

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// Closed loop: so many messages of each client under way at a time.
    InFlight(u32),
    /// Open loop: so many messages a second over all clients, whatever comes back.
    PerSecond(f64),
}

impl Chat {
    /// Plays it.
    pub fn run(self, target: &Target, timing: Timing) -> Result<Report, Fault> {
        let mut engine = target.engine()?;
        let mut traffic = self.prepare("chat", &mut engine, target, timing)?;
        engine.run(&mut traffic)?;
        let outcome = Outcome::Traffic(Box::new(target.finish(&traffic)?));
        Ok(target.report("chat", self.setting(target), outcome))
    }

    /// Opens the connections, agents first, and makes the traffic.
    pub(super) fn prepare(
        self,
        name: &str,
        engine: &mut Engine,
        target: &Target,
        timing: Timing,
    ) -> Result<Traffic, Fault> {
        let world = target.world;
        if self.conversations == 0 || self.conversations > world.conversations {
            let there = world.conversations;
            return Err(format!("there are 1 to {there} conversations to choose from").into());
        }
        let plans = self
            .accounts(target)
            .enumerate()
            .map(|(number, account)| target.plan(number, account))
            .collect::<Result<Vec<_>, _>>()?;
        let conns = engine.open_all(&plans, AT_ONCE)?;
        let (agents, clients) = conns.split_at(world.staff as usize);

        let pace = match self.load {
            Load::InFlight(in_flight) => Pace::Closed(in_flight),
            Load::PerSecond(rate) => Pace::Open(rate),
        };
        let what = What::Message(self.text_bytes);
        let mut traffic =
            Traffic::new(what, pace, timing, target.pids.clone(), Progress::new(name));
        self.book(&mut traffic, target, agents, clients);
        Ok(traffic)
    }

    /// The accounts of the connections, in their order.
    pub(super) fn accounts(self, target: &Target) -> impl Iterator<Item = u32> + use<> {
        let world = target.world;
        let clients = (1..=self.conversations).map(move |number| world.client(number));
        (1..=world.staff).chain(clients)
    }

    /// Says who sends and who hears what.
    fn book(self, traffic: &mut Traffic, target: &Target, agents: &[ConnId], clients: &[ConnId]) {
        let world = target.world;
        for (conn, conversation) in clients.iter().zip(1..) {
            traffic.sender(*conn, world.client(conversation), conversation);
            traffic.listener(*conn, Kind::Message, conversation - 1..conversation);
        }
        let all = 0..self.conversations;
        for (conn, agent) in agents.iter().zip(1..) {
            let of_agent = |stream: &u32| world.agent_of(stream + 1) == agent;
            let first = all.clone().find(of_agent).unwrap_or(0);
            let count = all.clone().filter(of_agent).count();
            let end = first + u32::try_from(count).unwrap_or(0);
            traffic.listener(*conn, Kind::Message, first..end);
            traffic.listener(*conn, Kind::Notification, all.clone());
        }
    }

    pub(super) fn setting(self, target: &Target) -> String {
        let load = match self.load {
            Load::InFlight(in_flight) => format!("{in_flight} in flight each"),
            Load::PerSecond(rate) => format!("{rate} messages/s"),
        };
        let staff = target.world.staff;
        format!(
            "{} conversations, {staff} agents, {} deliveries each, {load}",
            self.conversations,
            staff + 2
        )
    }
}
