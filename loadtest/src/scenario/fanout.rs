//! `fanout` and `typing`: many sockets in one conversation, a few of which write. Every socket belongs to another agent,
//! and has joined the conversation 1; the agents 1, 2, 3 ... write in it. Each message is heard by every socket once: by
//! its sender as `messageReceived`, by the others as `chatMessage`. A sign of writing is heard by the others only.

use super::traffic::{Kind, Pace, Traffic, What};
use super::{AT_ONCE, Target, Timing};
use crate::progress::Progress;
use crate::report::{Outcome, Report};
use crate::world::Fault;

/// The conversation that all are in.
const ROOM: u32 = 1;

/// The scenario.
#[derive(Debug, Clone, Copy)]
pub struct Fanout {
    /// Sockets in the room, those of the senders included.
    pub sockets: u32,
    /// How many of them send.
    pub senders: u32,
    /// Messages of each sender that are under way at a time; `None`: one, and the next only once everybody has it.
    pub in_flight: Option<u32>,
    /// Bytes of a message's text; `None` for signs of writing instead of messages, which go one at a time.
    pub text_bytes: Option<usize>,
}

impl Fanout {
    /// Plays it.
    pub fn run(self, target: &Target, timing: Timing) -> Result<Report, Fault> {
        let name = if self.text_bytes.is_some() {
            "fanout"
        } else {
            "typing"
        };
        if self.sockets > target.world.agents || self.senders > self.sockets {
            return Err("more sockets than agents, or more senders than sockets".into());
        }
        let mut engine = target.engine()?;
        let plans = (1..=self.sockets)
            .map(|agent| target.plan(agent as usize, agent))
            .collect::<Result<Vec<_>, _>>()?;
        let conns = engine.open_all(&plans, AT_ONCE)?;
        let join = format!("{{\"conversationId\":{ROOM}}}");
        engine.ask_all(&conns, "joinConversation", join.as_bytes(), AT_ONCE)?;

        let what = self.text_bytes.map_or(What::Typing, What::Message);
        let pace = match (what, self.in_flight) {
            (What::Message(_), Some(in_flight)) => Pace::Closed(in_flight),
            _ => Pace::OneAtATime,
        };
        let mut traffic =
            Traffic::new(what, pace, timing, target.pids.clone(), Progress::new(name));
        let senders = conns.iter().zip(1..=self.senders);
        for (conn, agent) in senders {
            traffic.sender(*conn, agent, ROOM);
        }
        for (conn, number) in conns.iter().zip(0..) {
            match what {
                What::Message(_) => traffic.listener_of_one(*conn, Kind::Message, 0..self.senders),
                // Nobody hears their own sign.
                What::Typing if number < self.senders => {
                    traffic.listener_of_others(*conn, Kind::Typing, self.senders, number);
                }
                What::Typing => traffic.listener(*conn, Kind::Typing, 0..self.senders),
            }
        }
        engine.run(&mut traffic)?;
        let outcome = Outcome::Traffic(Box::new(target.finish(&traffic)?));
        Ok(target.report(name, self.setting(), outcome))
    }

    fn setting(self) -> String {
        let senders = match self.senders {
            1 => "1 sender".to_owned(),
            senders => format!("{senders} senders"),
        };
        let pace = match (self.text_bytes, self.in_flight) {
            (Some(_), Some(in_flight)) => format!("{in_flight} in flight each"),
            _ => "one at a time each".to_owned(),
        };
        format!("{} sockets, {senders}, {pace}", self.sockets)
    }
}
