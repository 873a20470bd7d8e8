//! What both images ask of the processor: memory by address, CR3, CPUID, and the functions that
//! compilers call.
//!
//! UNSAFETY: each function wraps one instruction whose effects its comment bounds, or makes a slice
//! of private memory from an address; the identity mapping and the checks of the parameters make
//! these valid, and `&self`/`&mut self` of the platform keep them apart.
#![allow(unsafe_code)]

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use abi::shim::PAGE;
use shim::checks::sha_bits;

/// A launch page, or what is in it from an address on: what nobody writes, or only by atomic operations.
pub fn launch_page<T: zerocopy::FromBytes>(gpa: u64) -> &'static T {
    const { assert!(size_of::<T>() as u64 <= PAGE) };
    // SAFETY: launch pages are mapped, private, aligned, and not written otherwise while the shim runs.
    unsafe { &*(gpa as *const T) }
}

/// Private memory, for as long as the caller's borrow of the platform lasts.
pub fn bytes<'a>(gpa: u64, len: u64) -> &'a [u8] {
    // SAFETY: see the module's paragraph.
    unsafe { core::slice::from_raw_parts(gpa as *const u8, len as usize) }
}

/// Private memory, for as long as the caller's borrow of the platform lasts.
pub fn bytes_mut<'a>(gpa: u64, len: u64) -> &'a mut [u8] {
    // SAFETY: see the module's paragraph.
    unsafe { core::slice::from_raw_parts_mut(gpa as *mut u8, len as usize) }
}

/// Loads CR3 with the page tables and forgets every translation.
pub fn load_cr3(value: u64) {
    // SAFETY: the tables map everything the shim uses to itself, before and after.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Copies bytes, words first.
pub fn copy(dest: u64, source: u64, len: u64) {
    // SAFETY: the ranges were checked to be memory that no reference points into.
    unsafe {
        asm!(
            "rep movsq",
            "mov ecx, {rest:e}",
            "rep movsb",
            rest = in(reg) len & 7,
            inout("rdi") dest => _,
            inout("rsi") source => _,
            inout("rcx") len >> 3 => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Clears bytes, words first.
#[inline(never)]
pub fn clear(dest: u64, len: u64) {
    // SAFETY: as for `copy`.
    unsafe {
        asm!(
            "rep stosq",
            "mov ecx, {rest:e}",
            "rep stosb",
            rest = in(reg) len & 7,
            inout("rdi") dest => _,
            inout("rcx") len >> 3 => _,
            in("rax") 0u64,
            options(nostack, preserves_flags),
        );
    }
}

/// Whether the SHA instructions are there, by CPUID. Not under SNP, where CPUID needs the hypervisor;
/// in a TD the three leaves are the module's.
pub fn has_sha() -> bool {
    __cpuid_count(0, 0).eax >= 7 && sha_bits(__cpuid_count(1, 0).ecx, __cpuid_count(7, 0).ebx)
}

/// What compilers call for copies and comparisons. There is no C library.
mod libc {
    use core::arch::asm;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(dest: *mut u8, source: *const u8, len: usize) -> *mut u8 {
        super::copy(dest as u64, source as u64, len as u64);
        dest
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(dest: *mut u8, byte: i32, len: usize) -> *mut u8 {
        // SAFETY: the caller passes a range it may write.
        unsafe {
            asm!(
                "rep stosb",
                inout("rdi") dest => _,
                inout("rcx") len => _,
                in("al") byte as u8,
                options(nostack, preserves_flags),
            );
        }
        dest
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
        for i in 0..len {
            // SAFETY: the caller passes two ranges of `len` bytes it may read.
            let (x, y) = unsafe { (a.add(i).read(), b.add(i).read()) };
            if x != y {
                return i32::from(x) - i32::from(y);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
        // SAFETY: the same contract.
        unsafe { memcmp(a, b, len) }
    }
}
