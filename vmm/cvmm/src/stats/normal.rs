//! The standard normal distribution.
//!
//! Its quantiles are `statrs`'s; probabilities come from `libm`, because `statrs` 0.19 has them only to 4e-11, which the end of an
//! interval between two distant resamples does not hold out at 1e-9.

use std::f64::consts::SQRT_2;

use statrs::distribution::{ContinuousCDF, Normal};

/// How likely a value up to this is.
pub fn below(z: f64) -> f64 {
    libm::erfc(-z / SQRT_2) / 2.0
}

/// The value below which lies this share, which is between 0 and 1.
pub fn quantile(share: f64) -> f64 {
    Normal::standard().inverse_cdf(share)
}
