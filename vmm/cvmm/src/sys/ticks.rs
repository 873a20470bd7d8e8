//! A clock for short intervals that costs a third of a system clock: the processor's time stamp counter, where it runs at
//! one rate.
//!
//! UNSAFETY: RDTSC, which every x86-64 processor has.
#![allow(unsafe_code)]

use std::arch::x86_64::{__cpuid, _rdtsc};
use std::sync::OnceLock;
use std::time::Duration;

use super::clock::monotonic_raw;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticks(u64);

/// A moment by both clocks, to count from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// By CLOCK_MONOTONIC_RAW.
    pub raw: Duration,
    counter: u64,
}

impl Origin {
    /// Now.
    pub fn now() -> Origin {
        Origin { raw: monotonic_raw(), counter: counter() }
    }
}

/// Which counter to read.
#[derive(Clone, Copy, Debug)]
pub struct TickClock {
    invariant: bool,
    began: (Duration, Ticks),
}

fn counter() -> u64 {
    // SAFETY: see the head of the file.
    unsafe { _rdtsc() }
}

/// Does this processor's counter run at one rate? It is asked once, and better by a thread that nobody waits for: on a host
/// that is a guest itself, every CPUID instruction is an exit.
pub fn is_invariant() -> bool {
    /// AMD64 Architecture Programmer's Manual volume 3, Fn8000_0007 EDX, TscInvariant; Intel has the same bit.
    const INVARIANT: u32 = 1 << 8;
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & INVARIANT != 0
    })
}

impl TickClock {
    /// The counter of this processor; where its rate changes, CLOCK_MONOTONIC_RAW.
    pub fn since(origin: Origin) -> TickClock {
        let invariant = is_invariant();
        let ticks = if invariant { origin.counter } else { nanoseconds(origin.raw) };
        TickClock { invariant, began: (origin.raw, Ticks(ticks)) }
    }

    /// Now.
    #[inline]
    pub fn now(self) -> Ticks {
        Ticks(if self.invariant { counter() } else { nanoseconds(monotonic_raw()) })
    }

    /// How long a tick is, by what both clocks say since the start: after a millisecond, right to a part in 10,000.
    pub fn rate(self) -> TickRate {
        let (raw, ticks) = self.began;
        let ticks = self.now().0.saturating_sub(ticks.0).max(1);
        let ns = monotonic_raw().saturating_sub(raw).as_nanos();
        TickRate(u64::try_from((ns << 32) / u128::from(ticks)).unwrap_or(u64::MAX))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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
        let clock = TickClock::since(Origin::now());
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
