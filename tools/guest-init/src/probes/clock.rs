//! The time stamp counter as a clock.

use guest_init::statistics::Summary;

use crate::machine::{cpuid, cycles};
use crate::sys::{self, Errno, Sys};

/// How fast it runs, and what it costs to read it.
#[derive(Clone, Copy)]
pub struct Clock {
    /// Its frequency.
    pub khz: u32,
    /// Cycles between two readings with nothing in between.
    pub overhead: u32,
}

/// How long the counter is compared with the kernel's clock. On a machine of software every microsecond has its price.
const COMPARED_NS: u64 = 10_000_000;
const READINGS: usize = 101;

impl Clock {
    /// Asks the processor, or compares with the kernel's clock (after NTP's corrections there would be two clocks).
    pub fn calibrate() -> Sys<Self> {
        let mut readings = [0; READINGS];
        for reading in &mut readings {
            let begin = cycles();
            *reading = cycles().wrapping_sub(begin);
        }
        let overhead = Summary::of(&mut readings).map_or(0, |summary| summary.p50 as u32);
        let khz = match nominal() {
            Some(khz) => khz,
            None => compared()?,
        };
        Ok(Self { khz, overhead })
    }

    /// Cycles that an operation takes.
    pub fn time<T>(&self, operation: impl FnOnce() -> T) -> u64 {
        let begin = cycles();
        core::hint::black_box(operation());
        self.since(begin)
    }

    /// Cycles since an earlier reading.
    pub fn since(&self, begin: u64) -> u64 {
        cycles().wrapping_sub(begin).saturating_sub(u64::from(self.overhead))
    }

    /// The same length of time in cycles.
    pub fn of_ns(&self, ns: u64) -> u64 {
        (u128::from(ns) * u128::from(self.khz) / 1_000_000) as u64
    }
}

/// Leaf 0x15: the ratio of counter and crystal, and the crystal's frequency.
fn nominal() -> Option<u32> {
    const LEAF: u32 = 0x15;
    if cpuid(0).eax < LEAF {
        return None;
    }
    let ratio = cpuid(LEAF);
    let hz = u64::from(ratio.ecx) * u64::from(ratio.ebx);
    let khz = hz.checked_div(u64::from(ratio.eax))? / 1000;
    u32::try_from(khz).ok().filter(|khz| *khz > 0)
}

fn compared() -> Sys<u32> {
    const ERANGE: Errno = Errno(34);
    let (from, begin) = (sys::monotonic_raw_ns()?, cycles());
    loop {
        let (to, end) = (sys::monotonic_raw_ns()?, cycles());
        let ns = to.saturating_sub(from);
        if ns >= COMPARED_NS {
            let cycles = u128::from(end.wrapping_sub(begin));
            let khz = (cycles * 1_000_000 + u128::from(ns / 2)) / u128::from(ns);
            return u32::try_from(khz).map_err(|_| ERANGE);
        }
    }
}
