//! `spread`: agents who write in turn in so many conversations that each is rarely met twice: what a conversation costs
//! that is not in anybody's mind just now. Every agent has two sockets, one that writes and one that hears. No client is there.

use super::traffic::{Kind, Pace, Traffic, What};
use super::{AT_ONCE, Target, Timing};
use crate::progress::Progress;
use crate::report::{Outcome, Report};
use crate::world::Fault;

/// The scenario: in all conversations of the target's world, by its staff.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// Messages under way at a time, over all agents.
    pub in_flight: u32,
    /// Bytes of a message's text.
    pub text_bytes: usize,
}

impl Spread {
    /// Plays it.
    pub fn run(self, target: &Target, timing: Timing) -> Result<Report, Fault> {
        let world = target.world;
        let mut engine = target.engine()?;
        let plans = (1..=world.staff)
            .chain(1..=world.staff)
            .enumerate()
            .map(|(number, agent)| target.plan(number, agent))
            .collect::<Result<Vec<_>, _>>()?;
        let conns = engine.open_all(&plans, AT_ONCE)?;
        let (writing, hearing) = conns.split_at(world.staff as usize);
        let streams = world.conversations;
        // From one agent's block into the next one's, and everywhere before anywhere twice.
        let mut step = streams / world.staff + 1;
        while gcd(step, streams) > 1 {
            step += 1;
        }
        let mut traffic = Traffic::new(
            What::Message(self.text_bytes),
            Pace::Turns(self.in_flight.into(), step.into()),
            timing,
            target.pids.clone(),
            Progress::new("spread"),
        );
        for conversation in 1..=streams {
            let agent = world.agent_of(conversation);
            let writer = writing[agent as usize - 1];
            traffic.sender(writer, agent, conversation);
        }
        for agent in 1..=world.staff {
            let of_agent = |conversation: &u32| world.agent_of(*conversation) == agent;
            let first = (1..=streams).find(of_agent).unwrap_or(1) - 1;
            let count = (1..=streams).filter(of_agent).count();
            let block = first..first + u32::try_from(count).unwrap_or(0);
            for conns in [writing, hearing] {
                let conn = conns[agent as usize - 1];
                traffic.listener(conn, Kind::Message, block.clone());
            }
        }
        engine.run(&mut traffic)?;
        let setting = format!(
            "{} conversations, {} in flight",
            world.conversations, self.in_flight
        );
        let outcome = Outcome::Traffic(Box::new(traffic.report()));
        Ok(target.report("spread", setting, outcome))
    }
}

const fn gcd(one: u32, other: u32) -> u32 {
    if other == 0 {
        one
    } else {
        gcd(other, one % other)
    }
}
