//! A chat gateway: one stateless node. `ARCHITECTURE.md` is the map of the modules below.

pub mod bus;
pub mod cluster;
pub mod listener;
pub mod realtime;
pub mod store;
