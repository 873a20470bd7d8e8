//! A call that blocks, and a signal that ends it.
//!
//! UNSAFETY: a signal handler that does nothing, and signals to a thread of the test's own.
#![allow(unsafe_code)]

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

extern "C" fn ignore(_: i32) {}

/// Runs `blocked` in a thread, `meanwhile` here, and then interrupts the thread by a signal.
pub fn interrupting<T: Send>(blocked: impl FnOnce() -> T + Send, meanwhile: impl FnOnce()) -> T {
    // SAFETY: installs a handler that does nothing, so that the signal only interrupts.
    unsafe { libc::signal(libc::SIGUSR1, ignore as *const () as libc::sighandler_t) };
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: names the calling thread.
            send.send(unsafe { libc::pthread_self() }).unwrap();
            blocked()
        });
        let id = receive.recv().unwrap();
        thread::sleep(Duration::from_millis(100));
        meanwhile();
        assert!(!thread.is_finished(), "it should block");
        // SAFETY: the thread lives until it is joined.
        unsafe { libc::pthread_kill(id, libc::SIGUSR1) };
        thread.join().unwrap()
    })
}
