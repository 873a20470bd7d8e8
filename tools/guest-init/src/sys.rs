//! System calls, each behind a safe function.
//!
//! UNSAFETY: this file and its folder issue Linux x86-64 system calls by hand, for there is no libc here, and hold the
//! entry point and the four memory functions that compiled code expects. Every pointer handed to the kernel comes from a
//! reference or from a mapping that is never taken back, and is used by the kernel only during the call. Beside them only
//! `machine.rs` is unsafe, and two ioctls.
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::ffi::CStr;
use core::fmt;

/// A Linux error number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub u32);

impl Errno {
    /// Try again.
    pub const EAGAIN: Self = Self(11);
    /// Exists.
    pub const EEXIST: Self = Self(17);
    /// Busy.
    pub const EBUSY: Self = Self(16);
    /// Overwritten (of the kernel log).
    pub const EPIPE: Self = Self(32);
    /// No such file.
    pub const ENOENT: Self = Self(2);
    /// Interrupted.
    pub const EINTR: Self = Self(4);
    /// Nothing there.
    pub const ENODATA: Self = Self(61);
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "errno {}", self.0)
    }
}

/// Result of a system call.
pub type Sys<T = ()> = Result<T, Errno>;

// The kernel enters with the stack pointer at argc and no return address.
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym crate::start,
);

/// # Safety
/// The arguments must be what system call `nr` expects; pointers must stay valid for its duration.
unsafe fn call(nr: usize, args: [usize; 6]) -> Sys<usize> {
    let result: isize;
    // SAFETY: the caller vouches for the call; the kernel changes rax, rcx and r11 only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    if result < 0 { Err(Errno(result.unsigned_abs() as u32)) } else { Ok(result as usize) }
}

/// A system call whose arguments are numbers or pointers derived from references, with its result.
macro_rules! sys {
    ($nr:literal $(, $arg:expr)*) => {{
        let given = [$($arg as usize),*];
        let mut args = [0usize; 6];
        args[..given.len()].copy_from_slice(&given);
        // SAFETY: number and arguments follow the kernel's table for x86-64; buffers are references
        // that outlive the call, with their lengths.
        unsafe { call($nr, args) }
    }};
}

mod memory;
mod process;

pub use memory::{Pages, faults, map_device, map_fresh, map_numbers, map_shared, use_large_pages};
pub use process::{
    Child, ended, fork, leave, run_on, sharp_timers, sleep_until, wait_on_word, wake_word,
};

/// An open file, closed when dropped.
pub struct File(usize);

/// How to open a file.
#[derive(Clone, Copy)]
pub enum Mode {
    /// For reading.
    Read,
    /// For reading, without waiting.
    ReadNow,
    /// For writing.
    Write,
    /// For both.
    Both,
}

impl File {
    /// Standard input.
    pub const IN: core::mem::ManuallyDrop<Self> = core::mem::ManuallyDrop::new(Self(0));
    /// Standard output.
    pub const OUT: core::mem::ManuallyDrop<Self> = core::mem::ManuallyDrop::new(Self(1));

    /// Opens a file. One opened for reading and writing is passed on to programs.
    pub fn open(path: &CStr, mode: Mode) -> Sys<Self> {
        const CLOSE_ON_EXEC: usize = 0o2_000_000;
        let flags = match mode {
            Mode::Read => CLOSE_ON_EXEC,
            Mode::ReadNow => 0o4000 | CLOSE_ON_EXEC,
            Mode::Write => 1 | CLOSE_ON_EXEC,
            Mode::Both => 2,
        };
        sys!(2, path.as_ptr(), flags, 0).map(Self)
    }

    /// Reads once.
    pub fn read(&self, buffer: &mut [u8]) -> Sys<usize> {
        sys!(0, self.0, buffer.as_mut_ptr(), buffer.len())
    }

    /// Reads to the end of the file or of the buffer; returns how much.
    pub fn read_all(&self, buffer: &mut [u8]) -> Sys<usize> {
        let mut len = 0;
        while len < buffer.len() {
            match self.read(&mut buffer[len..]) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(len)
    }

    /// Reads at a place of its own.
    pub fn read_at(&self, buffer: &mut [u8], offset: usize) -> Sys<usize> {
        sys!(17, self.0, buffer.as_mut_ptr(), buffer.len(), offset)
    }

    /// Writes all of `bytes`.
    pub fn write_all(&self, mut bytes: &[u8]) -> Sys {
        while !bytes.is_empty() {
            match sys!(1, self.0, bytes.as_ptr(), bytes.len()) {
                Ok(count) => bytes = &bytes[count.min(bytes.len())..],
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// An ioctl on a structure of bytes that the kernel reads and writes.
    ///
    /// # Safety
    /// Pointers inside `argument` must be valid for what `request` does with them, and `argument` must
    /// be at least as large as the structure of `request`.
    pub unsafe fn ioctl(&self, request: u32, argument: &mut [u8]) -> Sys {
        sys!(16, self.0, request, argument.as_mut_ptr()).map(drop)
    }

    /// Waits until a terminal has sent everything (tcdrain).
    pub fn drain(&self) -> Sys {
        sys!(16, self.0, 0x5409, 1).map(drop)
    }

    /// Makes this terminal the controlling one of a session that was just made.
    pub fn control(&self) -> Sys {
        sys!(16, self.0, 0x540e, 0).map(drop)
    }

    /// Makes this file standard input, output and error.
    pub fn become_console(self) -> Sys {
        for fd in 0..3 {
            sys!(33, self.0, fd)?;
        }
        if self.0 < 3 {
            // Nothing was open before: it is one of the three itself.
            core::mem::forget(self);
        }
        Ok(())
    }

    /// Inserts this file as a kernel module.
    pub fn insert_module(&self, compressed: bool) -> Sys {
        const MODULE_INIT_COMPRESSED_FILE: usize = 4;
        let flags = if compressed { MODULE_INIT_COMPRESSED_FILE } else { 0 };
        sys!(313, self.0, c"".as_ptr(), flags).map(drop)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = sys!(3, self.0);
    }
}

/// Makes a directory; one that exists is as good.
pub fn mkdir(path: &CStr) -> Sys {
    match sys!(83, path.as_ptr(), 0o755) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes a directory.
pub fn rmdir(path: &CStr) -> Sys {
    sys!(84, path.as_ptr()).map(drop)
}

/// Mounts a pseudo file system; one that is mounted already is as good.
pub fn mount(kind: &CStr, at: &CStr) -> Sys {
    match sys!(165, kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, 0) {
        Ok(_) | Err(Errno::EBUSY) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Fresh zeroed memory of at least `len` bytes, never given back.
pub fn map_pages(len: usize) -> Sys<&'static mut [u8]> {
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS_POPULATED: usize = 0x2 | 0x20 | 0x8000;
    let at = sys!(9, 0, len, READ_WRITE, PRIVATE_ANONYMOUS_POPULATED, usize::MAX)?;
    // SAFETY: the kernel has just mapped `len` zeroed bytes there for us alone, and nothing unmaps
    // them.
    Ok(unsafe { core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut(at), len) })
}

/// Allows access to `count` ports from `port` on.
pub fn allow_ports(port: u16, count: usize) -> Sys {
    sys!(173, port, count, 1).map(drop)
}

/// Monotonic time in nanoseconds.
pub fn monotonic_ns() -> Sys<u64> {
    const CLOCK_MONOTONIC: usize = 1;
    clock_ns(CLOCK_MONOTONIC)
}

/// The same, as the hardware counts it.
pub fn monotonic_raw_ns() -> Sys<u64> {
    const CLOCK_MONOTONIC_RAW: usize = 4;
    clock_ns(CLOCK_MONOTONIC_RAW)
}

fn clock_ns(clock: usize) -> Sys<u64> {
    let mut time = [0u64; 2];
    sys!(228, clock, time.as_mut_ptr())?;
    Ok(time[0] * 1_000_000_000 + time[1])
}

/// How a program ended, as wait4 has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WaitStatus(u32);

impl WaitStatus {
    /// What it ended with, if it ended by itself.
    pub fn code(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The signal that killed it.
    pub fn signal(self) -> Option<u32> {
        Some(self.0 & 0x7f).filter(|signal| *signal != 0)
    }
}

impl fmt::Display for WaitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.signal() {
            None => write!(f, "exit code {}", self.code()),
            Some(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// With how many words a program can be run.
pub const WORDS_MAX: usize = 32;

/// Runs a program in a session of its own on the console and waits for its end.
pub fn run(path: &CStr, args: &[&CStr]) -> Sys<WaitStatus> {
    let mut argv = [core::ptr::null(); WORDS_MAX + 1];
    for (slot, arg) in argv.iter_mut().zip(args).take(WORDS_MAX) {
        *slot = arg.as_ptr();
    }
    let envp = [
        c"PATH=/bin:/sbin:/usr/bin:/usr/sbin".as_ptr(),
        c"HOME=/".as_ptr(),
        c"TERM=linux".as_ptr(),
        core::ptr::null(),
    ];
    let child = sys!(57)?;
    if child == 0 {
        let _ = sys!(112);
        let _ = File::IN.control();
        let error = sys!(59, path.as_ptr(), argv.as_ptr(), envp.as_ptr());
        let _ = sys!(231, error.map_or(127, |_| 0));
    }
    let mut status = 0u32;
    loop {
        match sys!(61, usize::MAX, &raw mut status, 0, 0) {
            Ok(pid) if pid == child => return Ok(WaitStatus(status)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Powers the machine off; returns only with an error.
pub fn power_off() -> Errno {
    const POWER_OFF: usize = 0x4321_fedc;
    let _ = sys!(162);
    match sys!(169, 0xfee1_dead_usize, 0x2812_1969, POWER_OFF, 0) {
        Ok(_) => Errno(0),
        Err(error) => error,
    }
}

/// Waits for a signal.
pub fn pause() {
    let _ = sys!(34);
}

/// `memcpy` for compiled code.
///
/// # Safety
/// As C has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _,
            options(nostack, preserves_flags));
    }
    to
}

/// `memmove` for compiled code.
///
/// # Safety
/// As C has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: copying upwards never reads what it has overwritten here.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: the caller vouches for both ranges; copying downwards suits this overlap, and the
    // direction flag is clear again at the end.
    unsafe {
        asm!("std", "rep movsb", "cld",
            inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _,
            inout("rcx") len => _, options(nostack));
    }
    to
}

/// `memset` for compiled code.
///
/// # Safety
/// As C has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the range; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep stosb", inout("rdi") to => _, in("al") byte as u8, inout("rcx") len => _,
            options(nostack, preserves_flags));
    }
    to
}

/// `memcmp` for compiled code.
///
/// # Safety
/// As C has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    for i in 0..len {
        // SAFETY: the caller vouches for `len` readable bytes at both.
        let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
        if x != y {
            return i32::from(x) - i32::from(y);
        }
    }
    0
}

/// `bcmp`, into which comparisons for equality are compiled.
///
/// # Safety
/// As for [`memcmp`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller vouches for both ranges.
    unsafe { memcmp(a, b, len) }
}
