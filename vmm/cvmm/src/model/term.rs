//! One summand of a boot.

use serde::Serialize;

use super::profile::Price;

/// What is estimated.
#[derive(Clone, Debug, Serialize)]
pub struct Term {
    /// What it is.
    pub name: &'static str,
    /// The phases of a report that it is the time of.
    pub phases: &'static [&'static str],
    /// How it was computed.
    pub formula: String,
    /// The estimate.
    pub estimate_modelled_ns: f64,
    /// The part of it that rests on placeholders.
    pub placeholder_ns: f64,
    /// What a run took for it.
    pub run_modelled_ns: Option<f64>,
    /// Why the two are not the same, as far as that is known.
    pub why: &'static str,
}

impl Term {
    /// An estimate.
    pub fn new(
        name: &'static str,
        phases: &'static [&'static str],
        formula: String,
        price: Price,
        why: &'static str,
    ) -> Term {
        Term {
            name,
            phases,
            formula,
            estimate_modelled_ns: price.ns,
            placeholder_ns: price.placeholder_ns,
            run_modelled_ns: None,
            why,
        }
    }
}

/// What is to be done in a boot.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Work {
    /// Launch pages, without those of vCPUs.
    pub launch_pages: u64,
    /// vCPUs.
    pub vcpus: u64,
    /// Pages of memory, 4 KiB each.
    pub memory_pages: u64,
    /// Of them, pages that the host has mapped before the guest ran.
    pub prefaulted_pages: u64,
    /// Bytes that the shim copies and hashes.
    pub payload_bytes: u64,
    /// Exits to the monitor while the kernel boots.
    pub monitor_exits: u64,
    /// Exits that KVM answers by itself meanwhile.
    pub kvm_exits: u64,
    /// Pages that change owner meanwhile.
    pub changed_pages: u64,
    /// The kernel's own time, without anything that leaves the guest.
    pub kernel_ns: f64,
}

/// Phases of the kernel.
pub const KERNEL: &[&str] = &["K0", "K1", "K2", "K3", "K4", "K5"];
