//! Statistics of repeated runs: what `cvmm bench` and `cvmm compare` say of samples.
//!
//! Nothing here assumes a distribution: times of boots have a floor, a long tail and often two humps. All of it is checked against
//! SciPy, to 1e-9, on recorded and on odd samples (`tests/tests/statistics.rs`).

mod bootstrap;
mod holm;
mod normal;
mod random;
mod rank;
mod sample;

pub use bootstrap::{
    Interval, RESAMPLES, difference_interval, median_interval, resampled_differences,
    resampled_medians,
};
pub use holm::holm;
pub use random::Random;
pub use rank::{MannWhitney, cliffs_delta, mann_whitney};
pub use sample::Sample;

use serde::{Deserialize, Serialize};

/// What is told of one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many values; outliers are among them.
    pub n: usize,
    /// The smallest.
    pub min: f64,
    /// The middle.
    pub median: f64,
    /// Median distance from the median, not scaled.
    pub mad: f64,
    /// 95 % interval of the median; nothing for a single value.
    pub interval: Option<Interval>,
    /// 90 % of the values are not above it (as all percentiles here, by linear interpolation).
    pub p90: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// Values outside Tukey's fences. They count like the others.
    pub outliers: Vec<f64>,
}

impl Summary {
    /// Of this sample; the same sample always has the same interval.
    pub fn of(sample: &Sample) -> Summary {
        let values = sample.values();
        Summary {
            n: values.len(),
            min: sample.quantile(0.0),
            median: sample.median(),
            mad: sample.mad(),
            interval: median_interval(sample),
            p90: sample.quantile(0.9),
            p95: sample.quantile(0.95),
            p99: sample.quantile(0.99),
            max: sample.quantile(1.0),
            outliers: sample.outliers(),
        }
    }
}
