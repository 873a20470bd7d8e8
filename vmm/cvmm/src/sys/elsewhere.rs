//! Where a thread starts. Linux may queue a new thread on the processor of its parent and leave it there while another one
//! idles: it then runs when the parent waits for the first time, and the parent waits for it.
//!
//! UNSAFETY: calls of the C library on a set of processors that lives on the stack.
#![allow(unsafe_code)]

use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

use super::child::allowed_set;

/// Keeps a thread away from the processor that asks, if it may run on another one. For threads with one short job: they
/// stay so.
pub fn place<T>(thread: &JoinHandle<T>) {
    let Ok(mut set) = allowed_set() else { return };
    // SAFETY: it has no arguments.
    let Ok(here) = usize::try_from(unsafe { libc::sched_getcpu() }) else { return };
    if here >= libc::CPU_SETSIZE as usize {
        return;
    }
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: `here` is a bit of the set, and the thread is joined by nobody but the owner of the handle.
    unsafe {
        libc::CPU_CLR(here, &mut set);
        if libc::CPU_COUNT(&set) > 0 {
            // A refusal leaves the thread where it is, which is slower and nothing else. What names a thread is a number with
            // glibc, and a pointer with musl.
            libc::pthread_setaffinity_np(thread.as_pthread_t() as _, size, &raw const set);
        }
    }
}
