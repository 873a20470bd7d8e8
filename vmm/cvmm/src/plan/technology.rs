//! What the protection makes of a plan: the one place of this folder that chooses by technology.

use abi::shim::{self, Flags};
use abi::snp::SevFeatures;

use super::acpi::Wakeup;
use super::cpuid::CpuidTable;
use super::firmware::{FirmwareLayout, image_region, reset_registers};
use super::layout::Range;
use super::ovmf::{FirmwareError, Ovmf};
use super::registers::{RESET_VECTOR, VcpuRegisters};
use super::snp_firmware::SnpFirmware;
use super::tdx_firmware::TdxFirmware;
use super::{Firmware, HostCaps, Inputs, LaunchRegion, PlanError, snp, tdx};
use crate::config::{self, CpuCount};
use crate::shim_image::{FirstStage, SHIM_CODE};

/// The protection of a guest, without its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Technology {
    /// None.
    Plain,
    /// SEV-SNP.
    Snp,
    /// TDX.
    Tdx,
}

impl Technology {
    /// What CPUID says on this host.
    pub(super) fn leaves(self, cpus: CpuCount, host: &HostCaps) -> CpuidTable {
        match self {
            Technology::Plain => host.cpuid.for_plain(cpus),
            Technology::Snp => host.cpuid.for_snp(cpus, host.c_bit),
            Technology::Tdx => host.cpuid.for_tdx(cpus),
        }
    }
}

/// What differs from one technology to the next.
#[derive(Debug)]
pub(super) struct Shape {
    /// Whose it is.
    pub technology: Technology,
    /// What the parameter page calls it.
    pub named: shim::Technology,
    /// The parameter page's flags.
    pub flags: Flags,
    /// The C-bit that page table and CR3 carry.
    pub c_bit: Option<u32>,
    /// The shim that is built in.
    pub shim: &'static [u8],
    /// What brings the rest of the shim in, where that is not launch pages.
    pub first_stage: Option<FirstStage>,
    /// Launch pages before the page table.
    pub first: Vec<LaunchRegion>,
    /// Launch pages after the ACPI page.
    pub last: Vec<LaunchRegion>,
    /// Memory beside RAM, private like it.
    pub extra: Vec<Range>,
    /// How further processors are woken, where not by INIT and SIPI or a call of the guest's.
    pub wakeup: Option<Wakeup>,
}

pub(super) fn shape(
    technology: &config::Technology,
    cpus: CpuCount,
    host: &HostCaps,
) -> Result<Shape, PlanError> {
    match technology {
        config::Technology::Plain => Ok(plain()),
        config::Technology::Snp(_) => snp::shape(cpus, host),
        config::Technology::Tdx(_) => Ok(tdx::shape()),
    }
}

fn plain() -> Shape {
    Shape {
        technology: Technology::Plain,
        named: shim::Technology::PLAIN,
        flags: Flags::empty(),
        c_bit: None,
        shim: SHIM_CODE,
        first_stage: None,
        first: Vec::new(),
        last: Vec::new(),
        extra: Vec::new(),
        wakeup: None,
    }
}

/// What the save areas of vCPUs ask for beside their technology, where vCPUs have such areas.
pub(super) fn features(technology: &config::Technology) -> SevFeatures {
    match technology {
        config::Technology::Snp(snp) => snp.vmsa_features(),
        config::Technology::Plain | config::Technology::Tdx(_) => SevFeatures(0),
    }
}

/// Reads an image the way its guest's technology does.
pub(super) fn firmware_layout(
    technology: &config::Technology,
    image: &[u8],
) -> Result<FirmwareLayout, FirmwareError> {
    match technology {
        config::Technology::Plain => Ovmf::parse(image).map(|_| FirmwareLayout::Plain),
        config::Technology::Snp(_) => SnpFirmware::parse(image).map(FirmwareLayout::Snp),
        config::Technology::Tdx(_) => TdxFirmware::parse(image).map(FirmwareLayout::Tdx),
    }
}

/// What differs from one technology to the next where a firmware image is started.
#[derive(Debug)]
pub(super) struct FirmwareShape {
    /// Whose it is.
    pub technology: Technology,
    /// Launch pages in their order.
    pub regions: Vec<LaunchRegion>,
    /// Registers of the first processor.
    pub boot: VcpuRegisters,
    /// Registers of the others.
    pub parked: VcpuRegisters,
}

pub(super) fn firmware_shape(
    config: &config::Technology,
    firmware: &Firmware,
    inputs: &Inputs,
    ram: &[Range],
    cpus: CpuCount,
    host: &HostCaps,
) -> Result<FirmwareShape, PlanError> {
    let signature = match config {
        config::Technology::Snp(snp) => snp.vcpu_signature,
        config::Technology::Plain | config::Technology::Tdx(_) => 0,
    };
    let (technology, regions, ap_reset) = match &firmware.layout {
        FirmwareLayout::Plain => {
            let regions = vec![image_region(&firmware.image)];
            (Technology::Plain, regions, RESET_VECTOR)
        }
        FirmwareLayout::Snp(snp) => {
            let cpuid = Technology::Snp.leaves(cpus, host);
            let mut regions = vec![image_region(&firmware.image)];
            regions.extend(snp.regions(inputs.checked_hashes(), &cpuid)?);
            (Technology::Snp, regions, snp.ap_reset)
        }
        FirmwareLayout::Tdx(tdx) => (Technology::Tdx, tdx.regions(ram), RESET_VECTOR),
    };
    let (boot, parked) = reset_registers(ap_reset, signature);
    let features = features(config);
    let [boot, parked] = [boot, parked].map(|registers| VcpuRegisters { features, ..registers });
    Ok(FirmwareShape { technology, regions, boot, parked })
}
