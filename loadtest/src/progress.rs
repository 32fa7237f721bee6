//! The line that tells how a run is going: one that is written over on a terminal, one after another elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::Instant;

/// Tells of one run, on the standard error.
#[derive(Debug)]
pub struct Progress {
    name: String,
    begun: Instant,
    rewrites: bool,
    has_said: bool,
}

impl Progress {
    /// Of a run with this name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            begun: Instant::now(),
            rewrites: stderr().is_terminal(),
            has_said: false,
        }
    }

    /// How it is going.
    pub fn say(&mut self, line: &str) {
        let seconds = self.begun.elapsed().as_secs();
        let (before, after) = if self.rewrites {
            ("\r\x1b[K", "")
        } else {
            ("", "\n")
        };
        // Where nobody can be told, nobody misses it.
        let _ = write!(
            stderr(),
            "{before}{} {seconds:>3} s {line}{after}",
            self.name
        );
        let _ = stderr().flush();
        self.has_said = true;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.rewrites && self.has_said {
            let _ = writeln!(stderr());
        }
    }
}
