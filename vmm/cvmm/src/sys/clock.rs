//! The host's clocks.
//!
//! UNSAFETY: libc calls that write a `timespec` or a `rusage` on our stack.
#![allow(unsafe_code)]

use std::time::Duration;

/// CLOCK_MONOTONIC_RAW: not slewed by NTP, so short intervals are comparable.
pub fn monotonic_raw() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid, writable timespec for the duration of the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_RAW, &mut now) };
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Nanoseconds that this process has spent on processors: in user space (a guest's time is there too), and in the kernel.
pub fn cpu_time() -> (u64, u64) {
    // SAFETY: a `rusage` is plain integers, for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid, writable rusage for the duration of the call.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let ns = |time: libc::timeval| {
        let micros = time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_usec);
        u64::try_from(micros).unwrap_or(0).saturating_mul(1000)
    };
    (ns(usage.ru_utime), ns(usage.ru_stime))
}
