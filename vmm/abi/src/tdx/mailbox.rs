//! The multiprocessor wakeup mailbox (ACPI specification 6.5, 5.2.12.19, table 5.44).

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The mailbox: one page of the guest's private memory, ACPI NVS or ACPI data in the memory map.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct WakeupMailbox {
    /// [`WakeupMailbox::NOOP`], [`WakeupMailbox::WAKEUP`] or [`WakeupMailbox::TEST`]; firmware clears it when done.
    pub command: u16,
    /// Zero.
    pub reserved: u16,
    /// Whom the command is for.
    pub apic_id: u32,
    /// Where to go, in 64-bit mode.
    pub wakeup_vector: u64,
    /// The operating system's.
    pub os: [u8; 2032],
    /// Firmware's.
    pub firmware: [u8; 2048],
}

impl WakeupMailbox {
    /// Nothing to do.
    pub const NOOP: u16 = 0;
    /// Go to the vector.
    pub const WAKEUP: u16 = 1;
    /// Clear the command, to show that you listen (version 1 of the MADT structure).
    pub const TEST: u16 = 2;
}

const _: () = assert!(size_of::<WakeupMailbox>() == 4096);
const _: () = assert!(offset_of!(WakeupMailbox, apic_id) == 4);
const _: () = assert!(offset_of!(WakeupMailbox, wakeup_vector) == 8);
const _: () = assert!(offset_of!(WakeupMailbox, firmware) == 2048);
