//! Processes of our own program, where they run, and how they wait for each other.

use core::sync::atomic::AtomicU32;

use super::{Errno, Sys, WaitStatus, call};

/// What fork has made of us.
pub enum Child {
    /// We are the child, which must not go on as the parent would but [`leave`].
    Here,
    /// We are the parent of this process.
    Away(u32),
}

/// A copy of this process.
pub fn fork() -> Sys<Child> {
    Ok(match sys!(57)? {
        0 => Child::Here,
        process => Child::Away(process as u32),
    })
}

/// Ends this process.
pub fn leave(code: u8) -> ! {
    loop {
        let _ = sys!(231, code);
    }
}

/// Waits for the end of a child.
pub fn ended(process: u32) -> Sys<WaitStatus> {
    let mut status = 0u32;
    loop {
        match sys!(61, process, &raw mut status, 0, 0) {
            Ok(_) => return Ok(WaitStatus(status)),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Moves this process to one of the first 64 processors, for good.
pub fn run_on(processor: u32) -> Sys {
    let mask = 1u64 << (processor & 63);
    sys!(203, 0, size_of::<u64>(), &raw const mask).map(drop)
}

/// Asks the kernel not to be late on purpose when this process sleeps.
pub fn sharp_timers() -> Sys {
    const SET_TIMERSLACK: usize = 29;
    sys!(157, SET_TIMERSLACK, 1).map(drop)
}

/// Sleeps until a time of [`super::monotonic_ns`].
pub fn sleep_until(ns: u64) -> Sys {
    const CLOCK_MONOTONIC: usize = 1;
    const ABSOLUTE: usize = 1;
    let time = [ns / 1_000_000_000, ns % 1_000_000_000];
    loop {
        match sys!(230, CLOCK_MONOTONIC, ABSOLUTE, time.as_ptr(), 0) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Sleeps while the word has this value, until somebody wakes it or five seconds are over.
pub fn wait_on_word(word: &AtomicU32, value: u32) -> Sys {
    const WAIT: usize = 0;
    let patience = [5u64, 0];
    match sys!(202, word.as_ptr(), WAIT, value, patience.as_ptr()) {
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Wakes one that sleeps on the word.
pub fn wake_word(word: &AtomicU32) -> Sys {
    const WAKE: usize = 1;
    sys!(202, word.as_ptr(), WAKE, 1).map(drop)
}
