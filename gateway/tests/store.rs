//! The contract of `gateway::store`, one suite for both databases, and the adoption of an old system's database in each.
//! SQLite runs in a temporary file, MySQL at `TEST_MYSQL_URL`, in a database that each test makes and drops.

#![expect(clippy::unwrap_used, reason = "a test may")]

#[path = "store/harness.rs"]
mod harness;

#[path = "store/accounts.rs"]
mod accounts;
#[path = "store/adoption.rs"]
mod adoption;
#[path = "store/catch_up.rs"]
mod catch_up;
#[path = "store/conversations.rs"]
mod conversations;
#[path = "store/log.rs"]
mod log;
#[path = "store/messages.rs"]
mod messages;
#[path = "store/opening.rs"]
mod opening;
#[path = "store/schema.rs"]
mod schema;
#[path = "store/sessions.rs"]
mod sessions;
