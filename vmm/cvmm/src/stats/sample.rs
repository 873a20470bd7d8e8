//! A sample, and what describes it.
//!
//! Percentiles are not `statrs`'s: its `OrderStatistics` interpolates between other ranks (R's type 8) than NumPy does by default
//! (type 7), and people compare with the latter. It has no median absolute deviation.

/// Values that can be compared: at least one, all of them finite, in ascending order.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Nothing where there is no value, or one that is no number.
    pub fn new(mut values: Vec<f64>) -> Option<Sample> {
        if values.is_empty() || !values.iter().all(|value| value.is_finite()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        Some(Sample(values))
    }

    /// In ascending order.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// Are all values the same?
    pub fn is_constant(&self) -> bool {
        self.0.first() == self.0.last()
    }

    /// The value below which this share of the values lies, by linear interpolation between ranks (NumPy's default).
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.0.len() - 1;
        let rank = share.clamp(0.0, 1.0) * last as f64;
        let below = rank.floor();
        // In range: a rank is at most the last.
        let at = (below as usize).min(last);
        let (low, high) = (self.0[at], self.0[(at + 1).min(last)]);
        low + (high - low) * (rank - below)
    }

    /// The middle value, or the mean of the middle two.
    pub fn median(&self) -> f64 {
        middle(&self.0)
    }

    /// The median of distances from the median.
    pub fn mad(&self) -> f64 {
        let median = self.median();
        let mut distances: Vec<f64> = self.0.iter().map(|value| (value - median).abs()).collect();
        distances.sort_by(f64::total_cmp);
        middle(&distances)
    }

    /// Values more than one and a half times the interquartile range outside the quartiles (Tukey, Exploratory Data Analysis, 1977).
    pub fn outliers(&self) -> Vec<f64> {
        let (low, high) = (self.quantile(0.25), self.quantile(0.75));
        let reach = 1.5 * (high - low);
        let outside = |value: &&f64| **value < low - reach || **value > high + reach;
        self.0.iter().filter(outside).copied().collect()
    }
}

/// The median of values in ascending order.
pub(super) fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[half],
        _ => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}
