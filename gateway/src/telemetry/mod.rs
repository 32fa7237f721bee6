//! What the operator sees: the log, the metrics and the traces. Every metric's name and help stand in `metrics`; what is counted or
//! logged, and when, is the business of the modules that do it.

pub mod exporter;
pub mod log;
pub mod metrics;
pub mod pool;
mod process;
pub mod trace;
