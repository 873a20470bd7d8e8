//! Instructions of the image for SEV-SNP and unprotected guests that Rust has no word for.
//!
//! UNSAFETY: each function wraps one instruction whose effects its comment bounds.
#![allow(unsafe_code)]

use core::arch::asm;

use abi::shim::PAGE;
use abi::snp::MSR_GHCB;
use shim::Validation;

/// SEV_STATUS.
const SEV_STATUS_MSR: u32 = 0xC001_0131;
/// PVALIDATE: RMP page size does not fit (AMD APM vol. 3).
const FAIL_SIZE_MISMATCH: u32 = 6;

/// SEV_STATUS, which exists on every processor that can run a protected guest.
pub fn sev_status() -> u64 {
    rdmsr(SEV_STATUS_MSR)
}

/// One exchange of the GHCB MSR protocol, or with the GHCB page when `value` is its address.
pub fn vmgexit(value: u64) -> u64 {
    // SAFETY: the hypervisor may answer in this MSR and in the GHCB page, which is shared and
    // only accessed by volatile operations.
    unsafe {
        asm!(
            "wrmsr",
            ".byte 0xF3, 0x0F, 0x01, 0xD9",
            in("ecx") MSR_GHCB,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack),
        );
    }
    rdmsr(MSR_GHCB)
}

fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: only read; the two MSRs asked for are there under SNP.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// PVALIDATE of the page at a virtual address.
pub fn pvalidate(address: u64, large: bool, validate: bool) -> Validation {
    let (code, already): (u64, u8);
    // SAFETY: changes the state of a page that the caller owns and does not refer to meanwhile.
    unsafe {
        asm!(
            ".byte 0xF2, 0x0F, 0x01, 0xFF",
            "setc {already}",
            already = out(reg_byte) already,
            inout("rax") address => code,
            in("ecx") u32::from(large),
            in("edx") u32::from(validate),
            options(nostack),
        );
    }
    match code as u32 {
        0 if already == 0 => Validation::Done,
        0 => Validation::Already,
        FAIL_SIZE_MISMATCH => Validation::SizeMismatch,
        _ => Validation::Failed,
    }
}

/// Drops what caches still hold of pages under the host's key: reading the first and the last line
/// of a page with the guest's key does (as Linux 7.2 does, arch/x86/include/asm/sev.h
/// `sev_evict_cache`, on processors without COHERENCY_SFW_NO).
pub fn evict(address: u64, len: u64) {
    let mut page = address;
    while page < address + len {
        // SAFETY: the pages were validated and are mapped.
        unsafe {
            (page as *const u8).read_volatile();
            ((page + PAGE - 1) as *const u8).read_volatile();
        }
        page += PAGE;
    }
}

/// A 32-bit OUT. Only without protection.
pub fn out32(port: u16, value: u32) {
    // SAFETY: the ports used belong to the monitor and touch no memory.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
}
