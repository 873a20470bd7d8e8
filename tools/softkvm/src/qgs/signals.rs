//! The signals that end the service. They are waited for, not handled, so that the socket is removed in plain code.
//!
//! UNSAFETY: signal masks are thread state set by plain system calls; the sets are locals.
#![allow(unsafe_code)]

use std::io;

/// SIGINT, SIGTERM and SIGHUP, blocked in this thread and in those that it makes.
pub struct EndSignals(libc::sigset_t);

impl EndSignals {
    /// Blocks them; to be called before other threads exist.
    pub fn block() -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before it is used.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&mut set, signal);
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
                0 => Ok(Self(set)),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    /// Waits for one of them.
    pub fn wait(&self) -> io::Result<()> {
        let mut signal = 0;
        // SAFETY: the set was initialised by `block`, and the signal's number is a local.
        match unsafe { libc::sigwait(&self.0, &mut signal) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}
