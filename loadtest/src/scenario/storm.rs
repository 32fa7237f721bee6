//! `storm`: everybody comes at once, as after the loss of a node. Waves of connections; a wave ends when all are let in,
//! and leaves before the next. The first wave warms up.

use std::time::Duration;

use super::Target;
use crate::latency::Latencies;
use crate::machine;
use crate::net::{ConnId, Driver, Net, Plan};
use crate::progress::Progress;
use crate::report::{self, Outcome, Report};
use crate::world::Fault;

/// How long servers get between waves to see that a wave has left.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a wave may go without anybody being let in, in nanoseconds.
const PATIENCE: u64 = 10_000_000_000;

/// The scenario.
#[derive(Debug, Clone, Copy)]
pub struct Storm {
    /// Connections of a wave; each is another client's while there are as many.
    pub connections: u32,
    /// How many are under way at a time.
    pub at_once: usize,
    /// Waves, the first included.
    pub waves: u32,
}

impl Storm {
    /// Plays it.
    pub fn run(self, target: &Target) -> Result<Report, Fault> {
        let world = target.world;
        let plans = (0..self.connections)
            .map(|number| target.plan(number as usize, world.client(number % world.clients + 1)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut progress = Progress::new("storm");
        let mut opened = Latencies::new();
        let mut rates = Vec::new();
        let (mut failed, mut server_cpu, mut own_cpu, mut seconds) = (0, 0.0, 0.0, 0.0);
        for number in 0..self.waves.max(2) {
            let before = (machine::usage(&target.pids), machine::own_usage());
            // A new loop for each wave: dropping it closes the wave's connections.
            let mut engine = target.engine()?;
            let mut wave = Wave::new(&plans, self.at_once);
            engine.run(&mut wave)?;
            let after = (machine::usage(&target.pids), machine::own_usage());
            let rate = wave.rate();
            progress.say(&format!(
                "wave {number}: {rate:.0} connects/s, {} failed",
                wave.failed
            ));
            if number > 0 {
                rates.push(rate);
                opened.add(&wave.opened);
                server_cpu += after.0.cpu_seconds - before.0.cpu_seconds;
                own_cpu += after.1.cpu_seconds - before.1.cpu_seconds;
                seconds += wave.seconds();
            }
            failed += wave.failed;
            drop(engine);
            std::thread::sleep(PAUSE);
        }
        let mut sorted = rates.clone();
        sorted.sort_by(f64::total_cmp);
        let connections = f64::from(self.connections) * f64::from(self.waves.max(2) - 1);
        let outcome = report::Storm {
            connections: plans.len(),
            at_once: self.at_once,
            connects_per_second: sorted[sorted.len() / 2],
            waves: rates,
            opened_ms: opened.percentiles(),
            server_cpu_ms_per_thousand: server_cpu * 1e6 / connections,
            generator_busy: own_cpu / seconds,
            failed,
        };
        let setting = format!("{} connections at once", self.connections);
        Ok(target.report("storm", setting, Outcome::Storm(outcome)))
    }
}

struct Wave<'a> {
    plans: &'a [Plan],
    at_once: usize,
    next: usize,
    open: usize,
    failed: u64,
    /// By connection: when it was begun.
    begun: Vec<u64>,
    opened: Latencies,
    first_at: u64,
    last_at: u64,
}

impl<'a> Wave<'a> {
    fn new(plans: &'a [Plan], at_once: usize) -> Self {
        Self {
            plans,
            at_once,
            next: 0,
            open: 0,
            failed: 0,
            begun: Vec::with_capacity(plans.len()),
            opened: Latencies::new(),
            first_at: 0,
            last_at: 0,
        }
    }

    fn done(&self) -> usize {
        self.open + usize::try_from(self.failed).unwrap_or(usize::MAX)
    }

    fn go_on(&mut self, net: &mut Net) {
        while self.next < self.plans.len() && self.next - self.done() < self.at_once {
            let plan = &self.plans[self.next];
            self.next += 1;
            match net.open(plan) {
                Ok(_) => self.begun.push(net.now()),
                Err(_) => self.failed += 1,
            }
        }
        if self.done() == self.plans.len() {
            net.stop();
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    fn seconds(&self) -> f64 {
        (self.last_at - self.first_at) as f64 / 1e9
    }

    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    fn rate(&self) -> f64 {
        if self.open == 0 {
            return 0.0;
        }
        self.open as f64 / self.seconds()
    }
}

impl Driver for Wave<'_> {
    fn opened(&mut self, net: &mut Net, conn: ConnId) {
        self.open += 1;
        self.last_at = net.now();
        self.opened.record(net.now() - self.begun[conn.0]);
        self.go_on(net);
    }

    fn gone(&mut self, net: &mut Net, _conn: ConnId, _why: &str) {
        self.failed += 1;
        self.go_on(net);
    }

    fn alarm(&mut self, net: &mut Net) {
        let now = net.now();
        if self.first_at == 0 {
            (self.first_at, self.last_at) = (now, now);
        }
        self.go_on(net);
        if now > self.last_at + PATIENCE {
            self.failed += (self.next - self.done()) as u64;
            return net.stop();
        }
        net.wake_at(now + PATIENCE / 10);
    }
}
