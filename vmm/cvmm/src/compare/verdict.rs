//! One figure on two sides: how far apart, and whether that is more than chance.

use serde::Serialize;

use crate::figures::Clock;
use crate::stats::{Interval, Sample, cliffs_delta, difference_interval, holm, mann_whitney};

/// The chance of a false claim that is taken.
pub const ALPHA: f64 = 0.05;

/// One of the two.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its values.
    pub sample: &'a Sample,
    /// Are equal runs equal here, to the last digit, but for what is measured?
    pub deterministic: bool,
    /// softkvm's profile.
    pub profile: Option<&'a str>,
}

/// What can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All values are the same.
    Equal,
    /// Each side has one value in every run, and they are not the same.
    DiffersExactly,
    /// More than chance, and more than this host's noise.
    Differs,
    /// More than chance, and less than the same cell differs from itself.
    BelowNoise,
    /// Chance does it as well.
    NotShown,
    /// So few runs cannot show anything.
    TooFew,
}

impl Verdict {
    /// The same, if the difference is not above the noise floor.
    pub fn below_noise(self) -> Verdict {
        if self == Verdict::Differs { Verdict::BelowNoise } else { self }
    }

    /// In tables.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Equal => "equal",
            Verdict::DiffersExactly => "differs, in every run by the same",
            Verdict::Differs => "differs",
            Verdict::BelowNoise => "below the noise floor",
            Verdict::NotShown => "no difference shown",
            Verdict::TooFew => "too few runs to tell",
        }
    }
}

/// A figure of `b` against that of `a`.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Its name.
    pub figure: String,
    /// What it is.
    pub label: String,
    /// Its clock.
    pub clock: Clock,
    /// Its unit.
    pub unit: String,
    /// The first side.
    pub a: String,
    /// The other.
    pub b: String,
    /// Values on the first side.
    pub n_a: usize,
    /// Values on the other.
    pub n_b: usize,
    /// The first side's median.
    pub median_a: f64,
    /// The other's.
    pub median_b: f64,
    /// The difference of the medians.
    pub difference: f64,
    /// Its 95 % interval.
    pub interval: Option<Interval>,
    /// The other's median by the first one's.
    pub ratio: Option<f64>,
    /// Mann-Whitney's U of the first side.
    pub u: f64,
    /// Its p-value, two-sided.
    pub p: f64,
    /// Is it exact?
    pub exact: bool,
    /// Corrected for the number of comparisons of this figure.
    pub p_holm: f64,
    /// Cliff's delta: how much more often the larger value is on the other side.
    pub delta: f64,
    /// Is it the same cell twice?
    pub a_a: bool,
    /// The most that the same cell differs from itself: half of the widest such interval.
    pub noise_floor: Option<f64>,
    /// Of a modelled figure, both profiles where they are not the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiles: Option<[String; 2]>,
    /// What all this comes to.
    pub verdict: Verdict,
}

impl Comparison {
    /// Of two samples; [`adjust`] completes it.
    pub fn of(
        figure: &str,
        label: &str,
        clock: Clock,
        unit: &str,
        a: &Side,
        b: &Side,
    ) -> Comparison {
        let test = mann_whitney(a.sample, b.sample);
        let (n_a, n_b) = (a.sample.values().len(), b.sample.values().len());
        let (median_a, median_b) = (a.sample.median(), b.sample.median());
        let constant = a.sample.is_constant() && b.sample.is_constant();
        let exactly = clock != Clock::Measured && a.deterministic && b.deterministic;
        let verdict = match constant {
            true if median_a == median_b && (exactly || n_a.min(n_b) > 1) => Verdict::Equal,
            true if exactly => Verdict::DiffersExactly,
            _ => Verdict::NotShown,
        };
        Comparison {
            figure: figure.to_owned(),
            label: label.to_owned(),
            clock,
            unit: unit.to_owned(),
            a: a.name.to_owned(),
            b: b.name.to_owned(),
            n_a,
            n_b,
            median_a,
            median_b,
            difference: median_b - median_a,
            interval: difference_interval(a.sample, b.sample),
            ratio: (median_a != 0.0).then(|| median_b / median_a),
            u: test.u,
            p: test.p,
            exact: test.exact,
            p_holm: test.p,
            // Not negated: 0 would become -0.
            delta: 0.0 - cliffs_delta(&test, n_a, n_b),
            a_a: false,
            noise_floor: None,
            profiles: a
                .profile
                .zip(b.profile)
                .filter(|(a, b)| clock == Clock::Modelled && a != b)
                .map(|(a, b)| [a.to_owned(), b.to_owned()]),
            verdict,
        }
    }
}

/// Corrects the p-values of a family, and judges.
pub fn adjust(family: &mut [Comparison], noise: Option<f64>) {
    // The same cell twice is no claim; it says what a claim has to be above.
    // What is equal, or differs by the same in every run, needs no test.
    let open = |c: &Comparison| !c.a_a && c.verdict == Verdict::NotShown;
    let claims = || family.iter().enumerate().filter(|(_, c)| open(c));
    let p_values: Vec<f64> = claims().map(|(_, c)| c.p).collect();
    let places: Vec<usize> = claims().map(|(at, _)| at).collect();
    for (at, p) in places.into_iter().zip(holm(&p_values)) {
        family[at].p_holm = p;
    }
    family.iter_mut().filter(|c| !c.a_a).for_each(|c| c.noise_floor = noise);
    for comparison in family {
        if comparison.verdict == Verdict::NotShown {
            comparison.verdict = judge(comparison, p_values.len());
        }
    }
}

fn judge(comparison: &Comparison, claims: usize) -> Verdict {
    if comparison.p_holm < ALPHA {
        let below =
            comparison.noise_floor.is_some_and(|floor| comparison.difference.abs() <= floor);
        return if below { Verdict::BelowNoise } else { Verdict::Differs };
    }
    if least_p(comparison.n_a, comparison.n_b) * claims.max(1) as f64 >= ALPHA {
        return Verdict::TooFew;
    }
    Verdict::NotShown
}

/// The p-value of samples that do not overlap at all: two of all arrangements are as far apart.
fn least_p(n_a: usize, n_b: usize) -> f64 {
    let few = n_a.min(n_b);
    let arrangements = (1..=few).map(|i| (n_a + n_b - few + i) as f64 / i as f64).product::<f64>();
    2.0 / arrangements
}
