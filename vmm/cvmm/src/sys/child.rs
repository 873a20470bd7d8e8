//! Child processes: that they end when asked to, and with their parent.
//!
//! UNSAFETY: a hook between fork and exec, which makes one system call; kill(2) on a child.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Has the kernel end the child when the thread that starts it ends, however that happens.
pub fn end_with_parent(command: &mut Command) {
    let hook = || {
        // SAFETY: prctl is async-signal-safe, and takes no memory here.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the hook allocates nothing and touches no lock.
    unsafe { command.pre_exec(hook) };
}

/// Asks a child to end. One that has ended and was waited for is not found, as its number may be another's by then.
pub fn terminate(child: &Child) {
    if let Ok(pid) = libc::pid_t::try_from(child.id()) {
        // SAFETY: no memory is passed. The caller still holds the child unwaited, so the number is the child's.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}
