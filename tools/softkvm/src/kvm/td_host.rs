//! What TDVMCALLs reach of a VM.

use abi::tdx::Gpaw;

use super::msrs;
use super::world::Guest;
use crate::chipset::MSR_APIC_BASE;
use crate::cpu::Core;
use crate::cpu::exec::msr::{EFER, PAT};
use crate::tdx::VmcallHost;
use crate::tdx::vmcall::MsrAnswer;

/// EFER of a TD's vCPU as KVM believes it to be: SCE, LME, LMA, NXE (`tdx_vcpu_create`).
const KVM_EFER: u64 = 0xd01;

/// A vCPU outside its guest, between TDG.VP.VMCALL and the next entry.
pub struct Host<'a, 'b> {
    /// The VM as the vCPU sees it.
    pub guest: &'a mut Guest<'b>,
    /// Its time and what CPUID depends on. The guest's registers are with whoever handles the call.
    pub core: Core,
}

impl Guest<'_> {
    /// A register that KVM emulates for a TD, for the guest's TDVMCALL and for user space.
    pub fn td_emulated_rdmsr(&mut self, core: &mut Core, index: u32) -> Option<u64> {
        match index {
            EFER => Some(KVM_EFER),
            PAT => self.state.vcpus[self.me].td.as_ref().map(|cpu| cpu.pat),
            _ => self.read_msr(core, index),
        }
    }

    /// The same for writes; `false` if it is refused.
    pub fn td_emulated_wrmsr(&mut self, core: &mut Core, index: u32, value: u64) -> bool {
        match index {
            EFER | msrs::FEATURE_CONTROL | MSR_APIC_BASE => false,
            PAT => match &mut self.state.vcpus[self.me].td {
                Some(cpu) => {
                    cpu.pat = value;
                    true
                }
                None => false,
            },
            _ => self.write_msr(core, index, value),
        }
    }
}

impl VmcallHost for Host<'_, '_> {
    fn gpaw(&self) -> Gpaw {
        self.guest.state.td().map_or(Gpaw::Bits48, |td| td.gpaw())
    }

    fn port_in(&mut self, port: u16, size: u8) -> Option<u32> {
        self.guest.chip_in(&mut self.core, port, size)
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) -> bool {
        self.guest.chip_out(&mut self.core, port, size, value)
    }

    fn mmio_read(&mut self, gpa: u64, out: &mut [u8]) -> bool {
        let len = out.len().min(8);
        match self.guest.chip_read(&mut self.core, gpa, len as u8) {
            Some(value) => {
                out[..len].copy_from_slice(&value.to_le_bytes()[..len]);
                true
            }
            None => false,
        }
    }

    fn mmio_write(&mut self, gpa: u64, data: &[u8]) -> bool {
        let mut bytes = [0; 8];
        let len = data.len().min(8);
        bytes[..len].copy_from_slice(&data[..len]);
        self.guest.chip_write(&mut self.core, gpa, len as u8, u64::from_le_bytes(bytes))
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.guest.cpuid_now(&self.core, leaf, subleaf)
    }

    fn rdmsr(&mut self, index: u32) -> MsrAnswer<u64> {
        if !self.guest.state.switches.filter.allows(index, false) {
            return self.refused(index, false, false);
        }
        match self.guest.td_emulated_rdmsr(&mut self.core, index) {
            Some(value) => MsrAnswer::Done(value),
            None => self.refused(index, false, true),
        }
    }

    fn wrmsr(&mut self, index: u32, value: u64) -> MsrAnswer<()> {
        if !self.guest.state.switches.filter.allows(index, true) {
            return self.refused(index, true, false);
        }
        if self.guest.td_emulated_wrmsr(&mut self.core, index, value) {
            MsrAnswer::Done(())
        } else {
            self.refused(index, true, true)
        }
    }

    fn msr_exit_reason(&self, index: u32, write: bool) -> Option<u32> {
        self.guest.msr_exit_reason(index, write, true)
    }

    fn hypercall(&mut self, nr: u64, args: [u64; 4]) -> u64 {
        self.guest.kvm_hypercall(nr, args, 0) as u64
    }

    fn map_gpa_exits(&self) -> bool {
        self.guest.state.switches.map_gpa_exits
    }

    fn legal_gpa(&self, gpa: u64) -> bool {
        let bits = self.guest.state.vcpus[self.guest.me].table.phys_bits();
        gpa >> bits.min(52) == 0
    }

    fn pending_event(&self) -> bool {
        let state = &self.guest.state;
        state.chipset.has_interrupt(self.guest.me) || state.chipset.nmis(self.guest.me) > 0
    }
}

impl Host<'_, '_> {
    fn refused<T>(&self, index: u32, write: bool, known: bool) -> MsrAnswer<T> {
        let filtered = !known;
        let reason = if filtered {
            self.guest.msr_exit_reason(index, write, false)
        } else {
            self.guest.state.msr_invalid_exit()
        };
        match reason {
            Some(reason) => MsrAnswer::Exit(reason),
            None => MsrAnswer::Refused,
        }
    }
}

/// Whether KVM_GET_MSRS and KVM_SET_MSRS know a register of a TD's vCPU.
pub fn has_msr(index: u32, write: bool) -> bool {
    crate::tdx::vmcall::msrs::emulated(index, write) && index != msrs::TSC
}
