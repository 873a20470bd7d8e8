//! A clock for short intervals that costs a third of a system clock: the processor's time stamp counter, where it runs at
//! one rate.
//!
//! UNSAFETY: RDTSC, which every x86-64 processor has.
#![allow(unsafe_code)]

use std::arch::x86_64::{__cpuid, _rdtsc};
use std::time::Duration;

use super::clock::monotonic_raw;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticks(u64);

/// Which counter to read.
#[derive(Clone, Copy, Debug)]
pub struct TickClock {
    invariant: bool,
    began: (Duration, Ticks),
}

impl TickClock {
    /// The counter of this processor; where its rate changes, CLOCK_MONOTONIC_RAW.
    pub fn start() -> TickClock {
        /// AMD64 Architecture Programmer's Manual volume 3, Fn8000_0007 EDX, TscInvariant; Intel has the same bit.
        const INVARIANT: u32 = 1 << 8;
        let invariant =
            __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & INVARIANT != 0;
        let clock = TickClock { invariant, began: (Duration::ZERO, Ticks(0)) };
        TickClock { began: (monotonic_raw(), clock.now()), ..clock }
    }

    /// Now.
    #[inline]
    pub fn now(self) -> Ticks {
        if self.invariant {
            // SAFETY: see the head of the file.
            Ticks(unsafe { _rdtsc() })
        } else {
            Ticks(u64::try_from(monotonic_raw().as_nanos()).unwrap_or(u64::MAX))
        }
    }

    /// How long a tick is, by what both clocks say since the start: after a millisecond, right to a part in 10,000.
    pub fn rate(self) -> TickRate {
        let (raw, ticks) = self.began;
        let ticks = self.now().0.saturating_sub(ticks.0).max(1);
        let ns = monotonic_raw().saturating_sub(raw).as_nanos();
        TickRate(u64::try_from((ns << 32) / u128::from(ticks)).unwrap_or(u64::MAX))
    }
}

/// Nanoseconds per tick, in units of 2^-32.
#[derive(Clone, Copy, Debug)]
pub struct TickRate(u64);

impl TickRate {
    /// Nanoseconds from one moment to a later one; 0 if it is not later (processors' counters may differ by a few).
    #[inline]
    pub fn ns(self, from: Ticks, to: Ticks) -> u64 {
        let ticks = to.0.saturating_sub(from.0);
        ((u128::from(ticks) * u128::from(self.0)) >> 32) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_agree_on_a_while() {
        let clock = TickClock::start();
        std::thread::sleep(Duration::from_millis(5));
        let rate = clock.rate();
        let (raw, begin) = (monotonic_raw(), clock.now());
        std::thread::sleep(Duration::from_millis(20));
        let (end, ticks) = (monotonic_raw() - raw, rate.ns(begin, clock.now()));
        let ratio = ticks as f64 / end.as_nanos() as f64;
        assert!((0.99..1.5).contains(&ratio), "{ratio}");
    }

    #[test]
    fn time_does_not_run_backwards() {
        assert_eq!(TickRate(1 << 32).ns(Ticks(5), Ticks(3)), 0);
        assert_eq!(TickRate(1 << 31).ns(Ticks(3), Ticks(5)), 1);
    }
}
