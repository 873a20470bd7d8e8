//! The image of the first stage, for SEV-SNP: what of the shim is in the boot page. It brings in the
//! rest, and enters it if its hash is the measured one.
//!
//! The monitor puts it into the page that [`abi::shim::snp`] describes; see link_boot.ld.
#![no_std]
#![no_main]

mod boot_entry;
#[expect(dead_code, reason = "the second stage uses more of it")]
mod processor;

use abi::shim::snp::{AP_PARK_GPA, PACKED_OFFSET, PROGRAM_GPA, PROGRAM_MAX};
use abi::shim::snp::{BOOT_PAGE_GPA, UNPACKED_GPA, WINDOW};
use abi::shim::{SHIM_CODE_GPA, Termination};
use shim::second_stage;

// What link_boot.ld repeats.
const _: () = assert!(AP_PARK_GPA == 0x1_0200 && BOOT_PAGE_GPA + PACKED_OFFSET == 0x1_0340);
const _: () = assert!(PROGRAM_GPA == 0x1_D020 && PROGRAM_MAX == 2824);

/// Called by the code in place, on a clean stack in validated memory. Every processor with SEV-SNP
/// has the SHA instructions (the first were those of Zen 3; the instructions came with Zen).
extern "C" fn boot_main() -> ! {
    let measured: &[u8; 32] = processor::launch_page(UNPACKED_GPA);
    let loaded = second_stage::load::<true>(measured, |offset, len| {
        processor::copy(SHIM_CODE_GPA + offset, WINDOW + offset, len);
        processor::bytes(SHIM_CODE_GPA + offset, len)
    });
    match loaded {
        Ok(()) => boot_entry::enter(),
        Err(reason) => boot_entry::terminate(reason),
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // There is no panic in the image (the build checks); the language wants this function.
    boot_entry::terminate(Termination::exception(6))
}
