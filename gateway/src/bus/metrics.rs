//! What the buses count, and the one place that writes each. Names and help are the telemetry's.

use std::time::Duration;

use metrics::{Histogram, counter, histogram};

use super::PublishOutcome;
use crate::telemetry::metrics as names;

/// One `publish` call, and what became of its envelopes.
pub(super) fn published(outcomes: &[PublishOutcome], took: Duration) {
    let count = |wanted: PublishOutcome| {
        outcomes
            .iter()
            .filter(|&&outcome| outcome == wanted)
            .count() as u64
    };
    counter!(names::BUS_PUBLISHED).increment(count(PublishOutcome::Published));
    counter!(names::BUS_PARKED).increment(count(PublishOutcome::Parked));
    histogram!(names::BUS_PUBLISH).record(took.as_secs_f64());
}

/// The subscription link was lost and came back.
pub(super) fn interrupted() {
    counter!(names::BUS_INTERRUPTIONS).increment(1);
}

/// An envelope that this node had missed was handed on later.
pub(super) fn replayed() {
    counter!(names::BUS_REPLAYED).increment(1);
}

/// The history reached back.
pub(super) fn gap_filled() {
    counter!(names::BUS_GAPS, "filled_by" => "history").increment(1);
}

/// Where each envelope's lag is written.
pub(super) fn lag() -> Histogram {
    histogram!(names::BUS_LAG)
}
