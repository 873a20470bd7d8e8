//! A round of acceptance: a range in units of 2 MiB, of which each is taken by one processor.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use abi::shim::{LARGE_PAGE, PAGE, Termination};

use crate::accept::Counts;
use crate::platform::Validation;
use crate::range::{Range, large_fits};

/// The range, and how far it is. Only who has it to himself begins one: the boot processor, while nobody is in.
#[derive(Debug)]
#[repr(C)]
pub struct Round {
    /// How often somebody came in: which stack is his. The entry code counts.
    visits: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
    /// What is added to the address of a frame, to have the one by which it is accepted.
    shift: AtomicU64,
    /// The unit that the next one takes.
    next: AtomicU64,
    /// Units that others have taken.
    helped: AtomicU32,
    small: AtomicU32,
    large: AtomicU32,
    mismatches: AtomicU32,
}

const _: () = assert!(offset_of!(Round, visits) == 0);

impl Round {
    /// Nothing to do.
    pub const fn new() -> Self {
        let [visits, start, end, shift, next] = [const { AtomicU64::new(0) }; 5];
        let [helped, small, large, mismatches] = [const { AtomicU32::new(0) }; 4];
        Self { visits, start, end, shift, next, helped, small, large, mismatches }
    }

    /// A new range to accept.
    pub fn begin(&self, range: Range, shift: u64) {
        self.visits.store(0, Relaxed);
        self.start.store(range.start, Relaxed);
        self.end.store(range.end, Relaxed);
        self.shift.store(shift, Relaxed);
        self.next.store(range.start & !(LARGE_PAGE - 1), Relaxed);
    }

    /// Takes the counts of all that was accepted since somebody took them.
    pub fn take_counts(&self) -> Counts {
        Counts {
            small: self.small.swap(0, Relaxed),
            large: self.large.swap(0, Relaxed),
            mismatches: self.mismatches.swap(0, Relaxed),
            helped: self.helped.swap(0, Relaxed),
        }
    }

    /// Whether others have taken a unit.
    #[cfg(test)]
    pub fn was_helped(&self) -> bool {
        self.helped.load(Relaxed) > 0
    }

    /// Accepts units until none is left. `validate` gets the address of a page, and whether it is a large one.
    pub fn work(
        &self,
        failure: Termination,
        helper: bool,
        mut validate: impl FnMut(u64, bool) -> Validation,
    ) -> Result<(), Termination> {
        let whole = Range { start: self.start.load(Relaxed), end: self.end.load(Relaxed) };
        loop {
            let unit = self.next.fetch_add(LARGE_PAGE, Relaxed);
            if unit >= whole.end {
                return Ok(());
            }
            if helper {
                self.helped.fetch_add(1, Relaxed);
            }
            let mut rest = whole.common(Range { start: unit, end: unit + LARGE_PAGE });
            let mut address = rest.start.wrapping_add(self.shift.load(Relaxed));
            if large_fits(rest) {
                match validate(address, true) {
                    Validation::SizeMismatch => {
                        self.mismatches.fetch_add(1, Relaxed);
                    }
                    other => {
                        outcome(failure, other)?;
                        self.large.fetch_add(1, Relaxed);
                        continue;
                    }
                }
            }
            self.small.fetch_add(((rest.end - rest.start) / PAGE) as u32, Relaxed);
            while !rest.is_empty() {
                outcome(failure, validate(address, false))?;
                address += PAGE;
                rest.start += PAGE;
            }
        }
    }
}

impl Default for Round {
    fn default() -> Self {
        Self::new()
    }
}

/// Anything but a fresh validation ends the guest: a page that was valid already is one that the
/// host put there a second time.
fn outcome(failure: Termination, validation: Validation) -> Result<(), Termination> {
    match validation {
        Validation::Done => Ok(()),
        Validation::Already => Err(Termination::DOUBLE_VALIDATION),
        Validation::SizeMismatch | Validation::Failed => Err(failure),
    }
}
