//! The contract of `gateway::store`, one suite for both databases, and the adoption of an old system's database in each.
//! SQLite runs in a temporary file, MySQL at `TEST_MYSQL_URL`, in a database that each test makes and drops.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "../mariadb_server/mod.rs"]
#[expect(dead_code, reason = "what only the suite of overload needs")]
mod mariadb_server;

mod harness;

mod accounts;
mod adoption;
mod archive;
mod backup;
mod catch_up;
mod commits;
mod contention;
mod conversations;
mod link;
mod log;
mod messages;
mod opening;
mod optimize;
mod schema;
mod servers;
mod sessions;
