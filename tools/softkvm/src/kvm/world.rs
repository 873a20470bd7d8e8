//! The machine as one of its processors sees it: memory, devices, MSRs, CPUID, intercepts.

use super::caps::{QUIRK_FIX_HYPERCALL, VmKind};
use super::errno::Errno;
use super::memory::Half;
use super::msrs;
use super::number::mp_state;
use super::protection::Shield;
use super::replay::{Reply, Touch};
use super::run_page::UserExit;
use super::spin::Pause;
use super::state::{Completion, State, Vcpu};
use super::symbols::Met;
use crate::chipset::{Event, kvmclock};
use crate::cpu::state::{RAX, RBX, RCX, RDX, RSI, cr4};
use crate::cpu::{
    Access, Core, Exception, Exit, HostPage, Intercept, OwnerBit, PageAnswer, Stop, Tdcall, World,
};
use crate::price::Price;
use abi::ghcb::exit as vc;
use abi::snp::SevFeatures;

/// KVM_MSR_EXIT_REASON_*.
const MSR_UNKNOWN: u32 = 2;
const MSR_FILTER: u32 = 4;
const MSR_INVALID: u32 = 1;
/// KVM_ENOSYS as a guest sees it.
const KVM_ENOSYS: i64 = -1000;

/// A running processor's view of its VM.
pub struct Guest<'a> {
    /// The VM.
    pub state: &'a mut State,
    /// Index of the running vCPU.
    pub me: usize,
    /// The turn shall end: a timer or another vCPU has become due.
    pub end_turn: bool,
    /// When the turn was to end for a timer.
    pub horizon: u64,
}

pub(super) const EXIT: Stop = Stop::Exit(Exit::World);

pub(super) fn refuse<T>() -> Result<T, Stop> {
    Err(Stop::Fault(Exception::gp(0)))
}

impl State {
    /// Why user space wants to hear of an access that a known MSR refuses.
    pub fn msr_invalid_exit(&self) -> Option<u32> {
        (self.switches.msr_exits & MSR_INVALID != 0).then_some(MSR_INVALID)
    }
}

impl Guest<'_> {
    pub(super) fn vcpu(&mut self) -> &mut Vcpu {
        &mut self.state.vcpus[self.me]
    }

    fn protected(&self) -> bool {
        self.shield() == Shield::Snp
    }

    /// Something that an unprotected guest did made the processor leave it; a protected one asks by VMGEXIT or TDVMCALL,
    /// which are counted themselves.
    fn left(&mut self, event: &'static str) {
        let plain = self.shield() == Shield::None;
        let vcpu = self.vcpu();
        vcpu.counts.exits += u64::from(plain);
        vcpu.count(event);
    }

    /// A nested page fault that ends with a page being there, if it has not been there before.
    pub(super) fn map(&mut self, gpa: u64, half: Half) {
        if self.state.memory.map(gpa, half) {
            self.page_fault();
        }
    }

    /// A nested page fault that KVM cures.
    pub(super) fn page_fault(&mut self) {
        let counts = &mut self.vcpu().counts;
        counts.exits += 1;
        counts.page_faults += 1;
    }

    fn shield(&self) -> Shield {
        self.state.shield(self.me)
    }

    fn now(&self, core: &Core) -> u64 {
        self.state.clock.now_in(core)
    }

    /// After the chips were touched: does anything become due before the turn's end?
    fn after_chips(&mut self, core: &mut Core) {
        let me = self.me;
        let due = self.state.chipset.next_event().is_some_and(|at| at < self.horizon);
        if due {
            self.end_turn = true;
        }
        if self.state.chipset.has_events() {
            let mut others = Vec::new();
            for event in self.state.chipset.take_events() {
                match event {
                    Event::Wake(index) if index == me => core.attention = true,
                    other => others.push(other),
                }
            }
            if !others.is_empty() {
                self.end_turn = true;
                self.state.deferred.extend(others);
            }
        }
        if self.end_turn {
            core.attention = true;
        }
    }

    /// Leaves to user space for the answer to an access.
    fn ask<T>(&mut self, touch: Touch, exit: UserExit) -> Result<T, Stop> {
        let plain = self.shield() == Shield::None;
        let vcpu = self.vcpu();
        match touch {
            Touch::In { .. } | Touch::Out { .. } => vcpu.counts.exits += u64::from(plain),
            Touch::Read { .. } | Touch::Write { .. } => {
                vcpu.counts.exits += u64::from(plain);
                vcpu.counts.mmio += u64::from(plain);
                vcpu.counts.emulated += u64::from(plain);
            }
            // Counted when they began.
            Touch::Rdmsr(_) | Touch::Wrmsr(..) | Touch::Hypercall(_) => {}
        }
        vcpu.completion = Completion::Touch(touch);
        vcpu.exit = Some(exit);
        Err(EXIT)
    }

    fn known(&mut self, core: &Core, touch: Touch) -> Option<u64> {
        match self.vcpu().replay.find(core, touch)? {
            Reply::Value(value) => Some(value),
            Reply::Refused => None,
        }
    }

    fn answered(&mut self, touch: Touch, value: u64) {
        self.vcpu().replay.add(touch, Reply::Value(value));
    }

    pub(super) fn shared_page(&mut self, gpa: u64, access: Access) -> Result<PageAnswer, Stop> {
        let write = matches!(access, Access::Write | Access::WalkWrite);
        match self.state.memory.shared_page(gpa, write) {
            Ok(host) => {
                self.map(gpa, Half::Shared);
                Ok(memory(host))
            }
            Err(Errno::ENOENT) => Ok(PageAnswer::Mmio),
            Err(_) => {
                // KVM_RUN fails with EFAULT; KVM describes the address as well.
                self.vcpu().exit = Some(UserExit::MemoryFault { gpa, private: false });
                Err(EXIT)
            }
        }
    }

    /// A device in the kernel is read; `None` if there is none, and the access is user space's.
    pub fn chip_read(&mut self, core: &mut Core, gpa: u64, len: u8) -> Option<u64> {
        let now = self.now(core);
        let value = self.state.chipset.mmio_read(self.me, gpa, len, now);
        self.charge_exit();
        let value = value?;
        self.left("apic_access");
        self.vcpu().counts.emulated += 1;
        self.after_chips(core);
        Some(value)
    }

    /// A device in the kernel, or an ioeventfd, is written to.
    pub fn chip_write(&mut self, core: &mut Core, gpa: u64, len: u8, value: u64) -> bool {
        let now = self.now(core);
        let taken = self.state.chipset.mmio_write(self.me, gpa, len, value, now).is_some();
        self.charge_exit();
        if taken {
            self.left("apic_access");
            self.vcpu().counts.emulated += 1;
            self.after_chips(core);
            return true;
        }
        self.taken_in_kernel(false, gpa, len, value)
    }

    fn taken_in_kernel(&mut self, pio: bool, addr: u64, len: u8, value: u64) -> bool {
        let event = if self.state.eventfds.write(pio, addr, len, value) {
            "ioeventfd"
        } else if self.state.coalesced.write(pio, addr, len, value) {
            "coalesced"
        } else {
            return false;
        };
        self.left(event);
        self.vcpu().counts.io += u64::from(pio);
        true
    }

    /// An access to a device has left the guest. One that came by a VMGEXIT or a TDVMCALL has been charged for.
    fn charge_exit(&mut self) {
        if self.shield() == Shield::None {
            self.state.clock.charge(self.state.costs.exit);
        }
    }

    /// A port of a device in the kernel is read.
    pub fn chip_in(&mut self, core: &mut Core, port: u16, len: u8) -> Option<u32> {
        let now = self.now(core);
        let value = self.state.chipset.port_in(port, len, now);
        self.charge_exit();
        self.state.clock.charge(self.state.costs.port_io);
        let value = value?;
        self.left("port_in_kernel");
        self.vcpu().counts.io += 1;
        self.after_chips(core);
        Some(value)
    }

    /// A port of a device in the kernel, or an ioeventfd, is written to.
    pub fn chip_out(&mut self, core: &mut Core, port: u16, len: u8, value: u32) -> bool {
        let now = self.now(core);
        let taken = self.state.chipset.port_out(port, len, value, now).is_some();
        self.charge_exit();
        self.state.clock.charge(self.state.costs.port_io);
        if taken {
            self.left("port_out_kernel");
            self.vcpu().counts.io += 1;
            self.after_chips(core);
            return true;
        }
        self.taken_in_kernel(true, u64::from(port), len, u64::from(value))
    }

    /// An MSR that KVM emulates; `None` if there is none.
    pub fn read_msr(&mut self, core: &mut Core, index: u32) -> Option<u64> {
        let now = self.now(core);
        let offset = self.state.chipset.tsc_offset(self.me);
        if index == msrs::TSC {
            return Some(now.wrapping_add(offset));
        }
        if index == msrs::FEATURE_CONTROL && self.state.machine.xeon.is_some() {
            return Some(msrs::FEATURES_LOCKED);
        }
        if self.hides_pv_msr(index) {
            return None;
        }
        if let Some(answer) = self.state.chipset.msr_read(self.me, index, now) {
            self.after_chips(core);
            return answer.ok();
        }
        self.vcpu().msrs.read(index)
    }

    /// As [`Guest::read_msr`]; `false` if it is refused.
    pub fn write_msr(&mut self, core: &mut Core, index: u32, value: u64) -> bool {
        let now = self.now(core);
        match index {
            msrs::TSC => {
                let offset = self.state.chipset.tsc_offset(self.me);
                let moved = value.wrapping_sub(now.wrapping_add(offset));
                let adjust = self.vcpu().msrs.read(msrs::TSC_ADJUST).unwrap_or(0);
                self.vcpu().msrs.write(msrs::TSC_ADJUST, adjust.wrapping_add(moved), false);
                self.state.chipset.set_tsc_offset(self.me, offset.wrapping_add(moved));
                self.after_chips(core);
                return true;
            }
            msrs::TSC_ADJUST => {
                let old = self.vcpu().msrs.read(index).unwrap_or(0);
                let offset = self.state.chipset.tsc_offset(self.me);
                let moved = offset.wrapping_add(value.wrapping_sub(old));
                self.state.chipset.set_tsc_offset(self.me, moved);
                self.vcpu().msrs.write(index, value, false);
                self.after_chips(core);
                return true;
            }
            _ => {}
        }
        if self.hides_pv_msr(index) {
            return false;
        }
        if let Some(answer) = self.state.chipset.msr_write(self.me, index, value, false, now) {
            self.after_chips(core);
            return answer.is_ok();
        }
        self.vcpu().msrs.write(index, value, false)
    }

    /// Whether a paravirtual register belongs to a feature that the guest is not to use.
    fn hides_pv_msr(&self, index: u32) -> bool {
        let feature = kvmclock::feature(index);
        feature.is_some_and(|feature| !self.state.vcpus[self.me].pv_has(feature))
    }

    pub(super) fn msr_exit_reason(&self, index: u32, write: bool, unknown: bool) -> Option<u32> {
        let switches = &self.state.switches;
        let filtered = !switches.filter.allows(index, write);
        let reason = match (filtered, unknown) {
            (true, _) => MSR_FILTER,
            (false, true) => MSR_UNKNOWN,
            (false, false) => MSR_INVALID,
        };
        (switches.msr_exits & reason != 0).then_some(reason)
    }

    fn complain_msr(&mut self, core: &Core, what: &str, index: u32) {
        let rip = core.rip;
        self.state.complain(format!("{what} of unknown MSR {index:#x} at {rip:#x}: #GP"));
    }

    /// CPUID with what changes at run time.
    pub fn cpuid_now(&mut self, core: &Core, leaf: u32, subleaf: u32) -> [u32; 4] {
        let mut words = self.state.vcpus[self.me].table.answer(leaf, subleaf);
        self.state.update_cpuid(self.me, core, leaf, &mut words);
        words
    }
}

impl State {
    /// The guest's kernel is about to run code at an address; whether that is to be said again.
    fn meet_symbol(&mut self, core: &Core, rip: u64) -> bool {
        let now = || self.chipset.clock(self.clock.now_in(core)).0;
        let met = match &mut self.symbols {
            Some(watch) => watch.meet(rip, now),
            None => Met::Last,
        };
        if met == Met::Stranger {
            self.complain(format!(
                "SOFTKVM_SYMBOLS are of another kernel: the one that runs begins at {rip:#x}"
            ));
        }
        met == Met::More
    }

    /// What changes at run time in the answer to a function of CPUID (Linux arch/x86/kvm/cpuid.c
    /// `kvm_update_cpuid_runtime`).
    pub fn update_cpuid(&self, index: usize, core: &Core, leaf: u32, words: &mut [u32; 4]) {
        let enabled = self.chipset.apic_base(index) & crate::chipset::BASE_ENABLE != 0;
        if leaf == 1 {
            words[3] = words[3] & !(1 << 9) | u32::from(enabled) << 9;
            let osxsave = core.cr4 & cr4::OSXSAVE != 0;
            words[2] = words[2] & !(1 << 27) | u32::from(osxsave) << 27;
        }
    }
}

/// Ordinary, writable memory.
pub(super) fn memory(host: *mut u8) -> PageAnswer {
    PageAnswer::Memory(HostPage { host, writable: true })
}

impl World for Guest<'_> {
    fn page(&mut self, gpa: u64, access: Access, private: bool) -> Result<PageAnswer, Stop> {
        match self.shield() {
            Shield::Snp => return self.snp_page(gpa, access, private),
            Shield::Td => return self.td_page(gpa, access, private),
            Shield::None => {}
        }
        if self.state.kind == VmKind::SwProtected && self.state.memory.is_private(gpa >> 12) {
            return match self.state.memory.private_host(gpa) {
                Some(host) => {
                    self.map(gpa, Half::Private);
                    Ok(memory(host))
                }
                None => {
                    self.vcpu().exit = Some(UserExit::MemoryFault { gpa, private: true });
                    Err(EXIT)
                }
            };
        }
        let write = matches!(access, Access::Write | Access::WalkWrite);
        match self.state.memory.slot(gpa) {
            None => Ok(PageAnswer::Mmio),
            Some(slot) if slot.readonly() => {
                if write {
                    return Ok(PageAnswer::Mmio);
                }
                let host = match self.shared_page(gpa, access)? {
                    PageAnswer::Memory(page) => page.host,
                    PageAnswer::Mmio => return Ok(PageAnswer::Mmio),
                };
                Ok(PageAnswer::Memory(HostPage { host, writable: false }))
            }
            Some(_) => self.shared_page(gpa, access),
        }
    }

    fn owner_bit(&self) -> Option<OwnerBit> {
        match self.shield() {
            Shield::None => None,
            Shield::Snp => Some(OwnerBit::Private(self.state.c_bit)),
            Shield::Td => self.state.td().map(|td| OwnerBit::Shared(td.gpaw().shared_bit())),
        }
    }

    fn ve_at(&mut self, core: &mut Core, la: u64) -> Exception {
        self.td_ve_at(core, la)
    }

    fn rdmsr_first(&mut self, core: &mut Core, index: u32) -> Result<Option<u64>, Stop> {
        match self.shield() {
            Shield::Td => self.td_rdmsr(core, index),
            Shield::Snp => Ok(None),
            Shield::None => {
                // The filter may have changed since user space was asked.
                let asked = self.vcpu().replay.find(core, Touch::Rdmsr(index));
                self.vcpu().replay.rewind();
                let filtered = !self.state.switches.filter.allows(index, false);
                if asked.is_some() || filtered {
                    self.rdmsr(core, index).map(Some)
                } else {
                    Ok(None)
                }
            }
        }
    }

    fn wrmsr_first(&mut self, core: &mut Core, index: u32, value: u64) -> Result<bool, Stop> {
        match self.shield() {
            Shield::Td => self.td_wrmsr(core, index, value),
            Shield::Snp => Ok(false),
            Shield::None => {
                let asked = self.vcpu().replay.find(core, Touch::Wrmsr(index, value));
                self.vcpu().replay.rewind();
                let filtered = !self.state.switches.filter.allows(index, true);
                if !filtered && asked.is_none() {
                    return Ok(false);
                }
                self.wrmsr(core, index, value).map(|()| true)
            }
        }
    }

    fn tdcall(&mut self, core: &mut Core) -> Result<Tdcall, Stop> {
        self.td_call(core)
    }

    fn mmio_read(&mut self, core: &mut Core, gpa: u64, len: u8) -> Result<u64, Stop> {
        let touch = Touch::Read { gpa, len };
        if let Some(value) = self.known(core, touch) {
            return Ok(value);
        }
        match self.chip_read(core, gpa, len) {
            Some(value) => {
                self.answered(touch, value);
                Ok(value)
            }
            None => self.ask(touch, UserExit::Mmio { gpa, len, data: None }),
        }
    }

    fn mmio_write(&mut self, core: &mut Core, gpa: u64, len: u8, value: u64) -> Result<(), Stop> {
        let touch = Touch::Write { gpa, len, value };
        if self.known(core, touch).is_some() {
            return Ok(());
        }
        if self.chip_write(core, gpa, len, value) {
            self.answered(touch, 0);
            return Ok(());
        }
        self.ask(touch, UserExit::Mmio { gpa, len, data: Some(value.to_le_bytes()) })
    }

    fn port_in(&mut self, core: &mut Core, port: u16, len: u8) -> Result<u32, Stop> {
        if self.protected() {
            return self.vc_fault(vc::IOIO, core.rip);
        }
        let touch = Touch::In { port, len };
        if let Some(value) = self.known(core, touch) {
            return Ok(value as u32);
        }
        match self.chip_in(core, port, len) {
            Some(value) => {
                self.answered(touch, u64::from(value));
                Ok(value)
            }
            None => self.ask(touch, UserExit::Io { data: None, port, size: len, count: 1 }),
        }
    }

    fn port_in_ahead(
        &mut self,
        core: &mut Core,
        port: u16,
        len: u8,
        count: u64,
    ) -> Result<u32, Stop> {
        // The first item is the answer to what was asked, the others have been read ahead.
        if let Some(value) = self.known(core, Touch::In { port, len }) {
            return Ok(value as u32);
        }
        if let Some(value) = self.vcpu().ahead.next(port, len) {
            return Ok(value);
        }
        let result = self.port_in(core, port, len);
        let vcpu = self.vcpu();
        if let Some(UserExit::Io { data: None, count: items, .. }) = &mut vcpu.exit
            && result == Err(EXIT)
        {
            *items = vcpu.ahead.ask(port, len, count);
        }
        result
    }

    fn reads_ahead(&self) -> bool {
        self.state.vcpus[self.me].ahead.waits()
    }

    fn port_out(&mut self, core: &mut Core, port: u16, len: u8, value: u32) -> Result<(), Stop> {
        if self.protected() {
            return self.vc_fault(vc::IOIO, core.rip);
        }
        let touch = Touch::Out { port, len, value };
        if self.known(core, touch).is_some() {
            return Ok(());
        }
        if self.chip_out(core, port, len, value) {
            self.answered(touch, 0);
            return Ok(());
        }
        let data = value.to_le_bytes()[..usize::from(len)].to_vec();
        self.ask(touch, UserExit::Io { data: Some(data), port, size: len, count: 1 })
    }

    fn cpuid(&mut self, core: &mut Core, leaf: u32, subleaf: u32) -> Result<[u32; 4], Stop> {
        if self.shield() == Shield::Td {
            return self.td_cpuid(core, leaf, subleaf);
        }
        self.state.clock.charge(self.state.costs.exit);
        self.left("cpuid");
        if core.cpl != 0 && self.vcpu().msrs.cpuid_faults() {
            return refuse();
        }
        Ok(self.cpuid_now(core, leaf, subleaf))
    }

    fn rdmsr(&mut self, core: &mut Core, index: u32) -> Result<u64, Stop> {
        if self.protected() {
            return match index {
                msrs::GHCB => Ok(self.vcpu().ghcb.as_ref().map_or(0, |ghcb| ghcb.msr())),
                msrs::SEV_STATUS => Ok(self.state.snp.features().0 << 2 | 3),
                // Not intercepted where there is one (Linux 7.2 arch/x86/kvm/svm/sev.c sev_es_recalc_msr_intercepts).
                msrs::GUEST_TSC_FREQ
                    if self.state.snp.features().contains(SevFeatures::SECURE_TSC) =>
                {
                    Ok(u64::from(self.state.tsc_khz / 1000))
                }
                _ => self.vc_fault(vc::MSR, core.rip),
            };
        }
        if self.shield() == Shield::Td {
            return self.td_native_rdmsr(core, index);
        }
        let touch = Touch::Rdmsr(index);
        match self.vcpu().replay.find(core, touch) {
            Some(Reply::Value(value)) => return Ok(value),
            Some(Reply::Refused) => return refuse(),
            None => {}
        }
        self.state.clock.charge(self.state.costs.exit);
        self.left("rdmsr");
        let switches = &self.state.switches;
        let hidden = index == msrs::PLATFORM_INFO && switches.hides_platform_info;
        let allowed = switches.filter.allows(index, false) && !hidden;
        if allowed && let Some(value) = self.read_msr(core, index) {
            self.answered(touch, value);
            return Ok(value);
        }
        if let Some(reason) = self.msr_exit_reason(index, false, true) {
            return self.ask(touch, UserExit::Rdmsr { index, reason });
        }
        self.complain_msr(core, "RDMSR", index);
        refuse()
    }

    fn wrmsr(&mut self, core: &mut Core, index: u32, value: u64) -> Result<(), Stop> {
        if self.protected() {
            if index == msrs::GHCB {
                if let Some(ghcb) = &mut self.vcpu().ghcb {
                    ghcb.set_msr(value);
                }
                return Ok(());
            }
            return self.vc_fault(vc::MSR, core.rip);
        }
        if self.shield() == Shield::Td {
            return self.td_native_wrmsr(core, index, value);
        }
        let touch = Touch::Wrmsr(index, value);
        match self.vcpu().replay.find(core, touch) {
            Some(Reply::Value(_)) => return Ok(()),
            Some(Reply::Refused) => return refuse(),
            None => {}
        }
        self.state.clock.charge(self.state.costs.exit);
        self.left("wrmsr");
        let allowed = self.state.switches.filter.allows(index, true);
        if allowed && self.write_msr(core, index, value) {
            self.answered(touch, 0);
            return Ok(());
        }
        if let Some(reason) = self.msr_exit_reason(index, true, true) {
            return self.ask(touch, UserExit::Wrmsr { index, value, reason });
        }
        self.complain_msr(core, "WRMSR", index);
        refuse()
    }

    fn tsc(&mut self, core: &Core) -> u64 {
        self.now(core).wrapping_add(self.state.chipset.tsc_offset(self.me))
    }

    fn random(&mut self) -> u64 {
        self.state.random()
    }

    fn intercept(&mut self, core: &mut Core, what: Intercept) -> Result<(), Stop> {
        match self.shield() {
            Shield::None => return Ok(()),
            Shield::Td => return self.td_intercept(core, what),
            Shield::Snp => {}
        }
        let code = match what {
            Intercept::Cpuid => vc::CPUID,
            Intercept::Rdpmc => vc::RDPMC,
            Intercept::Invd => vc::INVD,
            Intercept::Wbinvd => vc::WBINVD,
            Intercept::Vmmcall => vc::VMMCALL,
            Intercept::Monitor => vc::MONITOR,
            Intercept::Mwait => vc::MWAIT,
            Intercept::ReadDr7 => vc::READ_DR7,
            Intercept::WriteDr7 => vc::WRITE_DR7,
            // Not intercepted, an automatic exit, or reported by the access itself.
            Intercept::Hlt
            | Intercept::Rdtsc
            | Intercept::Rdtscp
            | Intercept::Pconfig
            | Intercept::Xsetbv { .. }
            | Intercept::WriteCr { .. }
            | Intercept::Port(_) => return Ok(()),
        };
        self.vc_fault(code, core.rip)
    }

    fn cr8(&mut self) -> u64 {
        self.state.chipset.cr8(self.me)
    }

    fn set_cr8(&mut self, value: u64) {
        self.state.chipset.set_cr8(self.me, value);
    }

    fn hypercall(&mut self, core: &mut Core) -> Result<(), Stop> {
        let long = core.long_mode() && core.mode == crate::cpu::Mode::Long64;
        let cut = |value: u64| if long { value } else { value & 0xffff_ffff };
        let nr = cut(core.gpr[RAX]);
        let args = [RBX, RCX, RDX, RSI].map(|register| cut(core.gpr[register]));
        let touch = Touch::Hypercall(nr);
        let known = self.vcpu().replay.find(core, touch);
        let result = match known {
            Some(Reply::Value(value)) => value as i64,
            Some(Reply::Refused) => KVM_ENOSYS,
            None => {
                self.state.clock.charge(self.state.costs.exit);
                self.left("hypercall");
                let exits = self.state.switches.map_gpa_exits;
                if nr == abi::kvm::KVM_HC_MAP_GPA_RANGE && exits && core.cpl == 0 {
                    self.vcpu().counts.hypercalls += 1;
                    let args = [args[0], args[1], args[2]];
                    let exit = UserExit::MapGpaRange { args, flags: u64::from(long) };
                    return self.ask(touch, exit);
                }
                self.kvm_hypercall(nr, args, core.cpl)
            }
        };
        core.gpr[RAX] = cut(result as u64);
        Ok(())
    }

    fn fixes_hypercalls(&mut self) -> bool {
        self.state.switches.disabled_quirks & QUIRK_FIX_HYPERCALL == 0
    }

    fn vmgexit(&mut self, _core: &mut Core) -> Result<(), Stop> {
        Ok(())
    }

    fn pvalidate(
        &mut self,
        gpa: u64,
        private: bool,
        huge: bool,
        validate: bool,
    ) -> Result<(u32, bool), Stop> {
        self.snp_pvalidate(gpa, private, huge, validate)
    }

    fn rmpadjust(&mut self, gpa: u64, private: bool, huge: bool, rdx: u64) -> Result<u32, Stop> {
        self.snp_rmpadjust(gpa, private, huge, rdx)
    }

    fn take_interrupt(&mut self) -> Option<u8> {
        let vector = self.state.chipset.take_interrupt(self.me);
        if vector.is_some() {
            // A TD's are posted.
            let injected = self.shield() != Shield::Td;
            self.vcpu().counts.interrupts += u64::from(injected);
            self.vcpu().count("interrupt");
        } else if self.state.awaits_window(self.me) {
            self.end_turn = true;
        }
        vector
    }

    fn take_nmi(&mut self) -> bool {
        let held = self.state.vcpus[self.me].td.as_ref().is_some_and(|cpu| cpu.vcpu.holds_nmi());
        if held {
            return false;
        }
        let taken = self.state.chipset.take_nmi(self.me);
        self.vcpu().counts.nmis += u64::from(taken);
        if self.state.td().is_some() {
            // The module knows that an NMI waits, not how many do (Linux arch/x86/kvm/vmx/tdx.c `tdx_inject_nmi`).
            self.state.chipset.set_nmis(self.me, 0);
        }
        taken
    }

    fn pause(&mut self, core: &mut Core, cycles: u64) {
        let pause = self.state.pause(self.me);
        if pause != Pause::Yield {
            self.state.clock.charge(Price::known(cycles));
        }
        if pause != Pause::Wait {
            self.vcpu().counts.exits += 1;
            self.vcpu().count("pause_exit");
            self.end_turn = true;
            core.attention = true;
        }
    }

    fn meets_code(&mut self, core: &Core, rip: u64) -> bool {
        self.state.meet_symbol(core, rip)
    }

    fn charge(&mut self, cycles: u64) {
        self.state.clock.charge(Price::known(cycles));
    }

    fn end_turn(&mut self) -> bool {
        self.end_turn
    }
}

impl Guest<'_> {
    /// KVM's hypercalls that the kernel handles (Linux arch/x86/kvm/x86.c
    /// `____kvm_emulate_hypercall`).
    pub fn kvm_hypercall(&mut self, nr: u64, args: [u64; 4], cpl: u8) -> i64 {
        /// Their features' bits in CPUID.
        const PV_UNHALT: u32 = 7;
        const PV_SEND_IPI: u32 = 11;
        const PV_SCHED_YIELD: u32 = 13;
        const VAPIC_POLL_IRQ: u64 = 1;
        const KICK_CPU: u64 = 5;
        const SEND_IPI: u64 = 10;
        const SCHED_YIELD: u64 = 11;
        const KVM_EPERM: i64 = -1;
        self.vcpu().counts.hypercalls += 1;
        if cpl != 0 {
            return KVM_EPERM;
        }
        let [a0, a1, a2, a3] = args;
        let has = |feature| self.state.vcpus[self.me].pv_has(feature);
        let (unhalt, send_ipi, sched_yield) =
            (has(PV_UNHALT), has(PV_SEND_IPI), has(PV_SCHED_YIELD));
        match nr {
            VAPIC_POLL_IRQ => 0,
            KICK_CPU if unhalt => {
                let target = self.state.vcpus.iter_mut().find(|v| u64::from(v.id) == a1);
                if let Some(vcpu) = target
                    && vcpu.mp_state == mp_state::HALTED
                {
                    vcpu.mp_state = mp_state::RUNNABLE;
                }
                self.end_turn = true;
                0
            }
            SEND_IPI if send_ipi => {
                let bitmap = u128::from(a1) << 64 | u128::from(a0);
                self.end_turn = true;
                self.state.chipset.pv_send_ipi(bitmap, a2 as u32, a3 as u32)
            }
            SCHED_YIELD if sched_yield => {
                self.end_turn = true;
                0
            }
            _ => KVM_ENOSYS,
        }
    }
}
