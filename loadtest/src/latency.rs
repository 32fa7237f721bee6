//! How long things took: histograms (HdrHistogram) in, a few percentiles out.

use hdrhistogram::Histogram;

/// The longest time that is told apart from longer ones, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// Times, each recorded to three digits.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

/// What is told of a histogram. Times in milliseconds; all 0 where there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Percentiles {
    /// How many times were recorded.
    pub count: u64,
    /// The least.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// Half took no longer.
    pub p50: f64,
    /// 90 of 100 took no longer.
    pub p90: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// 999 of 1,000 took no longer.
    pub p999: f64,
    /// The most.
    pub max: f64,
}

impl Latencies {
    /// Empty.
    pub fn new() -> Self {
        let bounded = Histogram::new_with_bounds(1, LONGEST_US, 3);
        #[expect(
            clippy::expect_used,
            reason = "the bounds are constants that hdrhistogram accepts"
        )]
        Self(bounded.expect("valid bounds"))
    }

    /// Adds a time in nanoseconds.
    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record((nanos / 1_000).max(1));
    }

    /// Takes in another's times.
    pub fn add(&mut self, other: &Self) {
        // Both have the same bounds, so none is refused.
        let added = self.0.add(&other.0);
        debug_assert!(added.is_ok(), "{added:?}");
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// What they come to.
    pub fn percentiles(&self) -> Percentiles {
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let ms = |us: u64| us as f64 / 1_000.0;
        if self.0.is_empty() {
            return Percentiles::default();
        }
        Percentiles {
            count: self.0.len(),
            min: ms(self.0.min()),
            mean: self.0.mean() / 1_000.0,
            p50: ms(self.0.value_at_quantile(0.50)),
            p90: ms(self.0.value_at_quantile(0.90)),
            p99: ms(self.0.value_at_quantile(0.99)),
            p999: ms(self.0.value_at_quantile(0.999)),
            max: ms(self.0.max()),
        }
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_milliseconds() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.percentiles(), Percentiles::default());
        for ms in 1..=1_000 {
            latencies.record(ms * 1_000_000);
        }
        let told = latencies.percentiles();
        let near = |value: f64, wanted: f64| (value / wanted - 1.0).abs() < 0.002;
        assert_eq!(told.count, 1_000);
        assert!(near(told.p50, 500.0), "{told:?}");
        assert!(near(told.p99, 990.0), "{told:?}");
        assert!(near(told.max, 1_000.0), "{told:?}");
        latencies.clear();
        assert_eq!(latencies.percentiles().count, 0);
    }

    #[test]
    fn what_takes_for_ever_is_kept_as_the_longest() {
        let mut latencies = Latencies::new();
        latencies.record(u64::MAX);
        assert!(latencies.percentiles().max >= 59_000.0);
    }
}
