//! Which code an input reached, from the counters that `-C instrument-coverage` keeps.
//!
//! UNSAFETY: the counters are an array of the LLVM profile runtime, bounded by two of its symbols.
#![allow(unsafe_code)]

/// Coverage seen so far.
pub struct Coverage {
    seen: Vec<bool>,
}

#[cfg(fuzz_coverage)]
unsafe extern "C" {
    fn __llvm_profile_begin_counters() -> *mut u64;
    fn __llvm_profile_end_counters() -> *mut u64;
}

#[cfg(fuzz_coverage)]
fn counters() -> &'static mut [u64] {
    // SAFETY: the runtime guarantees that the two symbols bound one array of u64 counters that
    // lives as long as the process; only this single-threaded driver takes a slice of it.
    unsafe {
        let begin = __llvm_profile_begin_counters();
        let end = __llvm_profile_end_counters();
        std::slice::from_raw_parts_mut(begin, end.offset_from(begin).unsigned_abs())
    }
}

#[cfg(not(fuzz_coverage))]
fn counters() -> &'static mut [u64] {
    &mut []
}

impl Coverage {
    /// Nothing seen.
    pub fn new() -> Self {
        Self { seen: vec![false; counters().len()] }
    }

    /// Forgets the counts of the last input.
    pub fn reset(&self) {
        counters().fill(0);
    }

    /// Whether the last input reached code that no earlier one did.
    pub fn grew(&mut self) -> bool {
        let mut new = false;
        for (seen, count) in self.seen.iter_mut().zip(counters().iter()) {
            if *count != 0 && !*seen {
                *seen = true;
                new = true;
            }
        }
        new
    }

    /// Counters reached and counters there are.
    pub fn reached(&self) -> (usize, usize) {
        (self.seen.iter().filter(|seen| **seen).count(), self.seen.len())
    }
}
