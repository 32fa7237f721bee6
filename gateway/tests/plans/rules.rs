//! What counts as a wrong way, and the few that are right all the same, each with its reason.

use std::cell::Cell;
use std::fmt;

/// A statement that takes a wrong way.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) statement: String,
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin: String = self.statement.chars().take(400).collect();
        write!(f, "{}\n    in {begin}", self.what)
    }
}

/// A way that is allowed to a statement.
pub(crate) struct Exception {
    /// What the statement's text has. All of it.
    pub(crate) statement: &'static [&'static str],
    /// What the finding's text has.
    pub(crate) what: &'static str,
    #[expect(dead_code, reason = "for who reads it")]
    pub(crate) why: &'static str,
    pub(crate) used: Cell<bool>,
}

impl Exception {
    pub(crate) const fn new(
        statement: &'static [&'static str],
        what: &'static str,
        why: &'static str,
    ) -> Self {
        Self {
            statement,
            what,
            why,
            used: Cell::new(false),
        }
    }

    fn covers(&self, finding: &Finding) -> bool {
        finding.what.contains(self.what)
            && self
                .statement
                .iter()
                .all(|part| finding.statement.contains(part))
    }
}

/// Those findings that no exception covers.
pub(crate) fn not_excepted(findings: Vec<Finding>, exceptions: &[Exception]) -> Vec<Finding> {
    findings
        .into_iter()
        .filter(|finding| {
            let covering: Vec<_> = exceptions.iter().filter(|e| e.covers(finding)).collect();
            for exception in &covering {
                exception.used.set(true);
            }
            covering.is_empty()
        })
        .collect()
}

/// An exception that nothing needs any more hides what comes next: it must go.
pub(crate) fn assert_all_used(exceptions: &[Exception]) {
    for exception in exceptions {
        let (statement, what) = (exception.statement, exception.what);
        assert!(exception.used.get(), "nothing needs {statement:?}: {what}");
    }
}
