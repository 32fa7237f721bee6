//! `soak`: a day in a short time, to find what leaks, slows down or goes astray: `chat` in open loop, while other clients
//! come and go, and tokens are renewed before they end. The servers' memory is told as a row of samples.

use std::time::Duration;

use super::chat::{Chat, Load};
use super::traffic::Traffic;
use super::{AT_ONCE, Target, Timing};
use crate::machine;
use crate::net::{ConnId, Driver, Net, Plan};
use crate::report::{Outcome, Report};
use crate::world::Fault;

const SECOND: u64 = 1_000_000_000;

/// How often memory is noted.
const SAMPLE: u64 = 10 * SECOND;

/// The scenario.
#[derive(Debug, Clone, Copy)]
pub struct Soak {
    /// The traffic.
    pub conversations: u32,
    /// Messages a second.
    pub rate: f64,
    /// Bytes of a message's text.
    pub text_bytes: usize,
    /// Other clients, who are only there.
    pub bystanders: u32,
    /// How many of them leave each second, each replaced by another.
    pub churn: f64,
}

/// A sample of the servers' use.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Sample {
    /// Seconds since the connections were open.
    pub at: f64,
    /// Resident memory of all servers, in bytes.
    pub rss_bytes: u64,
    /// Their CPU time so far, in seconds.
    pub cpu_seconds: f64,
}

impl Soak {
    /// Plays it.
    pub fn run(self, target: &Target, timing: Timing) -> Result<Report, Fault> {
        let chat = Chat {
            conversations: self.conversations,
            load: Load::PerSecond(self.rate),
            text_bytes: self.text_bytes,
        };
        let world = target.world;
        let mut engine = target.engine()?;
        let traffic = chat.prepare("soak", &mut engine, target, timing)?;
        let others = world.clients.saturating_sub(self.conversations).max(1);
        let bystander = move |number: u32| world.client(self.conversations + number % others + 1);
        let mut accounts: Vec<_> = chat.accounts(target).collect();
        accounts.extend((0..self.bystanders).map(bystander));
        let plans = (0..self.bystanders)
            .map(|number| target.plan(number as usize, bystander(number)))
            .collect::<Result<Vec<_>, _>>()?;
        let present = engine.open_all(&plans, AT_ONCE)?;
        let mut soaking = Soaking {
            target,
            traffic,
            accounts,
            present: present.into(),
            bystander: Box::new(bystander),
            came: self.bystanders,
            churn: self.churn,
            end: timing,
            begun_at: 0,
            left: 0,
            samples: Vec::new(),
            failed: 0,
        };
        engine.run(&mut soaking)?;
        let mut traffic = target.finish(&soaking.traffic)?;
        traffic.connections_lost += soaking.failed;
        traffic.samples = soaking.samples;
        let setting = format!(
            "{}, {} bystanders of whom {} come and go each second",
            chat.setting(target),
            self.bystanders,
            self.churn
        );
        Ok(target.report("soak", setting, Outcome::Traffic(Box::new(traffic))))
    }
}

struct Soaking<'a> {
    target: &'a Target,
    traffic: Traffic,
    /// Of the connections 0, 1, 2 ...: those of the traffic, then the bystanders as they came.
    accounts: Vec<u32>,
    /// Bystanders, the longest there first.
    present: std::collections::VecDeque<ConnId>,
    bystander: Box<dyn Fn(u32) -> u32>,
    /// How many bystanders ever came.
    came: u32,
    churn: f64,
    end: Timing,
    begun_at: u64,
    /// How many bystanders left so far.
    left: u64,
    samples: Vec<Sample>,
    failed: u64,
}

impl Soaking<'_> {
    /// Sends away who is due, and lets others come.
    fn churn(&mut self, net: &mut Net) {
        let elapsed = Duration::from_nanos(net.now() - self.begun_at);
        if elapsed > self.end.warm_up + self.end.measure {
            return;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive and small"
        )]
        let due = (elapsed.as_secs_f64() * self.churn) as u64;
        while self.left < due {
            let Some(oldest) = self.present.pop_front() else {
                return;
            };
            net.close(oldest);
            self.left += 1;
            let account = (self.bystander)(self.came);
            let plan: Result<Plan, Fault> = self.target.plan(self.came as usize, account);
            self.came = self.came.wrapping_add(1);
            match plan.and_then(|plan| Ok(net.open(&plan)?)) {
                Ok(conn) => {
                    self.present.push_back(conn);
                    self.accounts.push(account);
                }
                Err(_) => self.failed += 1,
            }
        }
    }

    fn sample(&mut self, now: u64) {
        if now < self.begun_at + SAMPLE * self.samples.len() as u64 {
            return;
        }
        let usage = machine::usage(&self.target.pids);
        self.samples.push(Sample {
            at: Duration::from_nanos(now - self.begun_at).as_secs_f64(),
            rss_bytes: usage.rss_bytes,
            cpu_seconds: usage.cpu_seconds,
        });
    }
}

impl Driver for Soaking<'_> {
    fn event(&mut self, net: &mut Net, conn: ConnId, name: &[u8], payload: &[u8]) {
        if name == b"tokenExpiring"
            && let Some(account) = self.accounts.get(conn.0)
            && let Ok(token) = self.target.tokens.of(*account)
        {
            let payload = format!("{{\"token\":\"{token}\"}}");
            return net.send(conn, "authenticate", payload.as_bytes(), None);
        }
        self.traffic.event(net, conn, name, payload);
    }

    fn gone(&mut self, net: &mut Net, conn: ConnId, why: &str) {
        self.traffic.gone(net, conn, why);
    }

    fn alarm(&mut self, net: &mut Net) {
        if self.begun_at == 0 {
            self.begun_at = net.now();
        }
        self.churn(net);
        self.sample(net.now());
        self.traffic.alarm(net);
    }
}
