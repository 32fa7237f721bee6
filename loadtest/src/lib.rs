//! A load generator for the chat gateway and for servers that speak as it does. What it sends it knows again, so its
//! counts are exact; see README.md beside this crate.

pub mod bench;
pub mod cli;
pub mod latency;
pub mod ledger;
pub mod limits;
pub mod machine;
pub mod net;
pub mod progress;
pub mod report;
pub mod scale;
pub mod scenario;
pub mod stamp;
pub mod world;
