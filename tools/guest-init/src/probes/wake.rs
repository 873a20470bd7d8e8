//! From the halt of an idle processor to the program that it woke for.

use abi::probes::ProbeId;

use super::{Outcome, Session, refused};
use crate::sys;

/// Long enough that the kernel halts the processor, and that a polling host has given up.
const SLEEP_NS: u64 = 1_000_000;
/// Each sample takes a millisecond.
const MOST: u32 = 1000;

/// The time at which the program runs again, less the time for which it asked: the timer's interrupt, the exit from the
/// halt, and the kernel's way to the program, two system calls among it.
pub fn halt_wake(session: &mut Session) -> Outcome {
    sys::sharp_timers().map_err(refused("timers cannot be sharpened"))?;
    let samples = session.numbers(session.count.min(MOST))?;
    let clock = session.clock;
    let late = || -> Result<u64, _> {
        let at = sys::monotonic_ns()? + SLEEP_NS;
        sys::sleep_until(at)?;
        Ok(sys::monotonic_ns()?.saturating_sub(at))
    };
    for _ in 0..samples.len().div_ceil(10) {
        late().map_err(refused("no sleep"))?;
    }
    for sample in samples.iter_mut() {
        *sample = clock.of_ns(late().map_err(refused("no sleep"))?);
    }
    session.report(ProbeId::HALT_WAKE, SLEEP_NS, 1, samples);
    Ok(())
}
