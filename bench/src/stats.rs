//! Medians, percentiles and how a series of measurements is written down.

/// Measurements of one quantity on one side, in one unit.
#[derive(Debug, Clone, Default)]
pub struct Series(Vec<f64>);

impl Series {
    /// Adds one measurement.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Number of measurements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The middle value; 0 when nothing was measured.
    pub fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    /// The value below which `p` per cent of the measurements lie, by linear interpolation.
    pub fn percentile(&self, p: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
        let position = (p / 100.0).clamp(0.0, 1.0) * last as f64;
        // The two neighbours of that place, found by counting, since a float has no checked conversion to an index.
        let below = (0..=last).rfind(|&index| index as f64 <= position).unwrap_or(0);
        let at = |index: usize| sorted.get(index.min(last)).copied().unwrap_or(0.0);
        let fraction = position - below as f64;
        at(below) * (1.0 - fraction) + at(below + 1) * fraction
    }

    /// The tenth and the ninetieth percentile: the spread that the report shows.
    pub fn spread(&self) -> (f64, f64) {
        (self.percentile(10.0), self.percentile(90.0))
    }
}

/// `a / b`, or NaN when there is nothing to divide by.
pub fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { f64::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate() {
        let mut series = Series::default();
        for value in [4.0, 1.0, 3.0, 2.0] {
            series.push(value);
        }
        assert_eq!(series.median(), 2.5);
        assert_eq!(series.percentile(0.0), 1.0);
        assert_eq!(series.percentile(100.0), 4.0);
        assert_eq!(Series::default().median(), 0.0);
    }
}
