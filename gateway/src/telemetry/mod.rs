//! What the operator sees: the log and the metrics. Every metric's name and help stand in `metrics`; what is counted,
//! and when, is the business of the modules that count.

pub mod metrics;
