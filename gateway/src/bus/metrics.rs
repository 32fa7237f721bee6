//! What the buses count: their metrics' names, and the one place that writes each. Descriptions for `/metrics` are the
//! telemetry's.

use std::time::Duration;

use super::PublishOutcome;

/// Counter: envelopes that went out.
pub const PUBLISHED: &str = "chat_bus_published_total";
/// Counter: envelopes that came before their elder.
pub const PARKED: &str = "chat_bus_parked_total";
/// Histogram, seconds: one `publish` call.
pub const PUBLISH_SECONDS: &str = "chat_bus_publish_seconds";
/// Counter: times the subscription link was lost and came back.
pub const INTERRUPTIONS: &str = "chat_bus_interruptions_total";
/// Histogram, seconds: from the publisher's call to this node's ear. Between machines it holds their clocks' difference.
pub const LAG_SECONDS: &str = "chat_bus_lag_seconds";

/// Counter: envelopes that this node had missed and handed on later. Also the relay's, for those from the database.
pub const REPLAYED: &str = "chat_bus_replayed_total";
/// Counter: gaps in what this node heard, by `filled_by`: `history` or `database`.
pub const GAPS: &str = "chat_bus_gaps_total";

pub(super) fn published(outcomes: &[PublishOutcome], took: Duration) {
    let count = |wanted: PublishOutcome| {
        outcomes
            .iter()
            .filter(|&&outcome| outcome == wanted)
            .count() as u64
    };
    metrics::counter!(PUBLISHED).increment(count(PublishOutcome::Published));
    metrics::counter!(PARKED).increment(count(PublishOutcome::Parked));
    metrics::histogram!(PUBLISH_SECONDS).record(took.as_secs_f64());
}

pub(super) fn interrupted() {
    metrics::counter!(INTERRUPTIONS).increment(1);
}

pub(super) fn replayed() {
    metrics::counter!(REPLAYED).increment(1);
}

/// The history reached back.
pub(super) fn gap_filled() {
    metrics::counter!(GAPS, "filled_by" => "history").increment(1);
}

pub(super) fn lagged(lag: Duration) {
    metrics::histogram!(LAG_SECONDS).record(lag.as_secs_f64());
}
