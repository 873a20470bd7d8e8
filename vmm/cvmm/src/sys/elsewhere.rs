//! Where a thread starts. Linux may queue a new thread on the processor of its parent and leave it there while another one
//! idles: it then runs when the parent waits for the first time, and the parent waits for it.
//!
//! UNSAFETY: three calls of the C library on a set of processors that lives on the stack.
#![allow(unsafe_code)]

use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

/// Keeps a thread away from the processor that asks, if it may run on another one. For threads with one short job: they
/// stay so.
pub fn place<T>(thread: &JoinHandle<T>) {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: an empty set is all zeros.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes.
    let known = unsafe { libc::sched_getaffinity(0, size, &raw mut set) } == 0;
    // SAFETY: it has no arguments.
    let here = usize::try_from(unsafe { libc::sched_getcpu() });
    let Ok(here) = here else { return };
    if !known || here >= libc::CPU_SETSIZE as usize {
        return;
    }
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
