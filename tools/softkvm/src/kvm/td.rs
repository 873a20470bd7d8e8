//! What KVM keeps of a TD, and how it gives and takes its pages (Linux 7.2 arch/x86/kvm/vmx/tdx.c, arch/x86/kvm/mmu).

use std::ops::Range;

use abi::tdx::TdxStatus;

use super::caps::VmKind;
use super::errno::{Answer, Errno};
use super::memory::Half;
use super::state::State;
use super::td_quotes::Quotes;
use crate::chipset::{BASE_BSP, BASE_ENABLE, BASE_X2APIC, DEFAULT_BASE};
use crate::cpu::state::Mode;
use crate::cpu::{Core, Features};
use crate::tdx::cpuid::{self, CpuidAnswer};
use crate::tdx::entry::first_state;
use crate::tdx::{OpState, PageState, Td, TdVcpu, TdxPlatform, VeInfo, Vmcall};

/// Frames of a table of the secure EPT.
const TABLE: u64 = 512;
/// PAT after reset.
const PAT: u64 = 0x0007_0406_0007_0406;

/// A TD; by default one before INIT_VM.
#[derive(Default)]
pub struct TdVm {
    /// The module's part.
    pub td: Td,
    /// Its key, from INIT_VM on.
    pub hkid: Option<u16>,
    /// The machine's time at INIT_VM: the TD's TSC counts from there.
    pub tsc_base: u64,
    /// Quotes that it waits for.
    pub quotes: Quotes,
}

/// A vCPU of a TD, from INIT_VCPU on.
pub struct TdCpu {
    /// The module's part.
    pub vcpu: TdVcpu,
    /// What its guest asks the host for.
    pub vmcall: Vmcall,
    /// It sleeps in TDVMCALL; `true` if it says that its interrupts are blocked.
    pub halt: Option<bool>,
    /// PAT as KVM keeps it; the guest has its own.
    pub pat: u64,
    /// The #VE that a page has raised, before the linear address is known.
    pub ve: Option<VeInfo>,
}

/// What a fault on a private page comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// The page is there now, pending.
    Pending,
    /// KVM_EXIT_MEMORY_FAULT: the page is not private, or has no memory.
    MemoryFault,
    /// The module refuses: the VM is dead.
    Dead,
}

impl State {
    /// Whether the guest waits for a quote that is being made outside.
    pub fn awaits_quote(&mut self) -> bool {
        self.td.as_mut().is_some_and(|td| td.quotes.awaited(&mut self.memory))
    }

    /// The TD; `None` for other VMs.
    pub fn td(&self) -> Option<&Td> {
        self.td.as_ref().map(|vm| &vm.td)
    }

    /// Whether FINALIZE_VM has been.
    pub fn is_td_runnable(&self) -> bool {
        self.td().is_some_and(|td| td.op_state() == OpState::Runnable)
    }

    /// EIO once the VM is dead or bugged.
    pub fn alive(&self) -> Answer {
        if self.dead { Err(Errno::EIO) } else { Ok(()) }
    }

    /// KVM gives the VM up: every later ioctl fails.
    pub fn kill(&mut self, why: String) {
        self.dead = true;
        self.complain(why);
        self.vcpus.iter().filter(|vcpu| vcpu.waiting).for_each(|vcpu| vcpu.wake.signal());
    }

    /// A SEAMCALL has failed in a way that KVM does not expect.
    pub fn bug(&mut self, what: &str, status: TdxStatus) -> Errno {
        self.kill(format!("{what} failed with {status:?}: KVM gives the VM up"));
        Errno::EIO
    }

    /// A fault on a private page, or KVM_PRE_FAULT_MEMORY: TDH.MEM.PAGE.AUG.
    pub fn td_map(&mut self, gpa: u64) -> Mapped {
        let gpa = gpa & !0xfff;
        if !self.memory.is_private(gpa >> 12) || !self.memory.is_guarded(gpa) {
            return Mapped::MemoryFault;
        }
        match self.td_aug(gpa) {
            Ok(()) => Mapped::Pending,
            Err(status) => {
                self.bug("TDH.MEM.PAGE.AUG", status);
                Mapped::Dead
            }
        }
    }

    /// TDH.MEM.PAGE.AUG and the tables it needs.
    pub fn td_aug(&mut self, gpa: u64) -> Result<(), TdxStatus> {
        let Some(vm) = &mut self.td else { return Err(TdxStatus::OP_STATE_INCORRECT) };
        if vm.td.sept_add(gpa)? {
            self.clock.charge(self.td_costs.sept_add);
        }
        vm.td.page_aug(gpa)?;
        self.memory.map(gpa, Half::Private);
        self.clock.charge(self.td_costs.page_aug);
        Ok(())
    }

    /// TDH.MEM.PAGE.ADD and the tables it needs, with the contents.
    pub fn td_add(&mut self, gpa: u64, page: &[u8; 4096], measure: bool) -> Result<(), TdxStatus> {
        let Some(vm) = &mut self.td else { return Err(TdxStatus::OP_STATE_INCORRECT) };
        if vm.td.sept_add(gpa)? {
            self.clock.charge(self.td_costs.sept_add);
        }
        vm.td.page_add(gpa)?;
        self.memory.map(gpa, Half::Private);
        self.clock.charge(self.td_costs.page_add);
        if let Some(host) = self.memory.private_bytes(gpa) {
            *host = *page;
            self.code.host_wrote(host.as_ptr(), 4096);
        }
        if measure {
            let (chunks, _) = page.as_chunks();
            for (chunk, at) in chunks.iter().zip((gpa..).step_by(chunks[0].len())) {
                vm.td.mr_extend(at, chunk)?;
                self.clock.charge(self.td_costs.mr_extend);
            }
        }
        Ok(())
    }

    /// Takes pages away from the TD: TDH.MEM.RANGE.BLOCK, TRACK and PAGE.REMOVE of each that is mapped.
    pub fn td_zap(&mut self, frames: Range<u64>) {
        let mut frame = frames.start;
        while frame < frames.end {
            let Some(td) = self.td() else { return };
            if !td.sept().has_table(frame) {
                frame = (frame / TABLE + 1) * TABLE;
                continue;
            }
            if td.sept().state(frame) != PageState::Free
                && let Err(status) = self.td_remove(frame << 12)
            {
                self.bug("TDH.MEM.PAGE.REMOVE", status);
                return;
            }
            frame += 1;
        }
    }

    /// Takes one page away from the TD.
    pub fn td_remove(&mut self, gpa: u64) -> Result<(), TdxStatus> {
        let Some(vm) = &mut self.td else { return Err(TdxStatus::OP_STATE_INCORRECT) };
        vm.td.range_block(gpa)?;
        vm.td.track()?;
        vm.td.page_remove(gpa)?;
        self.memory.unmap(gpa >> 12..(gpa >> 12) + 1, Half::Private);
        self.clock.charge(self.td_costs.page_remove);
        self.vcpus.iter_mut().for_each(|vcpu| vcpu.flush = true);
        Ok(())
    }

    /// INIT_VCPU, its command being checked.
    pub fn td_init_vcpu(&mut self, index: usize, rcx: u64) -> Answer {
        let machine = self.machine.clone();
        let platform = machine.xeon.as_ref().map(|xeon| &xeon.tdx).ok_or(Errno::EINVAL)?;
        let id = self.vcpus[index].id;
        let bsp = if id == self.switches.boot_cpu { BASE_BSP } else { 0 };
        // The mode that KVM sets must be one that KVM_SET_CPUID2 offers.
        const X2APIC: u32 = 1 << 21;
        Errno::require(self.vcpus[index].table.ecx_1() & X2APIC != 0)?;
        let base = DEFAULT_BASE | BASE_ENABLE | BASE_X2APIC | bsp;
        self.chipset.set_apic_base(index, base, true).map_err(|_| Errno::EINVAL)?;
        let vm = self.td.as_mut().ok_or(Errno::EINVAL)?;
        let vcpu = match vm.td.init_vcpu(id, rcx) {
            Ok(vcpu) => vcpu,
            Err(status) => return Err(self.bug("TDH.VP.INIT", status)),
        };
        let mut core = first_state(&vm.td, &vcpu, platform);
        core.features = features(&vm.td, &vcpu, &core);
        let offset = vm.tsc_base.wrapping_neg();
        self.chipset.set_tsc_offset(index, offset);
        self.clock.charge(self.td_costs.vp_init);
        let mine = &mut self.vcpus[index];
        if let Some(p) = &mut mine.processor {
            core.instructions = p.core.instructions;
            p.core = core;
            p.phys_bits = platform.phys_bits;
            p.flush_tlb();
        }
        mine.td =
            Some(Box::new(TdCpu { vcpu, vmcall: Vmcall::new(), halt: None, pat: PAT, ve: None }));
        mine.mp_state = super::number::mp_state::RUNNABLE;
        Ok(())
    }

    /// Most vCPUs of this VM.
    pub fn max_vcpus(&self) -> u32 {
        super::caps::max_vcpus(&self.machine, Some(self.kind))
    }

    /// What KVM_CREATE_VCPU wants of a TD (`tdx_vcpu_create`).
    pub fn td_admits_vcpu(&self) -> Answer {
        let Some(td) = self.td() else { return Ok(()) };
        if td.op_state() != OpState::Initialized {
            return Err(Errno::EIO);
        }
        Errno::require(matches!(self.chipset.mode(), crate::chipset::Irqchip::Split(_)))
    }

    /// Whether KVM_RUN is possible for a TD's vCPU (`tdx_vcpu_pre_run`).
    pub fn td_admits_run(&self, index: usize) -> Answer {
        Errno::require(
            self.kind != VmKind::Tdx || self.vcpus[index].td.is_some() && self.is_td_runnable(),
        )
    }

    /// The part with its module.
    pub fn tdx_platform(machine: &super::Machine) -> Option<&TdxPlatform> {
        machine.xeon.as_ref().map(|xeon| &xeon.tdx)
    }
}

/// What a TD's CPUID offers in 64-bit mode, and TDCALL.
fn features(td: &Td, vcpu: &TdVcpu, core: &Core) -> Features {
    let core = Core { mode: Mode::Long64, ..core.clone() };
    let found =
        Features::from_cpuid(|leaf, subleaf| match cpuid::answer(td, vcpu, &core, leaf, subleaf) {
            CpuidAnswer::Value(words) => words,
            CpuidAnswer::Ve => [0; 4],
        });
    found | Features::TDX
}
