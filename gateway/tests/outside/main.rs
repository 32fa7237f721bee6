//! Connections to the outside, each against a real server that is set up that way: TLS and ACL users of Redis, TLS of MySQL, a
//! replica in real replication. Settings by themselves are tested beside `config`.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

#[path = "../mariadb_server/mod.rs"]
mod mariadb_server;
#[path = "../redis_server/mod.rs"]
#[expect(dead_code, reason = "what only the bus's suite needs")]
mod redis_server;

#[path = "../store/harness.rs"]
#[expect(dead_code, reason = "the suite of the store uses all of it")]
mod harness;

mod certificates;
mod mysql;
mod node;
mod redis_acl;
mod redis_tls;
mod replica;
