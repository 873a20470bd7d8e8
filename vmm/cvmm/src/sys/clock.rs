//! The host's clock.
//!
//! UNSAFETY: one libc call that writes a `timespec` on our stack.
#![allow(unsafe_code)]

use std::time::Duration;

/// CLOCK_MONOTONIC_RAW: not slewed by NTP, so short intervals are comparable.
pub fn monotonic_raw() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec for the duration of the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_RAW, &mut now) };
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}
