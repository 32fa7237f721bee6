//! Connections that were told something and not written to yet. Whoever tells many connections many things puts all of it
//! in first and writes then: what one of them is told goes out in one write, and costs hardly more than one thing.

use std::sync::Arc;

use super::super::frame::Frame;
use super::super::socket::Link;
use super::Worth;

/// How many connections are written to before others get their turn: some hundred microseconds.
const AT_ONCE: usize = 64;

/// Connections that have something to be written. Dropping it writes, too.
#[derive(Debug, Default)]
pub struct Unsent {
    /// Each once: who is on somebody's list is put on no other.
    links: Vec<Arc<Link>>,
}

impl Unsent {
    /// Puts a frame into a connection's outbox, to be written with `send`.
    pub(in super::super) fn push(&mut self, link: &Arc<Link>, frame: Frame, worth: Worth) {
        if link.outbox.push_unsent(frame, worth) {
            self.links.push(Arc::clone(link));
        }
    }

    /// Writes to all of them what they were told, without waiting for any. Where they are many, tasks of their own do it, on
    /// whichever processor is free. Within a runtime only.
    pub fn send(&mut self) {
        while self.links.len() > AT_ONCE {
            let links = self.links.split_off(self.links.len() - AT_ONCE);
            tokio::spawn(async move { write(&links) });
        }
        write(&self.links);
        self.links.clear();
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        write(&self.links);
    }
}

fn write(links: &[Arc<Link>]) {
    for link in links {
        link.outbox.flush();
    }
}
