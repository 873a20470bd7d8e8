//! The registers of a vCPU when it is entered for the first time (ABI specification, "TD VCPU Initial State"; the module's
//! source, TD VMCS initialisation). All vCPUs start alike.

use super::{Td, TdVcpu, TdxPlatform};
use crate::cpu::state::{Core, DescriptorTable, RBX, RCX, RDX, RSI, Seg, Segment, cr0, cr4, efer};

/// Reset vector.
const RIP: u64 = 0xffff_fff0;
/// Flat data, and flat 32-bit code: present, accessed, 4 GiB.
const DATA: u16 = 0xc93;
const CODE: u16 = 0xc9b;
/// IA32_FMASK.
const FMASK: u64 = 0x2_0200;

/// The state of `vcpu` before its first instruction: 32-bit protected mode without paging. EFER has LME and NXE already.
/// CR4 is as the guest reads it: VMXE, which the module hides, is not there.
pub fn first_state(td: &Td, vcpu: &TdVcpu, platform: &TdxPlatform) -> Core {
    let mut core = Core::at_reset();
    core.seg = [Segment { selector: 0, attrib: DATA, limit: u32::MAX, base: 0 }; 6];
    core.seg[Seg::Cs as usize].attrib = CODE;
    core.gdtr = DescriptorTable { base: 0, limit: 0xffff };
    core.idtr = DescriptorTable { base: 0, limit: 0 };
    // Not usable.
    core.ldtr = Segment { selector: 0, attrib: 0x02, limit: 0xffff, base: 0 };
    core.tr = Segment { selector: 0, attrib: 0x8b, limit: 0xffff, base: 0 };
    core.cpl = 0;
    core.cr0 = cr0::PE | cr0::NE;
    core.cr4 = cr4::MCE;
    core.efer = efer::SCE | efer::LME | efer::NXE;
    core.sfmask = FMASK;
    core.gpr = [0; 18];
    core.gpr[RBX] = u64::from(td.gpaw().bits());
    core.gpr[RCX] = vcpu.initial_rcx();
    core.gpr[8] = vcpu.initial_rcx();
    core.gpr[RDX] = u64::from(platform.signature());
    core.gpr[RSI] = u64::from(vcpu.index());
    core.rip = RIP;
    core.set_rflags(2);
    core.update_mode();
    core.attention = true;
    core
}
