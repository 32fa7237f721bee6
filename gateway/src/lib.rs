//! A chat gateway: one stateless node. `ARCHITECTURE.md` is the map of the modules below.

pub mod api;
pub mod app;
pub mod auth;
pub mod bus;
pub mod chat;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod failure;
pub mod gate;
pub mod hub;
pub mod listener;
pub mod realtime;
pub mod relay;
pub mod session;
pub mod store;
pub mod telemetry;
