//! The machine as a processor of a TD sees it: the module stands between the two.

use abi::tdx::{TdxStatus, leaf, vmcall};

use super::memory::Memory;
use super::owed::Owed;
use super::run_page::UserExit;
use super::state::State;
use super::td::{Mapped, TdCpu};
use super::world::{EXIT, Guest, memory, refuse};
use crate::cpu::engine::CodeCache;
use crate::cpu::state::{RAX, RCX};
use crate::cpu::{Access, Core, Exception, Intercept, PageAnswer, PortAccess, Stop, Tdcall};
use crate::tdx::cpuid::{self, CpuidAnswer};
use crate::tdx::cr::{self, MovToCr};
use crate::tdx::instr::{self, Intercepted, IoAccess, Verdict};
use crate::tdx::msr::{self, MsrRead, MsrWrite};
use crate::tdx::tdcall::MemoryFault;
use crate::tdx::{self, PrivateAccess, Td, TdMemory, Tdcall as TdcallOutcome, VeInfo};

/// Exit qualification of an EPT violation (Intel SDM volume 3, "Exit Qualification for EPT Violations"): what was done, that
/// the linear address is valid and that its translation, not a paging structure, was the aim.
fn violation(access: Access) -> u64 {
    const LINEAR: u64 = 1 << 7;
    const FINAL: u64 = 1 << 8;
    match access {
        Access::Read => LINEAR | FINAL | 1,
        Access::Write => LINEAR | FINAL | 2,
        Access::Fetch => LINEAR | FINAL | 4,
        Access::Walk => LINEAR | 1,
        Access::WalkWrite => LINEAR | 3,
    }
}

/// Bits of an accepted page's address that hold its level: 0 is a page of 4 KiB.
const LEVEL: u64 = 7;

impl Guest<'_> {
    fn td(&self) -> Option<&Td> {
        self.state.td()
    }

    fn td_cpu(&mut self) -> Option<&mut TdCpu> {
        self.state.vcpus[self.me].td.as_deref_mut()
    }

    /// The TD's shared bit, as an address bit.
    pub fn shared_mask(&self) -> u64 {
        self.td().map_or(0, |td| td.gpaw().shared_mask())
    }

    /// The VM is dead: KVM_RUN fails with EIO.
    fn dead<T>(&mut self, why: String) -> Result<T, Stop> {
        self.state.kill(why);
        self.gone()
    }

    fn gone<T>(&mut self) -> Result<T, Stop> {
        self.state.vcpus[self.me].failure = Some(super::Errno::EIO);
        Err(EXIT)
    }

    fn memory_fault<T>(&mut self, gpa: u64, private: bool) -> Result<T, Stop> {
        self.state.vcpus[self.me].exit = Some(UserExit::MemoryFault { gpa, private });
        Err(EXIT)
    }

    /// Raises #VE.
    fn ve<T>(&mut self, core: &mut Core, info: VeInfo) -> Result<T, Stop> {
        Err(Stop::Fault(self.ve_exception(core, info)))
    }

    fn ve_exception(&mut self, core: &mut Core, info: VeInfo) -> Exception {
        let cost = self.state.td_costs.ve;
        self.state.clock.charge(cost);
        self.state.vcpus[self.me].count("ve");
        match self.td_cpu() {
            Some(cpu) => cpu.vcpu.raise_ve(core, info),
            None => Exception::VE,
        }
    }

    fn act(&mut self, core: &mut Core, verdict: Verdict) -> Result<(), Stop> {
        match verdict {
            Verdict::Native => Ok(()),
            Verdict::Ve(info) => self.ve(core, info),
            Verdict::Fault(exception) => Err(Stop::Fault(exception)),
        }
    }

    /// A TLB fill.
    pub fn td_page(&mut self, gpa: u64, access: Access, private: bool) -> Result<PageAnswer, Stop> {
        if !private {
            return self.td_shared_page(gpa, access);
        }
        loop {
            let Some(td) = self.td() else { return self.gone() };
            match td.private_access(gpa) {
                PrivateAccess::Allowed => {
                    return match self.state.memory.private_host(gpa) {
                        Some(host) => Ok(memory(host)),
                        None => self.dead(format!("private page {gpa:#x} has lost its memory")),
                    };
                }
                PrivateAccess::EptViolation => self.td_fault(gpa)?,
                PrivateAccess::PendingExit => return self.pending(gpa),
                PrivateAccess::PendingVe => return self.page_ve(gpa, access),
            }
        }
    }

    fn pending<T>(&mut self, gpa: u64) -> Result<T, Stop> {
        let me = self.me;
        self.dead(format!("Guest access before accepting {gpa:#x} on vCPU {me}"))
    }

    /// #VE about a page; [`crate::cpu::World::ve_at`] completes it.
    fn page_ve<T>(&mut self, gpa: u64, access: Access) -> Result<T, Stop> {
        let info = VeInfo {
            qualification: violation(access),
            gpa,
            ..VeInfo::of(vmcall::reason::EPT_VIOLATION, 0)
        };
        if let Some(cpu) = self.td_cpu() {
            cpu.ve = Some(info);
        }
        Err(Stop::Fault(Exception::VE))
    }

    /// The linear address of the #VE that a page has raised.
    pub fn td_ve_at(&mut self, core: &mut Core, la: u64) -> Exception {
        let Some(mut info) = self.td_cpu().and_then(|cpu| cpu.ve.take()) else {
            return Exception::VE;
        };
        info.gla = la;
        const WALK: u64 = 1 << 8;
        if info.qualification & WALK != 0 {
            info.gpa |= la & 0xfff;
        }
        self.ve_exception(core, info)
    }

    /// A TD exit by EPT violation on a private page: KVM maps it.
    fn td_fault(&mut self, gpa: u64) -> Result<(), Stop> {
        let cost = self.state.td_costs.exit;
        self.state.clock.charge(cost);
        match self.state.td_map(gpa) {
            Mapped::Pending => {
                self.page_fault();
                self.state.vcpus[self.me].count("aug");
                Ok(())
            }
            Mapped::MemoryFault => self.memory_fault(gpa, true),
            Mapped::Dead => self.gone(),
        }
    }

    fn td_shared_page(&mut self, gpa: u64, access: Access) -> Result<PageAnswer, Stop> {
        if access == Access::Fetch {
            return self.dead(format!("instruction fetch from shared memory at {gpa:#x}"));
        }
        if self.state.memory.is_private(gpa >> 12) {
            return self.memory_fault(gpa, false);
        }
        match self.shared_page(gpa, access)? {
            PageAnswer::Mmio => {
                let shared = self.shared_mask();
                self.page_ve(gpa | shared, access)
            }
            found @ PageAnswer::Memory(_) => Ok(found),
        }
    }

    /// An instruction that the module intercepts.
    pub fn td_intercept(&mut self, core: &mut Core, what: Intercept) -> Result<(), Stop> {
        let Some(td) = self.td() else { return Ok(()) };
        let length = core.insn_len;
        let verdict = match what {
            Intercept::WriteCr { register, value, gpr } => {
                let mov = MovToCr { value, gpr, length };
                match register {
                    0 => cr::write_cr0(mov),
                    4 => cr::write_cr4(td, mov),
                    _ => Verdict::Native,
                }
            }
            Intercept::Xsetbv { register, value } => cr::xsetbv(td, register, value),
            Intercept::Hlt => instr::intercept(td, Intercepted::Hlt, length),
            Intercept::Invd => instr::intercept(td, Intercepted::Invd, length),
            Intercept::Wbinvd => instr::intercept(td, Intercepted::Wbinvd, length),
            Intercept::Rdpmc => instr::intercept(td, Intercepted::Rdpmc, length),
            Intercept::Vmmcall => instr::intercept(td, Intercepted::Vmcall, length),
            Intercept::Monitor => instr::intercept(td, Intercepted::Monitor, length),
            Intercept::Mwait => instr::intercept(td, Intercepted::Mwait, length),
            Intercept::Pconfig => instr::intercept(td, Intercepted::Pconfig, length),
            Intercept::Port(access) => {
                instr::intercept(td, Intercepted::Io(io_access(&access)), length)
            }
            // CPUID has a hook of its own; the others are the processor's.
            Intercept::Cpuid
            | Intercept::Rdtsc
            | Intercept::Rdtscp
            | Intercept::ReadDr7
            | Intercept::WriteDr7 => Verdict::Native,
        };
        self.act(core, verdict)
    }

    /// CPUID.
    pub fn td_cpuid(&mut self, core: &mut Core, leaf: u32, subleaf: u32) -> Result<[u32; 4], Stop> {
        let vcpu = &self.state.vcpus[self.me];
        let (Some(td), Some(cpu)) = (self.state.td(), &vcpu.td) else { return refuse() };
        match cpuid::answer(td, &cpu.vcpu, core, leaf, subleaf) {
            CpuidAnswer::Value(words) => {
                self.state.clock.charge(self.state.td_costs.emulation);
                self.state.vcpus[self.me].count("cpuid");
                Ok(words)
            }
            CpuidAnswer::Ve => {
                let info = VeInfo::of(vmcall::CPUID as u32, u32::from(core.insn_len));
                self.ve(core, info)
            }
        }
    }

    /// RDMSR, before the processor: `None` if it is the processor's own.
    pub fn td_rdmsr(&mut self, core: &mut Core, index: u32) -> Result<Option<u64>, Stop> {
        let machine = self.state.machine.clone();
        let vcpu = &self.state.vcpus[self.me];
        let parts = (self.state.td(), &vcpu.td, super::state::State::tdx_platform(&machine));
        let (Some(td), Some(cpu), Some(platform)) = parts else { return refuse() };
        match msr::read(td, &cpu.vcpu, platform, index) {
            MsrRead::Native => Ok(None),
            MsrRead::Value(value) => {
                self.state.clock.charge(self.state.td_costs.emulation);
                Ok(Some(value))
            }
            MsrRead::Ve => {
                let info = VeInfo::of(vmcall::RDMSR as u32, u32::from(core.insn_len));
                self.ve(core, info)
            }
            MsrRead::Gp => refuse(),
            MsrRead::NotModelled => {
                let rip = core.rip;
                self.state.complain(format!(
                    "RDMSR {index:#x} at {rip:#x}: the module's value is not modelled"
                ));
                self.state.vcpus[self.me].exit = Some(UserExit::Internal { bytes: Vec::new() });
                Err(EXIT)
            }
        }
    }

    /// WRMSR, before the processor: whether it is done.
    pub fn td_wrmsr(&mut self, core: &mut Core, index: u32, value: u64) -> Result<bool, Stop> {
        let Some(td) = self.td() else { return refuse() };
        match msr::write(td, core, index, value) {
            MsrWrite::Native(native) if native == value => Ok(false),
            MsrWrite::Native(native) => {
                // The module writes another value than the guest's.
                match core.wrmsr_local(index, native) {
                    Some(Ok(())) => {
                        core.update_mode();
                        Ok(true)
                    }
                    Some(Err(exception)) => Err(Stop::Fault(exception)),
                    None => self.td_native_wrmsr(core, index, native).map(|()| true),
                }
            }
            MsrWrite::Ve => {
                let info = VeInfo::of(vmcall::WRMSR as u32, u32::from(core.insn_len));
                self.ve(core, info)
            }
            MsrWrite::Gp => refuse(),
        }
    }

    /// A register that the processor answers without an exit, but not from [`Core`]: the time stamp counter, the virtual
    /// APIC page, and what only exists in name.
    pub fn td_native_rdmsr(&mut self, core: &mut Core, index: u32) -> Result<u64, Stop> {
        self.read_msr(core, index).map_or_else(refuse, Ok)
    }

    /// The same for writes.
    pub fn td_native_wrmsr(&mut self, core: &mut Core, index: u32, value: u64) -> Result<(), Stop> {
        if self.write_msr(core, index, value) { Ok(()) } else { refuse() }
    }

    /// TDCALL.
    pub fn td_call(&mut self, core: &mut Core) -> Result<Tdcall, Stop> {
        let number = core.gpr[RAX] as u16;
        self.state.vcpus[self.me].count("tdcall");
        loop {
            let state = &mut *self.state;
            let (Some(vm), Some(cpu)) = (&mut state.td, &mut state.vcpus[self.me].td) else {
                return Err(Stop::Fault(Exception::UD));
            };
            let mut lent = Lent { memory: &mut state.memory, code: &mut state.code };
            let huge = core.gpr[RCX] & LEVEL != 0;
            match tdx::tdcall(&mut vm.td, &mut cpu.vcpu, core, &mut lent) {
                TdcallOutcome::Done => {
                    self.charge_call(core, number);
                    if number == leaf::MEM_PAGE_ACCEPT {
                        self.state.count_accept(TdxStatus(core.gpr[RAX]), huge);
                    }
                    return Ok(Tdcall::Done);
                }
                TdcallOutcome::Vmcall => return Ok(Tdcall::Leave),
                TdcallOutcome::EptViolation { gpa, shared: false, .. } => self.td_fault(gpa)?,
                TdcallOutcome::EptViolation { gpa, shared: true, .. } => {
                    self.td_shared_page(gpa, Access::Write)?;
                }
                TdcallOutcome::PendingExit { gpa } => return self.pending(gpa),
                TdcallOutcome::Fault(exception) => return Err(Stop::Fault(exception)),
            }
        }
    }

    fn charge_call(&mut self, core: &Core, number: u16) {
        let costs = &self.state.td_costs;
        let accepted = number == leaf::MEM_PAGE_ACCEPT && core.gpr[RAX] == 0;
        let cost = match number {
            _ if accepted => costs.page_accept,
            leaf::MR_REPORT => costs.mr_report,
            _ => costs.tdcall,
        };
        self.state.clock.charge(cost);
        if accepted {
            self.state.vcpus[self.me].count("accept");
        }
    }
}

impl State {
    /// TDG.MEM.PAGE.ACCEPT has ended.
    fn count_accept(&mut self, status: TdxStatus, huge: bool) {
        let counts = &mut self.counts;
        match status.code() {
            TdxStatus::PAGE_SIZE_MISMATCH => counts.accept_mismatch += 1,
            TdxStatus::SUCCESS if huge => counts.accept_2m += 1,
            TdxStatus::SUCCESS => counts.accept_4k += 1,
            _ => {}
        }
    }
}

fn io_access(access: &PortAccess) -> IoAccess {
    IoAccess {
        port: access.port,
        size: access.size,
        input: access.input,
        string: access.string,
        rep: access.repeated,
        immediate: access.immediate,
        gla: 0,
        instruction_info: 0,
    }
}

/// Memory as the module reaches it during TDCALL.
struct Lent<'a> {
    memory: &'a mut Memory,
    code: &'a mut CodeCache,
}

impl Lent<'_> {
    fn shared_fault(&self, gpa: u64) -> MemoryFault {
        if !self.memory.is_private(gpa >> 12) && self.memory.slot(gpa).is_none() {
            MemoryFault::Mmio
        } else {
            MemoryFault::EptViolation
        }
    }

    fn put(&mut self, gpa: u64, data: Option<&[u8]>) -> Result<(), MemoryFault> {
        let Some(data) = data else {
            let host = self.memory.owe(gpa, Owed::Zeros).ok_or(MemoryFault::EptViolation)?;
            self.code.host_wrote(host, 4096);
            return Ok(());
        };
        let page = self.memory.private_bytes(gpa).ok_or(MemoryFault::EptViolation)?;
        let at = (gpa & 0xfff) as usize;
        page[at..at + data.len()].copy_from_slice(data);
        self.code.host_wrote(page.as_ptr(), page.len());
        Ok(())
    }
}

impl TdMemory for Lent<'_> {
    fn read(&mut self, gpa: u64, shared: bool, out: &mut [u8]) -> Result<(), MemoryFault> {
        if shared {
            let private = self.memory.is_private(gpa >> 12);
            return if !private && self.memory.read_shared(gpa, out).is_ok() {
                Ok(())
            } else {
                Err(self.shared_fault(gpa))
            };
        }
        let page = self.memory.private_bytes(gpa).ok_or(MemoryFault::EptViolation)?;
        let at = (gpa & 0xfff) as usize;
        out.copy_from_slice(&page[at..at + out.len()]);
        Ok(())
    }

    fn write(&mut self, gpa: u64, shared: bool, data: &[u8]) -> Result<(), MemoryFault> {
        if !shared {
            return self.put(gpa, Some(data));
        }
        let code = &mut *self.code;
        let private = self.memory.is_private(gpa >> 12);
        let wrote = |host: *const u8, len| code.host_wrote(host, len);
        if !private && self.memory.write_shared(gpa, data, wrote).is_ok() {
            Ok(())
        } else {
            Err(self.shared_fault(gpa))
        }
    }

    fn clear(&mut self, gpa: u64) -> Result<(), MemoryFault> {
        self.put(gpa & !0xfff, None)
    }
}
