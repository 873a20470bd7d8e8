//! Intervals by resampling: bias-corrected and accelerated (Efron: Better Bootstrap Confidence Intervals, 1987; Efron and
//! Tibshirani: An Introduction to the Bootstrap, 1993, sections 14.3 and 15.4). No maintained crate has them.

use serde::{Deserialize, Serialize};

use super::sample::middle;
use super::{Random, Sample, normal};

/// How often a sample is drawn again.
pub const RESAMPLES: usize = 10_000;
/// Where the generator starts for every interval: the same sample has the same interval, whenever and wherever it is computed.
const SEED: u64 = 0x6376_6d6d_0000_0001;
/// How much lies outside on either side.
const ALPHA: f64 = 0.025;

/// Both ends of a 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Interval {
    /// Is there a real difference, as far as one interval can tell?
    pub fn excludes(&self, value: f64) -> bool {
        value < self.low || value > self.high
    }
}

/// The medians of samples drawn from this one, with replacement; in the order of drawing.
pub fn resampled_medians(sample: &Sample) -> Vec<f64> {
    draw(&mut Random::seeded(SEED), sample)
}

/// The medians of samples drawn from `y` minus those of samples drawn from `x`.
pub fn resampled_differences(x: &Sample, y: &Sample) -> Vec<f64> {
    let mut random = Random::seeded(SEED);
    let (of_x, of_y) = (draw(&mut random, x), draw(&mut random, y));
    of_x.iter().zip(&of_y).map(|(x, y)| y - x).collect()
}

/// The interval of the median. One value says nothing of how it would vary.
pub fn median_interval(sample: &Sample) -> Option<Interval> {
    if sample.values().len() < 2 {
        return None;
    }
    // Every resample has the same median then.
    if sample.is_constant() {
        let median = sample.median();
        return Some(Interval { low: median, high: median });
    }
    bca(sample.median(), resampled_medians(sample), &[left_out(sample, |median| median)])
}

/// The interval of the median of `y` minus that of `x`.
pub fn difference_interval(x: &Sample, y: &Sample) -> Option<Interval> {
    if x.values().len() < 2 || y.values().len() < 2 {
        return None;
    }
    let (of_x, of_y) = (x.median(), y.median());
    if x.is_constant() && y.is_constant() {
        return Some(Interval { low: of_y - of_x, high: of_y - of_x });
    }
    let without = [left_out(x, |median| of_y - median), left_out(y, |median| median - of_x)];
    bca(of_y - of_x, resampled_differences(x, y), &without)
}

fn draw(random: &mut Random, sample: &Sample) -> Vec<f64> {
    let values = sample.values();
    let mut drawn = vec![0.0; values.len()];
    (0..RESAMPLES)
        .map(|_| {
            drawn.iter_mut().for_each(|value| *value = values[random.below(values.len())]);
            drawn.sort_unstable_by(f64::total_cmp);
            middle(&drawn)
        })
        .collect()
}

/// The statistic of a sample without each of its values in turn.
fn left_out(sample: &Sample, statistic: impl Fn(f64) -> f64) -> Vec<f64> {
    let values = sample.values();
    let without = |at: usize| [&values[..at], &values[at + 1..]].concat();
    (0..values.len()).map(|at| statistic(middle(&without(at)))).collect()
}

/// `left_out` has, for each sample that went into the statistic, its values without one of that sample's.
fn bca(statistic: f64, drawn: Vec<f64>, left_out: &[Vec<f64>]) -> Option<Interval> {
    // Where among the resamples the statistic itself lies; ties count half.
    let below = drawn.iter().filter(|value| **value < statistic).count();
    let up_to = drawn.iter().filter(|value| **value <= statistic).count();
    let bias = normal::quantile((below + up_to) as f64 / (2 * drawn.len()) as f64);
    let acceleration = acceleration(left_out);
    let drawn = Sample::new(drawn)?;
    let end = |z: f64| {
        let shifted = bias + z;
        let share = normal::below(bias + shifted / (1.0 - acceleration * shifted));
        share.is_finite().then(|| drawn.quantile(share))
    };
    Some(Interval { low: end(normal::quantile(ALPHA))?, high: end(-normal::quantile(ALPHA))? })
}

/// How the statistic's deviation changes with its value. Where no value alone moves the statistic (medians of many equal values)
/// there is nothing to correct: it is 0, and the interval is the bias-corrected one.
fn acceleration(left_out: &[Vec<f64>]) -> f64 {
    let (mut cubes, mut squares) = (0.0, 0.0);
    for values in left_out {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let influence = values.iter().map(|value| (n - 1.0) * (mean - value));
        cubes += influence.clone().map(|u| u.powi(3)).sum::<f64>() / n.powi(3);
        squares += influence.map(|u| u.powi(2)).sum::<f64>() / n.powi(2);
    }
    if squares == 0.0 { 0.0 } else { cubes / 6.0 / squares.powf(1.5) }
}
