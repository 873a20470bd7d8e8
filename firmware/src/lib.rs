//! The measured shim's logic: everything except the processor itself.
//!
//! The shim brings a guest from its launch pages to Linux: check the parameters, accept memory,
//! copy kernel, initrd and command line into private memory while hashing them, build
//! `boot_params`, enter the kernel. This library is generic over [`Platform`], which the two
//! images implement with instructions and the tests with a vector of bytes. README.md has the
//! memory map and the list of what is measured.
//!
//! Rules: no heap, no panic, no instruction that a protected guest must have emulated, and no reference
//! to memory the host can write.
#![cfg_attr(not(test), no_std)]

pub mod accept;
pub mod checks;
pub mod efi;
pub mod gate;
pub mod kernel;
pub mod load;
pub mod lz4;
pub mod paging;
pub mod params;
pub mod platform;
pub mod psc;
pub mod range;
pub mod round;
pub mod second_stage;
pub mod sha256;
pub mod tdx;
pub mod zero_page;

#[cfg(test)]
mod checks_test;
#[cfg(test)]
mod efi_test;
#[cfg(test)]
mod lz4_test;
#[cfg(test)]
mod mock;
#[cfg(test)]
mod paging_test;
#[cfg(test)]
mod params_test;
#[cfg(test)]
mod psc_test;
#[cfg(test)]
mod round_test;
#[cfg(test)]
mod run_test;
#[cfg(test)]
mod second_stage_test;
#[cfg(test)]
mod sha256_test;

use abi::marks::{Mark, MarkId};
use abi::shim::{PAGE, ParameterPage, Termination};

pub use platform::{Platform, Validation};

/// Brings a guest whose parameters are checked and whose page tables are built to the kernel's
/// door; returns the address of its 64-bit entry.
pub fn run<P: Platform>(platform: &mut P, params: &ParameterPage) -> Result<u64, Termination> {
    mark(platform, MarkId::SHIM_ENTRY, 0)?;
    let mut acceptor = accept::Acceptor::new(platform, params);
    mark(platform, MarkId::ACCEPT_BEGIN, 0)?;
    acceptor.accept_ram(platform)?;
    let counts = platform.round().take_counts();
    mark(platform, MarkId::ACCEPT_END, counts.small.div_ceil(512))?;
    mark(platform, MarkId::ACCEPT_MISMATCHES, counts.mismatches)?;
    mark(platform, MarkId::ACCEPT_SMALL, counts.small)?;
    mark(platform, MarkId::ACCEPT_LARGE, counts.large)?;
    if platform.gate().is_some() {
        mark(platform, MarkId::ACCEPT_HELPED, counts.helped)?;
    }

    // The kernel reads the BIOS data area (0x40E, 0x413) on every machine; zero means "none".
    platform.clear(0, PAGE);

    load::load(platform, params)?;
    if range::stagings(params).iter().any(|range| !range.is_empty()) {
        acceptor.accept_staging(platform)?;
        let counts = platform.round().take_counts();
        mark(platform, MarkId::STAGING_RECLAIMED, counts.small)?;
        mark(platform, MarkId::STAGING_LARGE, counts.large)?;
        mark(platform, MarkId::STAGING_MISMATCHES, counts.mismatches)?;
    }
    let entry = kernel::place(platform, params)?;
    mark(platform, MarkId::LOAD_END, 0)?;
    paging::close_windows(platform)?;
    mark(platform, MarkId::KERNEL_ENTRY, 0)?;
    Ok(entry)
}

/// Writes a phase mark.
fn mark<P: Platform>(platform: &mut P, id: MarkId, number: u32) -> Result<(), Termination> {
    platform.mark(Mark::new(id, number))
}
