//! How long something takes, in buckets.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Spent;

/// Upper bounds of the buckets, in microseconds, and as Prometheus has them, in seconds. A process in a running sandbox starts within some
/// milliseconds, an emulated machine within some seconds.
const BOUNDS: [(u64, &str); 13] = [
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (10_000_000, "10"),
    (60_000_000, "60"),
];

/// Counts by time.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Of each bucket alone; what is longer than all bounds is in `longer`.
    within: [AtomicU64; BOUNDS.len()],
    longer: AtomicU64,
    sum: Spent,
}

impl Histogram {
    /// One that took so long.
    pub fn observe(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().zip(&self.within).find(|((bound, _), _)| micros <= *bound);
        bucket.map_or(&self.longer, |(_, count)| count).fetch_add(1, Ordering::Relaxed);
        self.sum.add(time);
    }

    /// Writes its samples.
    pub(super) fn write(&self, name: &str, to: &mut String) {
        let mut count = 0;
        // Writing to a string does not fail.
        for ((_, bound), within) in BOUNDS.iter().zip(&self.within) {
            count += within.load(Ordering::Relaxed);
            let _ = writeln!(to, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        count += self.longer.load(Ordering::Relaxed);
        let _ = write!(
            to,
            "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {}\n{name}_count {count}\n",
            self.sum.seconds()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_all_that_is_shorter() {
        let histogram = Histogram::default();
        for millis in [1, 3, 4, 700, 70_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut page = String::new();
        histogram.write("a_seconds", &mut page);
        for line in [
            "a_seconds_bucket{le=\"0.001\"} 1",
            "a_seconds_bucket{le=\"0.0025\"} 1",
            "a_seconds_bucket{le=\"0.005\"} 3",
            "a_seconds_bucket{le=\"1\"} 4",
            "a_seconds_bucket{le=\"60\"} 4",
            "a_seconds_bucket{le=\"+Inf\"} 5",
            "a_seconds_sum 70.708000",
            "a_seconds_count 5",
        ] {
            assert!(page.lines().any(|it| it == line), "no {line} in {page}");
        }
    }
}
