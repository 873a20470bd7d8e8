//! Register offsets in a local APIC's MMIO page; shifted right by four, from MSR 0x800 on, those of
//! x2APIC mode.

/// APIC id.
pub const ID: u32 = 0x20;
/// Version.
pub const VERSION: u32 = 0x30;
/// Task priority.
pub const TPR: u32 = 0x80;
/// Arbitration priority (reads 0).
pub const APR: u32 = 0x90;
/// Processor priority.
pub const PPR: u32 = 0xa0;
/// End of interrupt.
pub const EOI: u32 = 0xb0;
/// Logical destination.
pub const LDR: u32 = 0xd0;
/// Destination format.
pub const DFR: u32 = 0xe0;
/// Spurious vector and software enable.
pub const SPIV: u32 = 0xf0;
/// In service, 8 registers.
pub const ISR: u32 = 0x100;
/// Trigger mode, 8 registers.
pub const TMR: u32 = 0x180;
/// Requested, 8 registers.
pub const IRR: u32 = 0x200;
/// Error status.
pub const ESR: u32 = 0x280;
/// Interrupt command, low half.
pub const ICR: u32 = 0x300;
/// Interrupt command, high half.
pub const ICR2: u32 = 0x310;
/// Timer vector.
pub const LVT_TIMER: u32 = 0x320;
/// Thermal vector.
pub const LVT_THERMAL: u32 = 0x330;
/// Performance counter vector.
pub const LVT_PERF: u32 = 0x340;
/// LINT0 vector.
pub const LVT_LINT0: u32 = 0x350;
/// LINT1 vector.
pub const LVT_LINT1: u32 = 0x360;
/// Error vector.
pub const LVT_ERROR: u32 = 0x370;
/// Timer initial count.
pub const TMICT: u32 = 0x380;
/// Timer current count.
pub const TMCCT: u32 = 0x390;
/// Timer divide configuration.
pub const TDCR: u32 = 0x3e0;
/// x2APIC self-IPI.
pub const SELF_IPI: u32 = 0x3f0;
