//! Bringing a vCPU thread out of KVM_RUN: a signal whose handler sets the vCPU's `immediate_exit`.
//!
//! The flag closes the race between the check before KVM_RUN and KVM_RUN itself; the signal ends a sleep in the kernel.
//!
//! UNSAFETY: a signal handler, and a thread-local pointer into the vCPU's run page that it writes one byte through.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::ptr;

use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// Whether this thread has been kicked.
    static KICKED: Cell<bool> = const { Cell::new(false) };
    /// Where this thread's vCPU has its `immediate_exit` byte.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    KICKED.with(|kicked| kicked.set(true));
    IMMEDIATE_EXIT.with(|target| {
        let target = target.get();
        if !target.is_null() {
            // SAFETY: set by `KickTarget::enter` to the run page of the vCPU this very thread runs, and cleared before
            // that page can be unmapped.
            unsafe { ptr::write_volatile(target, 1) };
        }
    });
}

/// Installs the handler, once per process.
///
/// # Errors
/// The system call's.
pub fn install() -> io::Result<()> {
    register_signal_handler(SIGRTMIN(), on_kick).map_err(io::Error::from)
}

/// Has this thread been kicked? Then the run is about to end, and nothing is worth waiting for.
pub fn was_kicked() -> bool {
    KICKED.with(Cell::get)
}

/// While this lives, a kick of the current thread stops its vCPU.
#[derive(Debug)]
pub struct KickTarget(());

impl KickTarget {
    /// `byte` is the `immediate_exit` of the vCPU that this thread is about to run.
    pub(super) fn enter(byte: *mut u8) -> KickTarget {
        IMMEDIATE_EXIT.with(|target| target.set(byte));
        KickTarget(())
    }
}

impl Drop for KickTarget {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.with(|target| target.set(ptr::null_mut()));
    }
}

/// A thread, as a signal finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(libc::pid_t);

impl ThreadId {
    /// The calling thread.
    pub fn current() -> ThreadId {
        // SAFETY: takes nothing, cannot fail.
        ThreadId(unsafe { libc::gettid() })
    }

    /// Kicks it. A thread that has ended is not found, and nothing happens.
    pub fn kick(self) {
        // SAFETY: no memory is passed; tgkill finds only threads of this process.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, SIGRTMIN()) };
    }
}
