//! What the protection makes of a plan: the one place of this folder that chooses by technology.

use abi::shim::{self, Flags};

use super::acpi::Wakeup;
use super::cpuid::CpuidTable;
use super::layout::Range;
use super::{HostCaps, LaunchRegion, PlanError, snp, tdx};
use crate::config::{self, CpuCount};
use crate::shim_image::SHIM_CODE;

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
    /// What CPUID says.
    pub cpuid: CpuidTable,
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
        config::Technology::Plain => Ok(plain(cpus, host)),
        config::Technology::Snp(_) => snp::shape(cpus, host),
        config::Technology::Tdx(_) => Ok(tdx::shape(cpus, host)),
    }
}

fn plain(cpus: CpuCount, host: &HostCaps) -> Shape {
    Shape {
        technology: Technology::Plain,
        named: shim::Technology::PLAIN,
        flags: Flags::empty(),
        c_bit: None,
        shim: SHIM_CODE,
        cpuid: host.cpuid.for_plain(cpus),
        first: Vec::new(),
        last: Vec::new(),
        extra: Vec::new(),
        wakeup: None,
    }
}
