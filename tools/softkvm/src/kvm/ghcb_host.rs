//! What the GHCB protocol reaches of a VM.

use abi::snp::{FirmwareStatus, SevFeatures};

use super::errno::Errno;
use super::number::mp_state;
use super::world::Guest;
use crate::cpu::Core;
use crate::price::Price;
use crate::snp::Page;
use crate::snp::ghcb::{ApRequest, GhcbHost};

/// A vCPU outside its guest, between VMGEXIT and the next entry.
pub struct Host<'a, 'b> {
    /// The VM as the vCPU sees it.
    pub guest: &'a mut Guest<'b>,
    /// Its registers, for time and CPUID; the protocol cannot read the guest's from here.
    pub core: &'a mut Core,
}

impl GhcbHost for Host<'_, '_> {
    fn read_shared(&mut self, gpa: u64, out: &mut [u8]) -> bool {
        self.guest.state.memory.read_shared(gpa, out).is_ok()
    }

    fn write_shared(&mut self, gpa: u64, data: &[u8]) -> bool {
        let state = &mut *self.guest.state;
        let code = &mut state.code;
        state.memory.write_shared(gpa, data, |host, len| code.host_wrote(host, len)).is_ok()
    }

    fn port_in(&mut self, port: u16, size: u8) -> Option<u32> {
        self.guest.chip_in(self.core, port, size)
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) -> bool {
        self.guest.chip_out(self.core, port, size, value)
    }

    fn mmio_read(&mut self, gpa: u64, out: &mut [u8]) -> bool {
        let len = out.len().min(8);
        match self.guest.chip_read(self.core, gpa, len as u8) {
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
        self.guest.chip_write(self.core, gpa, len as u8, u64::from_le_bytes(bytes))
    }

    fn cpuid(
        &mut self,
        leaf: u32,
        subleaf: u32,
        _xcr0: Option<u64>,
        _xss: Option<u64>,
    ) -> [u32; 4] {
        self.guest.cpuid_now(self.core, leaf, subleaf)
    }

    fn rdmsr(&mut self, index: u32) -> Option<u64> {
        self.guest.read_msr(self.core, index)
    }

    fn wrmsr(&mut self, index: u32, value: u64) -> bool {
        self.guest.write_msr(self.core, index, value)
    }

    fn tsc(&mut self) -> u64 {
        crate::cpu::World::tsc(self.guest, self.core)
    }

    fn hypercall(&mut self, nr: u64, args: [u64; 4], cpl: u8) -> u64 {
        self.guest.kvm_hypercall(nr, args, cpl) as u64
    }

    fn map_gpa_exits(&self) -> bool {
        self.guest.state.switches.map_gpa_exits
    }

    fn legal_gpa(&self, gpa: u64) -> bool {
        let bits = self.guest.state.vcpus[self.guest.me].table.phys_bits();
        gpa >> bits.min(52) == 0
    }

    fn ap_creation(&mut self, apic_id: u32, request: ApRequest) -> bool {
        let state = &mut *self.guest.state;
        let Some(target) = state.vcpus.iter_mut().find(|vcpu| vcpu.id == apic_id) else {
            return false;
        };
        target.count("ap_creation");
        target.ap = Some(request);
        if request == ApRequest::Destroy {
            target.ap = None;
            target.vmsa_valid = false;
            target.mp_state = mp_state::HALTED;
        }
        self.guest.end_turn = true;
        true
    }

    fn ap_jump_table(&mut self) -> &mut u64 {
        &mut self.guest.state.jump_table
    }

    fn nmi_complete(&mut self) {
        self.core.nmi_blocked = false;
        self.core.attention = true;
    }

    fn features(&self) -> SevFeatures {
        self.guest.state.snp.features()
    }

    fn certs_enabled(&self) -> bool {
        self.guest.state.snp.certs_enabled()
    }

    fn guest_request(
        &mut self,
        request: &Page,
        response: &mut Page,
    ) -> Result<FirmwareStatus, i32> {
        let state = &mut *self.guest.state;
        let fd = state.snp.sev_fd().ok_or(Errno::EINVAL.0)?;
        if !super::is_sev(fd as i32) {
            return Err(Errno::EBADF.0);
        }
        let guest = state.snp.guest().ok_or(Errno::EINVAL.0)?;
        let mut psp = state.machine.psp();
        let status = match psp.guest_request(guest, request, response) {
            Ok(()) => FirmwareStatus::SUCCESS,
            Err(status) => status,
        };
        let spent = state.machine.take_psp_spent(&mut psp);
        drop(psp);
        let spent: Price = spent.into_iter().sum();
        state.counts.psp += spent;
        state.clock.charge(spent);
        Ok(status)
    }
}
