//! Order statistics of samples, and numbers that look like chance but are the same in every run.

/// What a report says of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The smallest.
    pub min: u64,
    /// The smallest that half of the samples do not exceed, and so on.
    pub p50: u64,
    /// See above.
    pub p90: u64,
    /// See above.
    pub p99: u64,
    /// The largest.
    pub max: u64,
}

impl Summary {
    /// Sorts the samples; `None` if there are none.
    pub fn of(samples: &mut [u64]) -> Option<Self> {
        samples.sort_unstable();
        let (min, max) = (*samples.first()?, *samples.last()?);
        // Nearest rank.
        let rank = |percent: usize| samples[(samples.len() * percent).div_ceil(100) - 1];
        Some(Self { min, p50: rank(50), p90: rank(90), p99: rank(99), max })
    }
}

/// Xorshift (Marsaglia 2003, 13, 7, 17).
pub struct Chance(u64);

impl Chance {
    /// Always the same.
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The upper half: its bits are better.
        (((self.0 >> 32) * end as u64) >> 32) as usize
    }

    /// Every number below the length, in random order.
    pub fn order(&mut self, out: &mut [u32]) {
        for (number, slot) in out.iter_mut().enumerate() {
            *slot = number as u32;
        }
        for last in (1..out.len()).rev() {
            out.swap(last, self.below(last + 1));
        }
    }

    /// One cycle through every `stride`th element of `out`, in random order (Sattolo).
    pub fn ring(&mut self, out: &mut [u64], stride: usize) {
        let places = out.len() / stride;
        for place in 0..places {
            out[place * stride] = (place * stride) as u64;
        }
        for last in (1..places).rev() {
            out.swap(last * stride, self.below(last) * stride);
        }
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_samples() {
        let mut samples: Vec<u64> = (1..=1000).rev().collect();
        let expected = Summary { min: 1, p50: 500, p90: 900, p99: 990, max: 1000 };
        assert_eq!(Summary::of(&mut samples), Some(expected));
        let one = Summary { min: 7, p50: 7, p90: 7, p99: 7, max: 7 };
        assert_eq!(Summary::of(&mut [7]), Some(one));
        assert_eq!(Summary::of(&mut [3, 1]).map(|s| (s.p50, s.p90)), Some((1, 3)));
        assert_eq!(Summary::of(&mut []), None);
    }

    #[test]
    fn an_order_has_everything_once_and_is_none() {
        let mut order = [0; 5000];
        Chance::new().order(&mut order);
        let mut sorted = order;
        sorted.sort_unstable();
        assert!(sorted.iter().enumerate().all(|(at, number)| at == *number as usize));
        let steps = order.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
        assert!(steps < 20, "{steps} neighbours");
    }

    #[test]
    fn a_ring_is_one_cycle() {
        for places in [1, 2, 3, 1000] {
            let mut ring = vec![u64::MAX; places * 8];
            Chance::new().ring(&mut ring, 8);
            let (mut at, mut seen) = (0, 0);
            loop {
                at = ring[at] as usize;
                seen += 1;
                assert!(at.is_multiple_of(8));
                if at == 0 {
                    break;
                }
            }
            assert_eq!(seen, places);
        }
    }
}
