//! What a vCPU and its VM have been doing: what statistics are made of.

use std::collections::BTreeMap;

use super::halt::Halts;
use crate::price::Price;

/// What a vCPU has been doing.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Exits to user space by name.
    pub user_exits: BTreeMap<&'static str, u64>,
    /// Events the host handled by itself, by name.
    pub host_events: BTreeMap<&'static str, u64>,
    /// Times that the guest was left, whoever handled it then.
    pub exits: u64,
    /// Port accesses, whoever answers them.
    pub io: u64,
    /// Accesses of an unprotected guest to device memory that user space answers.
    pub mmio: u64,
    /// Accesses of an unprotected guest that KVM's emulator carries out.
    pub emulated: u64,
    /// KVM_RUNs that a signal ended.
    pub signals: u64,
    /// Exits because the guest had become ready for user space's interrupt.
    pub windows: u64,
    /// KVM_RUNs that found it ready for user space's interrupt.
    pub window_requests: u64,
    /// HLT, and waiting for a start-up IPI.
    pub halt_exits: u64,
    /// Hypercalls.
    pub hypercalls: u64,
    /// Nested page faults that mapped a page.
    pub page_faults: u64,
    /// Interrupts delivered by KVM.
    pub interrupts: u64,
    /// NMIs.
    pub nmis: u64,
    /// Returns from KVM_RUN.
    pub runs: u64,
    /// Sleeps.
    pub halts: Halts,
}

/// What a VM has been doing.
#[derive(Clone, Debug, Default)]
pub struct VmCounts {
    /// What the security processor has charged it.
    pub psp: Price,
    /// Cycles that its commands have waited for those of other VMs.
    pub psp_wait: u64,
    /// PVALIDATEs that validated a 4 KiB page.
    pub pvalidate_4k: u64,
    /// PVALIDATEs that validated a 2 MiB page.
    pub pvalidate_2m: u64,
    /// PVALIDATEs of another size than the page's.
    pub pvalidate_mismatch: u64,
    /// Pages of 4 KiB that the guest accepted.
    pub accept_4k: u64,
    /// Pages of 2 MiB that the guest accepted.
    pub accept_2m: u64,
    /// TDG.MEM.PAGE.ACCEPTs of another size than the page's.
    pub accept_mismatch: u64,
}
