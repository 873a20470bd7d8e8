//! Instructions that the language has no word for, each behind a safe function.
//!
//! UNSAFETY: assembly that touches no memory but what a reference names. Ports are the caller's affair: without
//! [`crate::sys::allow_ports`] the kernel ends the program, and nothing else happens.
#![allow(unsafe_code)]

use core::arch::asm;
pub use core::arch::x86_64::__cpuid as cpuid;

/// The time stamp counter, when everything before has ended and nothing after has begun.
pub fn cycles() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: LFENCE and RDTSC touch no memory and change what they name.
    unsafe {
        asm!("lfence", "rdtsc", "lfence", out("eax") low, out("edx") high, options(nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// A 32-bit OUT.
pub fn port_out(port: u16, value: u32) {
    // SAFETY: writing a port touches no memory of this program; the callers write the mark port only.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
}

/// An 8-bit IN.
pub fn port_in(port: u16) -> u8 {
    let value;
    // SAFETY: reading a port touches no memory of this program.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
    value
}

/// AMD's hypercall instruction with a number that needs no arguments.
pub fn vmmcall(number: u64) -> u64 {
    let result;
    // SAFETY: the hypervisor answers in RAX; it is given no address. RBX, which the language keeps, is left alone.
    unsafe {
        asm!("vmmcall", inout("rax") number => result, in("rcx") 0, in("rdx") 0, in("rsi") 0,
            options(nostack));
    }
    result
}

/// Intel's.
pub fn vmcall(number: u64) -> u64 {
    let result;
    // SAFETY: as for `vmmcall`.
    unsafe {
        asm!("vmcall", inout("rax") number => result, in("rcx") 0, in("rdx") 0, in("rsi") 0,
            options(nostack));
    }
    result
}

/// Writes a byte, for the write's own sake.
pub fn touch(byte: &mut u8) {
    // SAFETY: a reference may be written.
    unsafe { core::ptr::from_mut(byte).write_volatile(1) };
}

/// Reads a word, for the read's own sake.
pub fn look(word: &u32) -> u32 {
    // SAFETY: a reference may be read.
    unsafe { core::ptr::from_ref(word).read_volatile() }
}

/// A buffer in which each element is the number of another: where to go next.
pub struct Ring<'a>(&'a [u64]);

impl<'a> Ring<'a> {
    /// `None` if an element leads out of the buffer, or there is none.
    pub fn new(buffer: &'a [u64]) -> Option<Self> {
        let whole = buffer.iter().all(|next| *next < buffer.len() as u64);
        (whole && !buffer.is_empty()).then_some(Self(buffer))
    }

    /// Goes `count` times, which is not 0, from the beginning or from where it had come to before; says where to.
    pub fn walk(&self, from: usize, count: u64) -> usize {
        let (mut at, count) = (from % self.0.len(), count.max(1));
        // SAFETY: no element leads out of the buffer, which `new` has seen and nobody can change since.
        unsafe {
            asm!("2: mov {at}, [{base} + {at} * 8]", "dec {count}", "jnz 2b",
                at = inout(reg) at, base = in(reg) self.0.as_ptr(), count = inout(reg) count => _,
                options(nostack, readonly));
        }
        at
    }
}
