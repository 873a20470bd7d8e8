//! What is kept of every exit of a vCPU: counts and times by phase and reason, and how the times are distributed.

use hdrhistogram::Histogram;

use crate::phase::{PHASES, Phase};
use crate::sys::vcpu::EXIT_KINDS;

/// Exits of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExitCount {
    /// How many.
    pub count: u64,
    /// Time in KVM_RUN before them.
    pub guest_ns: u64,
    /// Time in the monitor after them.
    pub monitor_ns: u64,
}

/// The times of exits of one kind, to two digits.
#[derive(Debug)]
pub struct Times {
    /// In KVM_RUN before them.
    pub guest: Histogram<u32>,
    /// In the monitor after them.
    pub monitor: Histogram<u32>,
}

/// No exit takes longer than an hour; one that does is counted as one.
const LONGEST_NS: u64 = 3_600_000_000_000;
const DIGITS: u8 = 2;

impl Times {
    fn new() -> Option<Box<Times>> {
        // The bounds are right, so this cannot fail; without a histogram the counts are still there.
        let histogram = || Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).ok();
        Some(Box::new(Times { guest: histogram()?, monitor: histogram()? }))
    }
}

/// The exits of one vCPU.
#[derive(Debug)]
pub struct ExitLog {
    counts: Box<[[ExitCount; EXIT_KINDS.len()]; PHASES]>,
    times: [Option<Box<Times>>; EXIT_KINDS.len()],
}

impl Default for ExitLog {
    fn default() -> ExitLog {
        let counts = Box::new([[ExitCount::default(); EXIT_KINDS.len()]; PHASES]);
        ExitLog { counts, times: Default::default() }
    }
}

impl ExitLog {
    /// KVM_RUN came back after `ns`.
    pub fn left(&mut self, phase: Phase, kind: usize, ns: u64) {
        let count = &mut self.counts[phase as usize][kind];
        count.count += 1;
        count.guest_ns += ns;
        if self.times[kind].is_none() {
            self.times[kind] = Times::new();
        }
        if let Some(times) = &mut self.times[kind] {
            times.guest.saturating_record(ns);
        }
    }

    /// The exit has been dealt with in `ns`.
    pub fn handled(&mut self, phase: Phase, kind: usize, ns: u64) {
        self.counts[phase as usize][kind].monitor_ns += ns;
        if let Some(times) = &mut self.times[kind] {
            times.monitor.saturating_record(ns);
        }
    }

    /// Counts by phase and kind, those of no exit left out.
    pub fn counts(&self) -> impl Iterator<Item = (Phase, usize, ExitCount)> + '_ {
        Phase::ALL.iter().zip(self.counts.iter()).flat_map(|(phase, kinds)| {
            let some = kinds.iter().enumerate().filter(|(_, count)| count.count > 0);
            some.map(|(kind, count)| (*phase, kind, *count))
        })
    }

    /// Distributions by kind.
    pub fn times(&self) -> impl Iterator<Item = (usize, &Times)> + '_ {
        self.times.iter().enumerate().filter_map(|(kind, times)| Some((kind, times.as_deref()?)))
    }
}
