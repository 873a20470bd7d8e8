//! The interactive console: raw while the guest runs, as before on every way out.
//!
//! UNSAFETY: openpty, tcgetattr and kill on descriptors and processes of this test.
#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, have_kvm};

/// Local modes of a terminal: raw mode clears ECHO and ICANON.
fn local_modes(terminal: &File) -> libc::tcflag_t {
    // SAFETY: an all-zero termios is valid and gets overwritten.
    let mut mode: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: `mode` is valid for writes.
    assert_eq!(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &mut mode) }, 0);
    mode.c_lflag
}

/// A guest that spins for ever, its console on a terminal; `end` ends it.
fn ends_with_the_terminal_restored(end: impl FnOnce(&Child, &mut File), code: i32) {
    if !have_kvm() {
        eprintln!("skipped: this host has no /dev/kvm that may be opened");
        return;
    }
    let bench = Bench::new();
    // Sixteen bytes for other processors, then `jmp .`.
    let mut spin = vec![0x90; 18];
    spin[16..].copy_from_slice(&[0xeb, 0xfe]);
    bench.file("spin.bin", &spin);
    let (mut ours, mut theirs) = (0, 0);
    let none = std::ptr::null_mut();
    // SAFETY: both integers are valid for writes; the rest may be null.
    assert_eq!(unsafe { libc::openpty(&mut ours, &mut theirs, none, none.cast(), none.cast()) }, 0);
    // SAFETY: both were just made for us.
    let (mut ours, theirs) = unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) };
    let before = local_modes(&theirs);
    let mut child = Command::new(env!("CARGO_BIN_EXE_cvmm"))
        .args(["--plain", "-k", "guest.elf", "--shim", "spin.bin", "-m", "64M", "--timeout", "3"])
        .current_dir(bench.path("."))
        .stdin(theirs.try_clone().unwrap())
        .stdout(theirs.try_clone().unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let patience = Instant::now() + Duration::from_secs(20);
    while local_modes(&theirs) == before && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    let raw = local_modes(&theirs);
    end(&child, &mut ours);
    let status = child.wait().unwrap();
    assert_ne!(raw, before, "the terminal was never raw");
    assert_eq!(local_modes(&theirs), before, "the terminal was left raw");
    assert_eq!(status.code(), Some(code));
}

fn signal(child: &Child, number: libc::c_int) {
    // SAFETY: the child is ours and not waited for yet.
    unsafe { libc::kill(libc::pid_t::try_from(child.id()).unwrap(), number) };
}

#[test]
fn ctrl_a_x_quits() {
    ends_with_the_terminal_restored(|_, ours| ours.write_all(b"ab\x01x").unwrap(), 130);
}

#[test]
fn signals_end_the_guest() {
    ends_with_the_terminal_restored(|child, _| signal(child, libc::SIGTERM), 130);
    ends_with_the_terminal_restored(|child, _| signal(child, libc::SIGINT), 130);
}

#[test]
fn a_timeout_ends_the_guest() {
    ends_with_the_terminal_restored(|_, _| {}, 124);
}
