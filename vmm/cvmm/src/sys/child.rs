//! Child processes: that they end when asked to, and with their parent, and where they run.
//!
//! UNSAFETY: hooks between fork and exec, each of which makes one system call; kill(2) on a child; sets of processors.
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

/// Has the child run on these processors alone; on any where none is named.
///
/// # Errors
/// There can be no processor of that number.
pub fn pin(command: &mut Command, processors: &[usize]) -> io::Result<()> {
    if processors.is_empty() {
        return Ok(());
    }
    // SAFETY: an all-zero set is valid, and empty.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &processor in processors {
        if processor >= libc::CPU_SETSIZE as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: in bounds, as was just checked.
        unsafe { libc::CPU_SET(processor, &mut set) };
    }
    let hook = move || {
        // SAFETY: the call reads the set, which the hook owns; it is a plain system call.
        match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the hook allocates nothing and touches no lock.
    unsafe { command.pre_exec(hook) };
    Ok(())
}

/// The processors that this process may use.
///
/// # Errors
/// The system call's.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = allowed_set()?;
    // SAFETY: in bounds.
    let is_in = |processor: &usize| unsafe { libc::CPU_ISSET(*processor, &set) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(is_in).collect())
}

/// The same, as the system call has it.
pub(super) fn allowed_set() -> io::Result<libc::cpu_set_t> {
    // SAFETY: an all-zero set is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for writes of its size.
    match unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } {
        0 => Ok(set),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Asks a child to end. One that has ended and was waited for is not found, as its number may be another's by then.
pub fn terminate(child: &Child) {
    if let Ok(pid) = libc::pid_t::try_from(child.id()) {
        // SAFETY: no memory is passed. The caller still holds the child unwaited, so the number is the child's.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}
