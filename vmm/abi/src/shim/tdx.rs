//! What differs in the contract for a TD.
//!
//! # Launch pages
//!
//! In this order, all measured: the reset page (made by [`reset_page`]), the initial page table (as for an unprotected
//! guest), the shim's code, the parameter page, the ACPI page and the mailbox page (zeros): at most nine, for any number
//! of vCPUs. With [`super::LoadMode::MEASURED`] the kernel file, the initrd and the command line follow.
//!
//! The mailbox is a launch page because every vCPU starts at the reset vector, and one that runs before the boot processor
//! has accepted memory must find it there.
//!
//! # Entry
//!
//! Every vCPU starts at the reset vector in 32-bit mode without paging, with its index in ESI and the guest's address width
//! in EBX (ABI specification, "TD VCPU initial state"), and lands at [`ENTRY_GPA`]. Index 0 boots; the others wait in the
//! shim's code for the mailbox, in 64-bit mode on the initial page table, and for the gate, if they are to help. They know themselves by their index, so a vCPU's
//! APIC ID must be its index.
//!
//! # Ownership
//!
//! As for every guest: all RAM is private except staging. The shim accepts every page of RAM that is no launch page, and
//! takes staging back with MapGPA before it accepts it. ACPI's type covers the mailbox in the memory map, as
//! [`super::LOW_E820`] has it.
//!
//! # End
//!
//! ReportFatalError with [`super::Termination::msr_value`] in R12 and no message. Linux's R12 is 0 when it panics.

use core::mem::offset_of;

use crate::tdx::WakeupMailbox;

use super::{CPUID_GPA, PAGE, SHIM_CODE_GPA};

/// Page with the reset vector.
pub const RESET_PAGE_GPA: u64 = 0xFFFF_F000;
/// Where a vCPU starts.
pub const RESET_VECTOR: u64 = 0xFFFF_FFF0;
/// Where the jump at the reset vector leads: first byte of the shim's image.
pub const ENTRY_GPA: u64 = SHIM_CODE_GPA;
/// Where a processor that Linux took offline comes back to wait for the mailbox (ACPI specification 6.6, multiprocessor
/// wakeup structure, "ResetVector"): in 64-bit mode, on page tables that map this page to itself, interrupts off. It stays
/// on this page until it has the initial page table again, and finds out by TDG.VP.INFO which vCPU it is.
pub const AP_RESET_VECTOR_GPA: u64 = SHIM_CODE_GPA + 0x10;
/// The multiprocessor wakeup mailbox. It takes the place that another technology's CPUID page has.
pub const MAILBOX_GPA: u64 = CPUID_GPA;
/// Where the others wait to help ([`super::help`]): in the part of the mailbox that is firmware's.
pub const GATE_GPA: u64 = MAILBOX_GPA + offset_of!(WakeupMailbox, firmware) as u64;
/// Start of the memory that the shim's first 64-bit instructions accept and clear, up to [`super::WORK_END`]: no launch
/// page, private from the start.
pub const WORK_BASE: u64 = MAILBOX_GPA + PAGE;

/// The page at [`RESET_PAGE_GPA`]: a jump to [`ENTRY_GPA`] at [`RESET_VECTOR`], zeros elsewhere.
pub fn reset_page() -> [u8; PAGE as usize] {
    const JUMP: [u8; 5] = {
        // E9 cd: relative to the next instruction; 32-bit addresses wrap.
        let [a, b, c, d] = (ENTRY_GPA as u32).wrapping_sub(RESET_VECTOR as u32 + 5).to_le_bytes();
        [0xE9, a, b, c, d]
    };
    let mut page = [0; PAGE as usize];
    let at = (RESET_VECTOR - RESET_PAGE_GPA) as usize;
    page[at..at + JUMP.len()].copy_from_slice(&JUMP);
    page
}
