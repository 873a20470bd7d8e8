//! The guest's side of the GHCB protocol (GHCB specification 56421 rev. 2.03): the few requests
//! the shim makes.
//!
//! UNSAFETY: volatile accesses to the GHCB page, which is shared with the hypervisor; no reference
//! to it exists.
#![allow(unsafe_code)]

use core::mem::offset_of;

use abi::ghcb::{
    Ghcb, PROTOCOL_VERSION, SHARED_BUFFER_OFFSET, exit, hv_feature, ioio, msr, psc_op,
};
use abi::shim::{GHCB_GPA, PAGE, Termination};
use shim::psc::Batch;
use shim::range::Range;

use crate::instructions::vmgexit;

/// Agrees on version 2 and checks C-bit position and features (2.3.1 and 2.3.2).
pub fn negotiate(c_bit: u32, vcpus: u32) -> Result<(), Termination> {
    let info = vmgexit(msr::SEV_INFO_REQ);
    let version = u64::from(PROTOCOL_VERSION);
    let (max, min) = (info >> 48, info >> 32 & 0xFFFF);
    if info & msr::CODE_MASK != msr::SEV_INFO_RESP || max < version || min > version {
        return Err(Termination::GHCB_VERSION);
    }
    if info >> 24 & 0xFF != u64::from(c_bit) {
        return Err(Termination::C_BIT);
    }
    let features = vmgexit(msr::HV_FEATURES_REQ);
    let ap_creation = if vcpus > 1 { hv_feature::AP_CREATION } else { 0 };
    let needed = hv_feature::SNP | ap_creation;
    if features & msr::CODE_MASK != msr::HV_FEATURES_RESP || features >> 12 & needed != needed {
        return Err(Termination::HV_FEATURES);
    }
    Ok(())
}

/// Changes the owner of the GHCB page by the MSR protocol.
pub fn set_owner(operation: u8) -> Result<(), Termination> {
    let answer = vmgexit(msr::psc(GHCB_GPA / PAGE, operation));
    if answer & msr::CODE_MASK != msr::PSC_RESP || answer >> 32 != 0 {
        return Err(Termination::PAGE_STATE_CHANGE);
    }
    Ok(())
}

/// Makes the GHCB page shared for the hypervisor. It must be rescinded.
pub fn share() -> Result<(), Termination> {
    set_owner(psc_op::SHARED)
}

/// Tells the hypervisor where the GHCB page is.
pub fn register() -> Result<(), Termination> {
    if vmgexit(GHCB_GPA | msr::REGISTER_GPA_REQ) == GHCB_GPA | msr::REGISTER_GPA_RESP {
        Ok(())
    } else {
        Err(Termination::GHCB_REGISTER)
    }
}

/// Makes the GHCB page private again. The caller validates it.
pub fn unshare() -> Result<(), Termination> {
    set_owner(psc_op::PRIVATE)
}

/// A 32-bit OUT.
pub fn out32(port: u16, value: u32) -> Result<(), Termination> {
    put(offset_of!(Ghcb, rax), u64::from(value));
    let info = ioio::SIZE32 | u64::from(port) << ioio::PORT_SHIFT;
    call(exit::IOIO, info, valid(offset_of!(Ghcb, rax))).map(|_| ())
}

/// Makes frames private, as many in one request as it holds.
pub fn set_private(range: Range) -> Result<(), Termination> {
    let bad = Termination::PAGE_STATE_CHANGE;
    let mut rest = range;
    while !rest.is_empty() {
        let batch = Batch::take(&mut rest);
        let mut offset = SHARED_BUFFER_OFFSET + 8;
        for entry in batch.entries() {
            put(offset, entry.0);
            offset += 8;
        }
        // The header: first entry 0, last entry in bits 31:16.
        let end = batch.entries().len() as u64 - 1;
        put(SHARED_BUFFER_OFFSET, end << 16);
        loop {
            put(offset_of!(Ghcb, sw_scratch), GHCB_GPA + SHARED_BUFFER_OFFSET as u64);
            if call(exit::PSC, 0, valid(offset_of!(Ghcb, sw_scratch)))? != 0 {
                return Err(bad);
            }
            let header = get(SHARED_BUFFER_OFFSET);
            if header >> 16 != end {
                return Err(bad);
            }
            if header & 0xFFFF > end {
                break;
            }
        }
    }
    Ok(())
}

/// One request through the page; returns SW_EXITINFO2.
fn call(code: u64, info: u64, more: u128) -> Result<u64, Termination> {
    put(offset_of!(Ghcb, sw_exit_code), code);
    put(offset_of!(Ghcb, sw_exit_info_1), info);
    put(offset_of!(Ghcb, sw_exit_info_2), 0);
    let bitmap = more
        | valid(offset_of!(Ghcb, sw_exit_code))
        | valid(offset_of!(Ghcb, sw_exit_info_1))
        | valid(offset_of!(Ghcb, sw_exit_info_2));
    put(offset_of!(Ghcb, valid_bitmap), bitmap as u64);
    put(offset_of!(Ghcb, valid_bitmap) + 8, (bitmap >> 64) as u64);
    // Protocol version in the upper half of the word at 0xFF8, usage 0 behind it.
    put(offset_of!(Ghcb, ghcb_usage) - 4, u64::from(PROTOCOL_VERSION) << 16);
    vmgexit(GHCB_GPA);
    if get(offset_of!(Ghcb, sw_exit_info_1)) & 0xFFFF_FFFF != 0 {
        return Err(Termination::GHCB_REQUEST);
    }
    Ok(get(offset_of!(Ghcb, sw_exit_info_2)))
}

/// The bit of a field in the valid bitmap.
const fn valid(offset: usize) -> u128 {
    1 << (offset / 8)
}

fn put(offset: usize, value: u64) {
    debug_assert!(offset < PAGE as usize);
    // SAFETY: an aligned quadword of the GHCB page, which is mapped and belongs to this module.
    unsafe { ((GHCB_GPA as usize + offset) as *mut u64).write_volatile(value) };
}

fn get(offset: usize) -> u64 {
    // SAFETY: as above.
    unsafe { ((GHCB_GPA as usize + offset) as *const u64).read_volatile() }
}
