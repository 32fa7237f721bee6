//! Which way each database takes to what the store asks of it on a request's path: no statement reads a whole table, and none
//! sorts what an index has in order. The statements are not listed here: the server's log (MySQL) and the driver's
//! (SQLite) say what was asked while every call of the store is made, over tables large and uneven enough that a wrong way
//! shows. Each index that a statement needs is dropped once, too, and must be missed.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "../store/harness.rs"]
#[expect(dead_code, reason = "the suite of the store uses all of it")]
mod harness;
#[path = "../mariadb_server/mod.rs"]
#[expect(dead_code, reason = "what only suites of faults need")]
mod mariadb_server;

mod calls;
mod crowd;
mod mysql;
mod rules;
mod sqlite;

use crate::rules::Finding;

/// Fails with all that was found, unless it is nothing.
fn assert_none(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "\n{}", lines.join("\n"));
}
