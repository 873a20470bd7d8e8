//! A guest that starts in a firmware image instead of the shim: OVMF. The image is measured; kernel, initrd and command
//! line wait in QEMU's configuration device ([`super::fw_cfg`]), where the firmware fetches them.

use super::fw_cfg::FwCfg;
use super::layout::{Layout, Range};
use super::ovmf::{self, FirmwareError};
use super::registers::VcpuRegisters;
use super::snp_firmware::SnpFirmware;
use super::tdx_firmware::TdxFirmware;
use super::technology::{FirmwareShape, firmware_shape};
use super::{Firmware, HostCaps, Inputs, Plan, PlanError, Technology, acpi, region};
use crate::config::{CpuCount, GuestConfig};

/// The image as its technology reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirmwareLayout {
    /// No protection: the image alone.
    Plain,
    /// SEV-SNP.
    Snp(SnpFirmware),
    /// TDX.
    Tdx(TdxFirmware),
}

impl FirmwareLayout {
    /// The last address in low memory that the firmware needs at its start, plus one.
    fn memory_end(&self) -> u64 {
        match self {
            FirmwareLayout::Plain => 0,
            FirmwareLayout::Snp(snp) => snp.memory_end(),
            FirmwareLayout::Tdx(tdx) => tdx.memory_end(),
        }
    }

    /// An image that lets the host choose its kernel would measure nothing that matters.
    pub(super) fn check_kernel(&self) -> Result<(), FirmwareError> {
        match self {
            FirmwareLayout::Snp(snp) if !snp.checks_kernel() => Err(FirmwareError::NoKernelHashes),
            // A TD measures what it fetches into RTMRs.
            _ => Ok(()),
        }
    }
}

/// Below it, no OVMF gets as far as a boot loader.
const MEMORY_MIN: u64 = 64 << 20;

pub(super) fn build(
    config: &GuestConfig,
    inputs: &Inputs,
    firmware: &Firmware,
    cpus: CpuCount,
    host: &HostCaps,
) -> Result<Plan, PlanError> {
    let layout = Layout::without_kernel(config.memory);
    let low_end = layout.ram.first().map_or(0, |ram| ram.len);
    let files = (inputs.kernel.len() + inputs.initrd.len()) as u64;
    // The firmware holds every file once, the kernel once more, and needs room to put it where it runs.
    let needed = firmware.layout.memory_end().max(MEMORY_MIN) + 3 * files;
    if low_end < needed {
        let needed_mib = needed.next_multiple_of(16 << 20) >> 20;
        return Err(PlanError::TooLittleMemory { given: config.memory, needed_mib });
    }
    if let FirmwareLayout::Tdx(tdx) = &firmware.layout {
        let (len, max) = (tdx.memory_list(&layout.ram).len() as u64, tdx.hob_len());
        if len > max {
            return Err(PlanError::MemoryList { len, max });
        }
    }
    let FirmwareShape { technology, regions, boot, parked } =
        firmware_shape(&config.technology, firmware, inputs, &layout.ram, cpus, host)?;
    let image =
        Range { gpa: ovmf::END - firmware.image.len() as u64, len: firmware.image.len() as u64 };
    let mut slots = layout.ram.clone();
    slots.push(image);
    slots.sort_by_key(|range| range.gpa);
    let private = if technology == Technology::Plain { Vec::new() } else { slots.clone() };
    let tables = acpi::tables(cpus);
    let fw_cfg = FwCfg::new(inputs, &layout, cpus, &tables);
    Ok(Plan {
        technology,
        layout,
        regions,
        hashed: Vec::new(),
        staged: Vec::new(),
        slots,
        private,
        boot,
        parked,
        cpus,
        cpuid: technology.leaves(cpus, host),
        firmware: Some(FirmwarePlan { fw_cfg, memory_list: hob(firmware) }),
    })
}

/// What a run with firmware needs beside launch pages.
#[derive(Clone, Debug)]
pub struct FirmwarePlan {
    /// What the firmware fetches from the host.
    pub fw_cfg: FwCfg,
    /// Where a TD finds the list of its memory; 0 for other guests.
    pub memory_list: u64,
}

fn hob(firmware: &Firmware) -> u64 {
    match &firmware.layout {
        FirmwareLayout::Tdx(tdx) => tdx.hob_gpa(),
        FirmwareLayout::Plain | FirmwareLayout::Snp(_) => 0,
    }
}

/// The whole image, measured where anything is.
pub(super) fn image_region(image: &[u8]) -> super::LaunchRegion {
    region("ovmf", ovmf::END - image.len() as u64, image)
}

/// Registers of the first processor and of the others, after a reset.
pub(super) fn reset_registers(ap_reset: u32, signature: u32) -> (VcpuRegisters, VcpuRegisters) {
    (
        VcpuRegisters::reset(super::registers::RESET_VECTOR, signature),
        VcpuRegisters::reset(ap_reset, signature),
    )
}
