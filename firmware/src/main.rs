//! The image for SEV-SNP and for unprotected guests: entry and exit in assembly, and the machine
//! behind [`shim::Platform`].
//!
//! The monitor writes this image to [`abi::shim::SHIM_CODE_GPA`] and starts every vCPU in it; see
//! [`abi::shim`] for the contract and link.ld for the layout.
#![no_std]
#![no_main]

mod entry;
mod exceptions;
mod exit;
mod ghcb;
mod hardware;
mod instructions;
mod processor;

use abi::shim::{BOOT_PARAMS_GPA, CPUID_GPA, PAGE_TABLES_GPA, PARAMETER_GPA, ParameterPage};
use abi::shim::{Flags, Technology, Termination};
use shim::paging::{self, PageTables};
use shim::{Platform, checks, params};

use crate::hardware::Hardware;

/// SEV_STATUS (AMD APM vol. 2, 15.34.10): SEV, SEV-ES, SEV-SNP.
const SEV_STATUS_SNP: u64 = 0b111;
/// With the two features that would change what the shim may do: virtual TOM and reflected #VC.
const SEV_STATUS_MASK: u64 = 0b1_1111;

/// Called by the entry code with its RSI, on a clean stack in cleared work memory.
extern "C" fn shim_main(parameters: u64, protected: u32) -> ! {
    exceptions::install();
    match boot(parameters, protected != 0) {
        Ok(kernel) => exit::leave(kernel, BOOT_PARAMS_GPA),
        Err(reason) => exit::terminate(reason),
    }
}

/// Everything between the entry and the kernel.
fn boot(parameters: u64, protected: bool) -> Result<u64, Termination> {
    if parameters != PARAMETER_GPA {
        return Err(Termination::BAD_MAGIC);
    }
    let page: &ParameterPage = processor::launch_page(PARAMETER_GPA);
    params::check(page, if protected { Technology::SNP } else { Technology::PLAIN })?;
    if protected && instructions::sev_status() & SEV_STATUS_MASK != SEV_STATUS_SNP {
        return Err(Termination::BAD_TECHNOLOGY);
    }
    let c_mask = paging::c_mask(protected, page.c_bit);
    let marks = page.flags & Flags::NO_MARKS.bits() == 0;
    let sha = if protected {
        checks::page_has_sha(processor::launch_page(CPUID_GPA))
    } else {
        processor::has_sha()
    };
    let evict = protected && !checks::page_is_coherent(processor::launch_page(CPUID_GPA));
    let mut machine = Hardware::new(protected, sha, marks, evict, c_mask);
    checks::check_acpi(&machine, page)?;
    if protected {
        checks::check_cpuid(&machine, page)?;
        checks::check_secrets(&machine)?;
    }
    let tables: &mut PageTables = shim::platform::object_mut(&mut machine, PAGE_TABLES_GPA)?;
    paging::build(tables, c_mask);
    machine.flush();
    if protected {
        ghcb::negotiate(page.c_bit, page.vcpu_count)?;
        machine.share_ghcb()?;
    }
    let kernel = shim::run(&mut machine, page)?;
    if protected {
        machine.unshare_ghcb()?;
    }
    Ok(kernel)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // There is no panic in the image (the build checks); the language wants this function.
    exit::terminate(Termination::exception(6))
}
