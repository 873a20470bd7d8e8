//! The functions that touch the guest's memory: TDG.MEM.PAGE.ACCEPT, TDG.MR.RTMR.EXTEND, TDG.MR.REPORT.

use abi::tdx::leaf::level;
use abi::tdx::vmcall::reason;
use abi::tdx::{TdxStatus, operand};
use zerocopy::IntoBytes;

use super::{Leaf, R8, Tdcall, invalid};
use crate::cpu::state::{Core, RCX, RDX};
use crate::tdx::sept::Accept;
use crate::tdx::{PageState, PrivateAccess, Td, TdVcpu, VeInfo, report};

/// Guest memory, as the module reaches it. Addresses are without shared bit, an access stays within a page, and private
/// pages are asked for only if they are mapped.
pub trait TdMemory {
    /// Reads memory.
    fn read(&mut self, gpa: u64, shared: bool, out: &mut [u8]) -> Result<(), MemoryFault>;
    /// Writes memory.
    fn write(&mut self, gpa: u64, shared: bool, data: &[u8]) -> Result<(), MemoryFault>;
    /// Clears a private page that is being accepted.
    fn clear(&mut self, gpa: u64) -> Result<(), MemoryFault>;
}

/// Why memory cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryFault {
    /// The host has not mapped it (yet): a TD exit.
    EptViolation,
    /// Shared, and there is no memory but a device: #VE.
    Mmio,
}

/// RCX of TDG.MEM.PAGE.ACCEPT: level in 2:0, address in 51:12, the others 0.
const ACCEPT_RESERVED: u64 = 0xfff0_0000_0000_0ff8;

/// TDG.MEM.PAGE.ACCEPT.
pub(super) fn accept(td: &mut Td, core: &Core, memory: &mut dyn TdMemory) -> Leaf {
    let input = core.gpr[RCX];
    let (gpa, size) = (input & !0xfff, input & 7);
    let offset = if size == level::LARGE { 0x1f_ffff } else { 0xfff };
    if input & ACCEPT_RESERVED != 0
        || size > level::LARGE
        || gpa & offset != 0
        || !td.valid_gpa(gpa)
        || td.is_shared(gpa)
    {
        return invalid(operand::RCX);
    }
    let violation = Tdcall::EptViolation { gpa, shared: false, accept: true };
    // Cleared first: a page that cannot be is still pending when the call is executed again.
    if size == level::SMALL && td.sept().state(gpa >> 12) == PageState::Pending {
        memory.clear(gpa).map_err(|_| violation)?;
    }
    match td.accept(gpa >> 12, size) {
        Accept::Accepted => Ok(TdxStatus::SUCCESS),
        Accept::Status(status) => Ok(status),
        Accept::EptViolation => Err(violation),
    }
}

/// TDG.MR.RTMR.EXTEND: RCX the address of 48 bytes, RDX the register.
pub(super) fn rtmr_extend(
    td: &mut Td,
    vcpu: &mut TdVcpu,
    core: &mut Core,
    memory: &mut dyn TdMemory,
) -> Leaf {
    let (gpa, index) = (core.gpr[RCX], core.gpr[RDX]);
    if gpa & 63 != 0 || td.is_shared(gpa) {
        return invalid(operand::RCX);
    }
    let mut data = [0; 48];
    let Some(at) = Operand::map(td, vcpu, core, gpa, false)? else {
        return invalid(operand::RCX);
    };
    memory.read(at.gpa, at.shared, &mut data).map_err(|fault| at.fault(vcpu, core, fault))?;
    if td.extend_rtmr(index, &data) { Ok(TdxStatus::SUCCESS) } else { invalid(operand::RDX) }
}

/// TDG.MR.REPORT: RCX where the report goes, RDX where 64 bytes for it are, R8 its subtype.
pub(super) fn report(
    td: &Td,
    vcpu: &mut TdVcpu,
    core: &mut Core,
    memory: &mut dyn TdMemory,
) -> Leaf {
    let (to, from, subtype) = (core.gpr[RCX], core.gpr[RDX], core.gpr[R8]);
    if to & 1023 != 0 {
        return invalid(operand::RCX);
    }
    if from & 63 != 0 {
        return invalid(operand::RDX);
    }
    let mut data = [0; 64];
    let Some(at) = Operand::map(td, vcpu, core, from, false)? else {
        return invalid(operand::RDX);
    };
    memory.read(at.gpa, at.shared, &mut data).map_err(|fault| at.fault(vcpu, core, fault))?;
    if subtype != 0 {
        return invalid(operand::R8);
    }
    let report = report::make(td, &data);
    let Some(at) = Operand::map(td, vcpu, core, to, true)? else {
        return invalid(operand::RCX);
    };
    memory
        .write(at.gpa, at.shared, report.as_bytes())
        .map_err(|fault| at.fault(vcpu, core, fault))?;
    Ok(TdxStatus::SUCCESS)
}

/// An address that the guest passed.
#[derive(Clone, Copy)]
struct Operand {
    gpa: u64,
    shared: bool,
    /// As the guest passed it.
    raw: u64,
    write: bool,
}

impl Operand {
    /// Checks an address; `None` if it is not one of the guest's.
    fn map(
        td: &Td,
        vcpu: &mut TdVcpu,
        core: &mut Core,
        raw: u64,
        write: bool,
    ) -> Result<Option<Self>, Tdcall> {
        if !td.valid_gpa(raw) {
            return Ok(None);
        }
        let at =
            Self { gpa: raw & !td.gpaw().shared_mask(), shared: td.is_shared(raw), raw, write };
        if !at.shared {
            match td.private_access(raw) {
                PrivateAccess::Allowed => {}
                PrivateAccess::EptViolation => return Err(at.violation()),
                PrivateAccess::PendingExit => {
                    return Err(Tdcall::PendingExit { gpa: raw & !0xfff });
                }
                PrivateAccess::PendingVe => return Err(at.ve(vcpu, core)),
            }
        }
        Ok(Some(at))
    }

    fn fault(self, vcpu: &mut TdVcpu, core: &mut Core, fault: MemoryFault) -> Tdcall {
        match fault {
            MemoryFault::EptViolation => self.violation(),
            MemoryFault::Mmio => self.ve(vcpu, core),
        }
    }

    fn violation(self) -> Tdcall {
        Tdcall::EptViolation { gpa: self.gpa & !0xfff, shared: self.shared, accept: false }
    }

    /// #VE by EPT violation: the qualification says read or write, of an address without any permission.
    fn ve(self, vcpu: &mut TdVcpu, core: &mut Core) -> Tdcall {
        let info = VeInfo {
            qualification: if self.write { 2 } else { 1 },
            gpa: self.raw,
            ..VeInfo::of(reason::EPT_VIOLATION, 0)
        };
        Tdcall::Fault(vcpu.raise_ve(core, info))
    }
}
