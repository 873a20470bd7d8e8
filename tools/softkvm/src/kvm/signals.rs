//! Signals during KVM_RUN: as in the kernel, they end it, and their handlers run when it returns.
//!
//! UNSAFETY: signal masks are thread state set by plain system calls; the sets are locals. The C library is not asked: it
//! leaves out the signals that it uses itself, and one that cancels a thread would then unwind it in the middle of a turn.
#![allow(unsafe_code)]

use std::time::Duration;

/// A set of signals as the kernel takes it: bit 0 is signal 1.
type Set = u64;

/// Signals blocked for the length of one KVM_RUN.
pub struct Blocked {
    before: Set,
    /// In force while waiting: signals that do not end KVM_RUN.
    during: Set,
}

/// Signals that a fault of this thread raises; they must never wait.
const SYNCHRONOUS: [libc::c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT];

/// Signals that the C library keeps to itself: of thread cancellation and of a change of user.
const INTERNAL: Set = 1 << 31 | 1 << 32;

/// Lets the C library's own signals through again after a KVM_RUN. The thread may be unwound here and now.
pub fn release_internal() {
    change_mask(libc::SIG_UNBLOCK, INTERNAL);
}

/// Changes the thread's mask; returns the old one.
fn change_mask(how: libc::c_int, mask: Set) -> Set {
    let mut before: Set = 0;
    // SAFETY: both sets are locals of the size that is passed.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            &raw const mask,
            &raw mut before,
            size_of::<Set>(),
        )
    };
    before
}

impl Blocked {
    /// Blocks everything; `mask` is that of KVM_SET_SIGNAL_MASK.
    pub fn new(mask: Option<u64>) -> Self {
        let faults = SYNCHRONOUS.iter().fold(0, |set, signal| set | 1 << (signal - 1));
        let before = change_mask(libc::SIG_SETMASK, !faults);
        Self { before, during: mask.unwrap_or(before) }
    }

    /// Whether a signal has come that ends KVM_RUN.
    pub fn pending(&self) -> bool {
        let mut waiting: Set = 0;
        // SAFETY: the set is a local of the size that is passed.
        let result =
            unsafe { libc::syscall(libc::SYS_rt_sigpending, &raw mut waiting, size_of::<Set>()) };
        result == 0 && waiting & !self.during != 0
    }

    /// Waits for a descriptor or for a signal that ends KVM_RUN. The signal stays pending: its
    /// handler runs when the mask is restored.
    pub fn wait(&self, fds: &mut Vec<libc::pollfd>, time: Option<Duration>) {
        let time = time.map(|time| libc::timespec {
            tv_sec: time.as_secs() as libc::time_t,
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        let pointer = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let ending: Set = !self.during;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the set and the array are ours; the descriptor is closed before the return.
        unsafe {
            let set = &raw const ending;
            let fd = libc::syscall(libc::SYS_signalfd4, -1, set, size_of::<Set>(), flags) as i32;
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
        // Those that unwind a thread wait until the frames of this library have gone.
        change_mask(libc::SIG_SETMASK, self.before | INTERNAL);
    }
}
