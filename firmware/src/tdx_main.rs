//! The image for Intel TDX: entry and exit in assembly, and the machine behind [`shim::Platform`].
//!
//! The monitor adds this image at [`abi::shim::tdx::ENTRY_GPA`], where every vCPU arrives from the
//! reset vector; see [`abi::shim::tdx`] for the contract and link.ld for the layout.
#![no_std]
#![no_main]

mod exceptions;
mod exit;
mod processor;
mod tdcall;
mod tdx_entry;
mod tdx_hardware;

use abi::shim::{BOOT_PARAMS_GPA, PAGE_TABLES_GPA, PARAMETER_GPA, ParameterPage};
use abi::shim::{Flags, Technology, Termination};
use shim::paging::{self, PageTables};
use shim::{Platform, checks, params, tdx};

use crate::tdx_hardware::Hardware;

/// Called by the entry code of vCPU 0 with its EBX, on a clean stack in accepted work memory.
extern "C" fn shim_main(width: u64) -> ! {
    exceptions::install();
    match boot(width) {
        Ok(kernel) => exit::leave(kernel, BOOT_PARAMS_GPA),
        Err(reason) => exit::terminate(reason),
    }
}

/// Everything between the entry and the kernel.
fn boot(width: u64) -> Result<u64, Termination> {
    let page: &ParameterPage = processor::launch_page(PARAMETER_GPA);
    params::check(page, Technology::TDX)?;
    let shared = tdx::info::check(tdcall::vp_info()?, width, page.vcpu_count)?;
    let marks = page.flags & Flags::NO_MARKS.bits() == 0;
    let parallel = page.flags & Flags::PARALLEL.bits() != 0;
    let mut machine = Hardware::new(processor::has_sha(), marks, parallel, shared);
    checks::check_acpi(&machine, page)?;
    let tables: &mut PageTables = shim::platform::object_mut(&mut machine, PAGE_TABLES_GPA)?;
    // Private is what has no bit.
    paging::build(tables, 0);
    machine.flush();
    shim::run(&mut machine, page)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // There is no panic in the image (the build checks); the language wants this function.
    exit::terminate(Termination::exception(6))
}
