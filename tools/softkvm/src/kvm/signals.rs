//! Signals during KVM_RUN: as in the kernel, they end it, and their handlers run when it returns.
//!
//! UNSAFETY: signal masks are thread state set by plain system calls; the sets are locals.
#![allow(unsafe_code)]

use std::time::Duration;

/// Signals blocked for the length of one KVM_RUN.
pub struct Blocked {
    before: libc::sigset_t,
    /// In force while waiting: signals that do not end KVM_RUN.
    during: libc::sigset_t,
}

/// Signals that a fault of this thread raises; they must never wait.
const SYNCHRONOUS: [libc::c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT];

impl Blocked {
    /// Blocks everything; `mask` is that of KVM_SET_SIGNAL_MASK.
    pub fn new(mask: Option<u64>) -> Self {
        // SAFETY: the sets are initialised by the calls that fill them.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&mut all);
            for signal in SYNCHRONOUS {
                libc::sigdelset(&mut all, signal);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            let during = match mask {
                None => before,
                Some(bits) => {
                    let mut set = std::mem::zeroed();
                    libc::sigemptyset(&mut set);
                    for signal in (1..=64).filter(|signal| bits >> (signal - 1) & 1 != 0) {
                        libc::sigaddset(&mut set, signal);
                    }
                    set
                }
            };
            Self { before, during }
        }
    }

    /// Whether a signal has come that ends KVM_RUN.
    pub fn pending(&self) -> bool {
        // SAFETY: the set is filled by sigpending.
        unsafe {
            let mut waiting = std::mem::zeroed();
            if libc::sigpending(&mut waiting) != 0 {
                return false;
            }
            (1..=64).any(|signal| {
                libc::sigismember(&waiting, signal) == 1
                    && libc::sigismember(&self.during, signal) == 0
            })
        }
    }

    /// Waits for a descriptor or for a signal that ends KVM_RUN. The signal stays pending: its
    /// handler runs when the mask is restored.
    pub fn wait(&self, fds: &mut Vec<libc::pollfd>, time: Option<Duration>) {
        let time = time.map(|time| libc::timespec {
            tv_sec: time.as_secs() as libc::time_t,
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        let pointer = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the sets and the array are ours; the descriptor is closed before the return.
        unsafe {
            let mut ending = std::mem::zeroed();
            libc::sigfillset(&mut ending);
            for signal in 1..=64 {
                if libc::sigismember(&self.during, signal) == 1 {
                    libc::sigdelset(&mut ending, signal);
                }
            }
            let fd = libc::signalfd(-1, &ending, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd >= 0 {
                fds.push(libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
            }
            libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, pointer, std::ptr::null());
            if fd >= 0 {
                libc::close(fd);
            }
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: restores what `new` found.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}
