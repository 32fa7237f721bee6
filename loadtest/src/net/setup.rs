//! What comes before a measurement: connections are opened, a bounded number at a time, and rooms joined. What is heard
//! meanwhile is passed over.

use std::io;

use super::{ConnId, Driver, Engine, Net, Plan};

/// How long a step may go without any progress, in nanoseconds.
const PATIENCE: u64 = 30_000_000_000;

impl Engine {
    /// Opens connections, at most `at_once` of them under way, and returns when all are let in.
    pub fn open_all(&mut self, plans: &[Plan], at_once: usize) -> io::Result<Vec<ConnId>> {
        let mut opening = Opening {
            plans,
            next: 0,
            at_once,
            ids: Vec::with_capacity(plans.len()),
            open: 0,
            watch: Watch::default(),
        };
        if !plans.is_empty() {
            self.run(&mut opening)?;
        }
        opening.watch.result()?;
        Ok(opening.ids)
    }

    /// Sends the same event from many connections, at most `at_once` of them under way, and returns when every one has an
    /// answer that tells of success.
    pub fn ask_all(
        &mut self,
        conns: &[ConnId],
        name: &str,
        payload: &[u8],
        at_once: usize,
    ) -> io::Result<()> {
        let mut asking = Asking {
            conns,
            name,
            payload,
            at_once,
            next: 0,
            answered: 0,
            watch: Watch::default(),
        };
        if !conns.is_empty() {
            self.run(&mut asking)?;
        }
        asking.watch.result()
    }
}

/// Ends a step that fails or stands still.
#[derive(Default)]
struct Watch {
    seen: usize,
    since: u64,
    failure: Option<String>,
}

impl Watch {
    fn fail(&mut self, net: &mut Net, why: String) {
        self.failure.get_or_insert(why);
        net.stop();
    }

    fn look(&mut self, net: &mut Net, progress: usize) {
        if progress != self.seen || self.since == 0 {
            self.seen = progress;
            self.since = net.now();
        }
        if net.now() > self.since + PATIENCE {
            let why = format!("no progress for 30 s after {progress} connections");
            return self.fail(net, why);
        }
        net.wake_at(net.now() + PATIENCE / 30);
    }

    fn result(self) -> io::Result<()> {
        self.failure
            .map_or(Ok(()), |why| Err(io::Error::other(why)))
    }
}

struct Opening<'a> {
    plans: &'a [Plan],
    next: usize,
    at_once: usize,
    ids: Vec<ConnId>,
    open: usize,
    watch: Watch,
}

impl Opening<'_> {
    fn go_on(&mut self, net: &mut Net) {
        while self.next < self.plans.len() && self.next - self.open < self.at_once {
            match net.open(&self.plans[self.next]) {
                Ok(conn) => self.ids.push(conn),
                Err(error) => return self.watch.fail(net, error.to_string()),
            }
            self.next += 1;
        }
    }
}

impl Driver for Opening<'_> {
    fn opened(&mut self, net: &mut Net, _conn: ConnId) {
        self.open += 1;
        if self.open == self.plans.len() {
            return net.stop();
        }
        self.go_on(net);
    }

    fn gone(&mut self, net: &mut Net, conn: ConnId, why: &str) {
        let why = format!(
            "connection {}, after {} were let in: {why}",
            conn.0, self.open
        );
        self.watch.fail(net, why);
    }

    fn alarm(&mut self, net: &mut Net) {
        self.go_on(net);
        self.watch.look(net, self.open);
    }
}

struct Asking<'a> {
    conns: &'a [ConnId],
    name: &'a str,
    payload: &'a [u8],
    at_once: usize,
    next: usize,
    answered: usize,
    watch: Watch,
}

impl Asking<'_> {
    fn go_on(&mut self, net: &mut Net) {
        while self.next < self.conns.len() && self.next - self.answered < self.at_once {
            net.send(self.conns[self.next], self.name, self.payload, Some(1));
            self.next += 1;
        }
    }
}

impl Driver for Asking<'_> {
    fn answer(&mut self, net: &mut Net, _conn: ConnId, _id: u64, payload: &[u8]) {
        if memchr::memmem::find(payload, b"\"success\":true").is_none() {
            let why = format!("{}: {}", self.name, String::from_utf8_lossy(payload));
            return self.watch.fail(net, why);
        }
        self.answered += 1;
        if self.answered == self.conns.len() {
            return net.stop();
        }
        self.go_on(net);
    }

    fn gone(&mut self, net: &mut Net, conn: ConnId, why: &str) {
        self.watch
            .fail(net, format!("connection {}: {why}", conn.0));
    }

    fn alarm(&mut self, net: &mut Net) {
        self.go_on(net);
        self.watch.look(net, self.answered);
    }
}
