//! The REST side against the real router, over SQLite, on one node. Every answer that any of these tests gets is also held
//! against the OpenAPI document: status, code and shape must be what the document says.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod accounts;
mod conversations;
mod document;
mod envelope;
mod every_call;
mod health;
mod messages;
mod schema;
mod world;
