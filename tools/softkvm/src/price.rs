//! What an operation costs in modelled time, and how much of that nobody has measured.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// A cost, or a sum of costs, in cycles of the time stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Price {
    /// All of it.
    pub cycles: u64,
    /// The part that rests on placeholders of the platform profile.
    pub guessed: u64,
}

impl Price {
    /// A cost that somebody has published.
    pub const fn known(cycles: u64) -> Self {
        Self { cycles, guessed: 0 }
    }

    /// A placeholder.
    pub const fn guess(cycles: u64) -> Self {
        Self { cycles, guessed: cycles }
    }
}

impl Add for Price {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Sum for Price {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Self::add)
    }
}

impl AddAssign for Price {
    fn add_assign(&mut self, other: Self) {
        self.cycles = self.cycles.wrapping_add(other.cycles);
        self.guessed = self.guessed.wrapping_add(other.guessed);
    }
}
