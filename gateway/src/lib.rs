//! A chat gateway: one stateless node. `ARCHITECTURE.md` is the map of the modules below.

pub mod api;
pub mod auth;
pub mod bus;
pub mod chat;
pub mod client_address;
pub mod cluster;
pub mod config;
pub mod failure;
pub mod realtime;
pub mod store;
pub mod telemetry;
