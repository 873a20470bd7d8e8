//! Do two samples differ, and by how much? By ranks alone (Mann and Whitney, 1947).
//!
//! `statrs` 0.19 has the test, and its `Exact` cannot be used: where the first sample is not the larger one it gives the complement
//! (p = 1 for 1, 2, 3 against 4, 5, 6, 7, where 2/35 is right), and it visits every combination, of which 8 runs against 100 have
//! 3.5e11.

use super::{Sample, normal};

/// What the test says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MannWhitney {
    /// How many pairs have the larger value on the first side; ties count half.
    pub u: f64,
    /// How likely a difference at least as large is, in either direction, if there is none.
    pub p: f64,
    /// Is `p` exact, or the normal approximation with corrections for ties and continuity?
    pub exact: bool,
}

/// Samples up to this size have an exact p-value, if there are no ties; as in SciPy.
const SMALL: usize = 8;

/// The test of `x` against `y`, two-sided.
pub fn mann_whitney(x: &Sample, y: &Sample) -> MannWhitney {
    let (n1, n2) = (x.values().len(), y.values().len());
    let (rank_sum, ties) = rank(x, y);
    let (n1_f, n2_f) = (n1 as f64, n2 as f64);
    let u = rank_sum - n1_f * (n1_f + 1.0) / 2.0;
    let larger = u.max(n1_f * n2_f - u);
    let small = n1.min(n2) <= SMALL && ties == 0.0;
    if let Some(tail) = small.then(|| exact_tail(n1, n2, larger)).flatten() {
        return MannWhitney { u, p: (2.0 * tail).min(1.0), exact: true };
    }
    let n = n1_f + n2_f;
    let deviation = (n1_f * n2_f / 12.0 * ((n + 1.0) - ties / (n * (n - 1.0)))).sqrt();
    let z = (larger - n1_f * n2_f / 2.0 - 0.5) / deviation;
    // Where all values are equal there is no deviation, and nothing to claim.
    let p = if deviation == 0.0 { 1.0 } else { (2.0 * normal::below(-z)).min(1.0) };
    MannWhitney { u, p, exact: false }
}

/// The sum of the ranks of `x` among all values, equal values sharing theirs, and the sum of t^3 - t over groups of t equal values.
fn rank(x: &Sample, y: &Sample) -> (f64, f64) {
    let of = |sample: &Sample, first| -> Vec<(f64, bool)> {
        sample.values().iter().map(|value| (*value, first)).collect()
    };
    let mut all = [of(x, true), of(y, false)].concat();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut sum, mut ties, mut before) = (0.0, 0.0, 0.0);
    // Equal by ==, so that 0 and -0 are.
    for group in all.chunk_by(|a, b| a.0 == b.0) {
        let size = group.len() as f64;
        let ours = group.iter().filter(|(_, first)| *first).count() as f64;
        sum += ours * (before + (size + 1.0) / 2.0);
        ties += size * (size * size - 1.0);
        before += size;
    }
    (sum, ties)
}

/// The chance that U is at least this (more than half of all pairs), from the number of arrangements for every U; nothing where they
/// are too many to count.
fn exact_tail(n1: usize, n2: usize, u: f64) -> Option<f64> {
    let (few, many) = (n1.min(n2), n1.max(n2));
    // U is a whole number without ties, and symmetric: as likely is so small a one.
    let most = n1 * n2 - u as usize;
    let mut total = 1u128;
    for i in 1..=few {
        total = total.checked_mul((many + i) as u128)? / i as u128;
    }
    // The generating function is a Gaussian binomial: the product over i of (1 - x^(many + i)) / (1 - x^i).
    let mut counts = vec![0i128; most + 1];
    counts[0] = 1;
    for i in 1..=few {
        for at in (many + i..=most).rev() {
            counts[at] -= counts[at - many - i];
        }
        for at in i..=most {
            counts[at] += counts[at - i];
        }
    }
    let tail: i128 = counts.iter().sum();
    Some(tail as f64 / total as f64)
}

/// Cliff's delta from the same U: how much more often the larger value is on the first side than on the other, from -1 to 1.
pub fn cliffs_delta(test: &MannWhitney, n1: usize, n2: usize) -> f64 {
    2.0 * test.u / (n1 as f64 * n2 as f64) - 1.0
}
