//! The ioctls of a vCPU, but for KVM_RUN.

use std::sync::Arc;

use abi::snp::SevFeatures;
use kvm_bindings::{
    kvm_cpuid_entry2, kvm_guest_debug, kvm_msr_entry, kvm_sregs, kvm_sregs2, kvm_translation,
    kvm_vcpu_events,
};

use super::caps::{DISABLE_HLT, VmKind};
use super::cpuid::{Table, bare_c_bit};
use super::errno::{Answer, Errno};
use super::memory::Half;
use super::number::{self as nr, mp_state};
use super::regs::{self, ApicPart};
use super::state::State;
use super::td::Mapped;
use super::vm::Vm;
use super::world::Guest;
use super::{Front, run, stats, system, td_host, user};
use crate::chipset::{ApicFeatures, Irqchip, QueueError};
use crate::cpu::{Access, Core, Event, Exception, Features, Processor};
use crate::tdx::PageState;

/// Most CPUID entries a vCPU takes (KVM_MAX_CPUID_ENTRIES).
const MAX_CPUID: u32 = 256;
/// Most MSRs in one ioctl (MAX_IO_MSRS).
const MAX_MSRS: u32 = 256;

/// An ioctl on a vCPU.
pub fn ioctl(front: &Front, vm: &Arc<Vm>, index: usize, request: u64, arg: u64) -> Answer<i32> {
    match request {
        nr::RUN if arg == 0 => return run::run(vm, index),
        nr::RUN => return Err(Errno::EINVAL),
        nr::GET_STATS_FD => return stats::open(front, vm, Some(index)),
        nr::MEMORY_ENCRYPT_OP => {
            let result = super::protection::vcpu_op(vm, index, arg);
            vm.lock().refresh_vm_stats();
            return result;
        }
        _ => {}
    }
    let mut state = vm.lock();
    state.alive()?;
    let result = ioctl_locked(&mut state, index, request, arg);
    state.chipset_events();
    state.refresh_vm_stats();
    vm.kick(&state);
    result
}

fn ioctl_locked(state: &mut State, index: usize, request: u64, arg: u64) -> Answer<i32> {
    let hidden = state.hides_registers(index);
    let td = state.kind == VmKind::Tdx;
    let done = |()| 0;
    match request {
        nr::GET_FPU
        | nr::SET_FPU
        | nr::GET_XSAVE
        | nr::GET_XSAVE2
        | nr::SET_XSAVE
        | nr::GET_LAPIC
        | nr::SET_LAPIC
        | nr::SET_TSC_KHZ
            if td =>
        {
            Err(Errno::EINVAL)
        }
        nr::SMI if td => Err(Errno::ENOTTY),
        nr::GET_REGS
        | nr::SET_REGS
        | nr::GET_SREGS
        | nr::SET_SREGS
        | nr::GET_SREGS2
        | nr::SET_SREGS2
        | nr::GET_DEBUGREGS
        | nr::SET_DEBUGREGS
        | nr::GET_XCRS
        | nr::SET_XCRS
        | nr::SET_GUEST_DEBUG
        | nr::TRANSLATE
            if hidden =>
        {
            Err(Errno::EINVAL)
        }
        nr::GET_REGS => user::put(arg, &regs::get_regs(state.vcpus[index].core()?)).map(done),
        nr::SET_REGS => {
            let regs = user::get(arg)?;
            regs::set_regs(state.vcpus[index].core_mut()?, &regs);
            Ok(0)
        }
        nr::GET_SREGS | nr::GET_SREGS2 => get_sregs(state, index, request, arg).map(done),
        nr::SET_SREGS => set_sregs(state, index, &user::get(arg)?).map(done),
        nr::SET_SREGS2 => set_sregs2(state, index, &user::get(arg)?).map(done),
        nr::GET_FPU => user::put(arg, &regs::get_fpu(&state.vcpus[index].core()?.fpu)).map(done),
        nr::SET_FPU => {
            let fpu = user::get(arg)?;
            regs::set_fpu(&mut state.vcpus[index].core_mut()?.fpu, &fpu);
            Ok(0)
        }
        nr::GET_XSAVE | nr::GET_XSAVE2 => {
            user::write(arg, &regs::get_xsave(&state.vcpus[index].core()?.fpu)).map(done)
        }
        nr::SET_XSAVE => {
            let image: [u8; regs::XSAVE_LEN] = user::get(arg)?;
            if !hidden {
                regs::set_xsave(&mut state.vcpus[index].core_mut()?.fpu, &image)?;
            }
            Ok(0)
        }
        nr::GET_XCRS => user::put(arg, &regs::get_xcrs(state.vcpus[index].core()?)).map(done),
        nr::SET_XCRS => {
            let xcrs = user::get(arg)?;
            regs::set_xcrs(state.vcpus[index].core_mut()?, &xcrs).map(done)
        }
        nr::GET_DEBUGREGS => {
            user::put(arg, &regs::get_debugregs(state.vcpus[index].core()?)).map(done)
        }
        nr::SET_DEBUGREGS => {
            let registers = user::get(arg)?;
            regs::set_debugregs(state.vcpus[index].core_mut()?, &registers).map(done)
        }
        nr::GET_MSRS => each_msr(state, index, arg, false),
        nr::SET_MSRS => each_msr(state, index, arg, true),
        nr::SET_CPUID2 => set_cpuid(state, index, arg).map(done),
        nr::GET_CPUID2 => {
            let mut entries = state.vcpus[index].table.0.clone();
            update_entries(state, index, &mut entries)?;
            system::put_cpuid(arg, &entries).map(done)
        }
        nr::GET_LAPIC => {
            let now = state.clock.now();
            let image = state.chipset.save_lapic(index, now).map_err(|_| Errno::EINVAL)?;
            user::put(arg, &image).map(done)
        }
        nr::SET_LAPIC => {
            let image = user::get(arg)?;
            let now = state.clock.now();
            state.chipset.restore_lapic(index, &image, now).map_err(|_| Errno::EINVAL).map(done)
        }
        nr::GET_MP_STATE => user::put(arg, &state.vcpus[index].mp_state).map(done),
        nr::SET_MP_STATE => set_mp_state(state, index, user::get(arg)?).map(done),
        nr::GET_VCPU_EVENTS => user::put(arg, &events(state, index)?).map(done),
        nr::SET_VCPU_EVENTS => set_events(state, index, &user::get(arg)?).map(done),
        nr::GET_TSC_KHZ => Ok(state.tsc_khz as i32),
        // One clock serves all; another rate would need scaling.
        // It is fixed for a guest with a secure counter (Linux 7.2 arch/x86/kvm/x86.c kvm_arch_vcpu_ioctl).
        nr::SET_TSC_KHZ => {
            let ours = !state.snp.features().contains(SevFeatures::SECURE_TSC);
            Errno::require(ours && (arg == 0 || arg as u32 == state.tsc_khz)).map(done)
        }
        nr::SET_SIGNAL_MASK => set_signal_mask(state, index, arg).map(done),
        nr::KVMCLOCK_CTRL | nr::X86_SETUP_MCE | nr::TPR_ACCESS_REPORTING | nr::SET_VAPIC_ADDR => {
            Ok(0)
        }
        nr::NMI => {
            state.chipset.inject_nmi(index);
            Ok(0)
        }
        nr::INTERRUPT => interrupt(state, index, user::get::<u32>(arg)?).map(done),
        nr::TRANSLATE => translate(state, index, arg).map(done),
        nr::SET_GUEST_DEBUG => {
            let debug: kvm_guest_debug = user::get(arg)?;
            // Single steps and breakpoints on behalf of user space are not modelled.
            Errno::require(debug.control == 0).map(done)
        }
        nr::ENABLE_CAP => {
            let cap: kvm_bindings::kvm_enable_cap = user::get(arg)?;
            let known = cap.cap == kvm_bindings::KVM_CAP_ENFORCE_PV_FEATURE_CPUID;
            Errno::require(known && cap.flags == 0)?;
            state.vcpus[index].pv_enforced = cap.args[0] != 0;
            Ok(0)
        }
        nr::SMI => Err(Errno::EINVAL),
        abi::kvm::KVM_PRE_FAULT_MEMORY => pre_fault(state, arg).map(done),
        nr::HAS_DEVICE_ATTR | nr::GET_DEVICE_ATTR | nr::SET_DEVICE_ATTR => Err(Errno::ENXIO),
        _ => Err(Errno::EINVAL),
    }
}

fn apic_part(state: &State, index: usize) -> ApicPart {
    ApicPart { cr8: state.chipset.cr8(index), base: state.chipset.apic_base(index) }
}

/// KVM_GET_SREGS2.
pub(super) fn sregs(state: &State, index: usize) -> Answer<kvm_sregs2> {
    Ok(regs::get_sregs2(state.vcpus[index].core()?, apic_part(state, index)))
}

fn get_sregs(state: &State, index: usize, request: u64, arg: u64) -> Answer {
    let sregs = sregs(state, index)?;
    if request == nr::GET_SREGS2 {
        user::put(arg, &sregs)
    } else {
        user::put(arg, &regs::sregs_of(&sregs))
    }
}

/// KVM_SET_SREGS.
pub(super) fn set_sregs(state: &mut State, index: usize, sregs: &kvm_sregs) -> Answer {
    set_sregs2(state, index, &regs::sregs2_of(sregs))?;
    queue_bitmap(state, index, &sregs.interrupt_bitmap);
    Ok(())
}

fn set_sregs2(state: &mut State, index: usize, sregs: &kvm_sregs2) -> Answer {
    let table = state.vcpus[index].table.clone();
    let vcpu = &mut state.vcpus[index];
    let before = vcpu.core()?.clone();
    regs::set_sregs2(vcpu.core_mut()?, sregs, &table)?;
    vcpu.flush = true;
    if state.chipset.set_apic_base(index, sregs.apic_base, true).is_err() {
        *state.vcpus[index].core_mut()? = before;
        return Err(Errno::EINVAL);
    }
    state.chipset.set_cr8(index, sregs.cr8);
    Ok(())
}

/// KVM_SET_SREGS can carry one interrupt to inject.
fn queue_bitmap(state: &mut State, index: usize, bitmap: &[u64; 4]) {
    let vector = bitmap
        .iter()
        .enumerate()
        .rev()
        .find(|(_, word)| **word != 0)
        .map(|(i, word)| i as u32 * 64 + 63 - word.leading_zeros());
    if let Some(vector) = vector
        && let Ok(core) = state.vcpus[index].core_mut()
    {
        core.pending = Some(Event::Interrupt(vector as u8));
    }
}

/// GET_MSRS and SET_MSRS: how many were done before the first that is refused.
fn each_msr(state: &mut State, index: usize, arg: u64, write: bool) -> Answer<i32> {
    let count: u32 = user::get(arg)?;
    if count >= MAX_MSRS {
        return Err(Errno::E2BIG);
    }
    for done in 0..count {
        let at = arg + 8 + u64::from(done) * 16;
        let mut entry: kvm_msr_entry = user::get(at)?;
        let good = if write {
            set_msr(state, index, entry.index, entry.data)?
        } else {
            match get_msr(state, index, entry.index)? {
                Some(value) => {
                    entry.data = value;
                    user::put(at, &entry)?;
                    true
                }
                None => false,
            }
        };
        if !good {
            return Ok(done as i32);
        }
    }
    Ok(count as i32)
}

/// Registers that the processor keeps in its VMSA are out of reach once it is protected.
fn hidden_msr(state: &State, index: usize, core: &Core, msr: u32) -> bool {
    state.vcpus[index].protected() && core.rdmsr_local(msr).is_some()
}

/// KVM_GET_MSRS of one register of a TD's vCPU.
fn get_td_msr(state: &mut State, index: usize, p: &mut Processor, msr: u32) -> Option<u64> {
    if !td_host::has_msr(msr, false) {
        return None;
    }
    state.clock.begin(&p.core);
    let mut guest = Guest { state, me: index, end_turn: false, horizon: u64::MAX };
    guest.td_emulated_rdmsr(&mut p.core, msr)
}

/// KVM_SET_MSRS of one register of a TD's vCPU.
fn set_td_msr(state: &mut State, index: usize, p: &mut Processor, msr: u32, value: u64) -> bool {
    if !td_host::has_msr(msr, true) {
        return false;
    }
    state.clock.begin(&p.core);
    let mut guest = Guest { state, me: index, end_turn: false, horizon: u64::MAX };
    guest.td_emulated_wrmsr(&mut p.core, msr, value)
}

fn get_msr(state: &mut State, index: usize, msr: u32) -> Answer<Option<u64>> {
    let mut p = state.vcpus[index].processor.take().ok_or(Errno::EBUSY)?;
    let features = lend_features(state, &mut p.core);
    let value = if state.kind == VmKind::Tdx {
        get_td_msr(state, index, &mut p, msr)
    } else if hidden_msr(state, index, &p.core, msr) {
        None
    } else {
        p.core.rdmsr_local(msr).or_else(|| {
            state.clock.begin(&p.core);
            let mut guest = Guest { state, me: index, end_turn: false, horizon: u64::MAX };
            guest.read_msr(&mut p.core, msr)
        })
    };
    p.core.features = features;
    state.vcpus[index].processor = Some(p);
    Ok(value)
}

/// User space reaches the registers of all that is supported, whatever the guest's CPUID says. Returns what the guest has.
fn lend_features(state: &State, core: &mut Core) -> Features {
    let guest = core.features;
    if state.kind != VmKind::Tdx {
        core.features |= state.features;
    }
    guest
}

fn set_msr(state: &mut State, index: usize, msr: u32, value: u64) -> Answer<bool> {
    let mut p = state.vcpus[index].processor.take().ok_or(Errno::EBUSY)?;
    let features = lend_features(state, &mut p.core);
    let good = if state.kind == VmKind::Tdx {
        set_td_msr(state, index, &mut p, msr, value)
    } else if hidden_msr(state, index, &p.core, msr) {
        false
    } else {
        match p.core.wrmsr_local(msr, value) {
            Some(result) => {
                p.core.update_mode();
                result.is_ok()
            }
            None => {
                state.clock.begin(&p.core);
                set_host_msr(state, index, msr, value)
            }
        }
    };
    p.core.features = features;
    state.vcpus[index].processor = Some(p);
    state.vcpus[index].flush = true;
    Ok(good)
}

fn set_host_msr(state: &mut State, index: usize, msr: u32, value: u64) -> bool {
    let now = state.clock.now();
    match msr {
        super::msrs::TSC => {
            let offset = state.tsc_writes.write(value, now, state.tsc_khz);
            state.chipset.set_tsc_offset(index, offset);
            true
        }
        // The counter stays where user space has put it.
        super::msrs::TSC_ADJUST => state.vcpus[index].msrs.write(msr, value, true),
        _ => match state.chipset.msr_write(index, msr, value, true, now) {
            Some(answer) => answer.is_ok(),
            None => state.vcpus[index].msrs.write(msr, value, true),
        },
    }
}

/// Brings a CPUID table up to the vCPU's present state.
fn update_entries(state: &State, index: usize, entries: &mut [kvm_cpuid_entry2]) -> Answer {
    if state.kind == VmKind::Tdx {
        return Ok(());
    }
    let core = state.vcpus[index].core()?;
    for e in entries {
        let mut words = [e.eax, e.ebx, e.ecx, e.edx];
        state.update_cpuid(index, core, e.function, &mut words);
        [e.eax, e.ebx, e.ecx, e.edx] = words;
    }
    Ok(())
}

fn set_cpuid(state: &mut State, index: usize, arg: u64) -> Answer {
    let count: u32 = user::get(arg)?;
    if count > MAX_CPUID {
        return Err(Errno::E2BIG);
    }
    let entries: Vec<kvm_cpuid_entry2> = user::get_many(arg + 8, count as usize)?;
    let mut table = Table(entries);
    if state.machine.options.host_c_bit {
        table.move_c_bit(bare_c_bit(), state.c_bit);
    }
    if state.switches.disabled_exits & DISABLE_HLT != 0 {
        table.hide_unhalt();
    }
    if state.vcpus[index].has_run {
        // After the first KVM_RUN only the same table again is taken, but for what changes by itself.
        let mut present = state.vcpus[index].table.0.clone();
        update_entries(state, index, &mut present)?;
        update_entries(state, index, &mut table.0)?;
        let same = table.0.len() == present.len()
            && table.0.iter().zip(&present).all(|(new, old)| {
                (new.function, new.index, new.flags, new.eax, new.ebx, new.ecx, new.edx)
                    == (old.function, old.index, old.flags, old.eax, old.ebx, old.ecx, old.edx)
            });
        return Errno::require(same);
    }
    let lacking = table.features() & !implemented();
    if !lacking.is_empty() {
        state.complain(format!(
            "CPUID of vCPU {index} offers what the software processor does not have: {lacking:?}"
        ));
    }
    let vcpu = &mut state.vcpus[index];
    vcpu.set_table(table);
    let table = &state.vcpus[index].table;
    let features = ApicFeatures {
        x2apic: table.ecx_1() >> 21 & 1 != 0,
        tsc_deadline: table.ecx_1() >> 24 & 1 != 0,
        phys_bits: table.phys_bits(),
    };
    state.chipset.set_features(index, features);
    Ok(())
}

/// Extensions whose instructions are executed; others end the run when they are met.
fn implemented() -> Features {
    !(Features::AVX
        | Features::AVX2
        | Features::FMA
        | Features::F16C
        | Features::PKU
        | Features::SVM
        | Features::MONITOR
        | Features::MONITORX
        | Features::VAES
        | Features::VPCLMULQDQ)
}

fn set_mp_state(state: &mut State, index: usize, wanted: u32) -> Answer {
    let lapic = state.chipset.mode() != Irqchip::None;
    match wanted {
        mp_state::RUNNABLE => {}
        mp_state::UNINITIALIZED
        | mp_state::INIT_RECEIVED
        | mp_state::HALTED
        | mp_state::SIPI_RECEIVED
        | mp_state::AP_RESET_HOLD
            if lapic => {}
        _ => return Err(Errno::EINVAL),
    }
    state.vcpus[index].mp_state =
        if wanted == mp_state::SIPI_RECEIVED { mp_state::RUNNABLE } else { wanted };
    Ok(())
}

/// KVM_GET_VCPU_EVENTS.
pub(super) fn events(state: &State, index: usize) -> Answer<kvm_vcpu_events> {
    let vcpu = &state.vcpus[index];
    let core = vcpu.core()?;
    let mut out: kvm_vcpu_events = user::zeroed();
    match core.pending {
        Some(Event::Exception(e)) => {
            out.exception.injected = 1;
            out.exception.nr = e.vector;
            out.exception.has_error_code = u8::from(e.error.is_some());
            out.exception.error_code = e.error.unwrap_or(0);
        }
        Some(Event::Interrupt(vector)) => {
            out.interrupt.injected = 1;
            out.interrupt.nr = vector;
        }
        Some(Event::Nmi) => out.nmi.injected = 1,
        None => {}
    }
    out.interrupt.shadow = if core.shadow { 2 } else { 0 };
    out.nmi.pending = state.chipset.nmis(index);
    out.nmi.masked = u8::from(core.nmi_blocked);
    out.sipi_vector = u32::from(vcpu.sipi_vector);
    // NMI_PENDING, SHADOW.
    out.flags = 1 | 4;
    Ok(out)
}

/// KVM_SET_VCPU_EVENTS.
pub(super) fn set_events(state: &mut State, index: usize, events: &kvm_vcpu_events) -> Answer {
    const NMI_PENDING: u32 = 1;
    const SIPI_VECTOR: u32 = 2;
    const SHADOW: u32 = 4;
    const SMM: u32 = 8;
    Errno::require(events.flags & !(NMI_PENDING | SIPI_VECTOR | SHADOW | SMM) == 0)?;
    Errno::require(events.flags & SMM == 0 || events.smi.smm == 0)?;
    Errno::require(events.exception.injected == 0 || events.exception.nr <= 31)?;
    let e = &events.exception;
    let pending = if e.injected != 0 {
        let error = (e.has_error_code != 0).then_some(e.error_code);
        Some(Event::Exception(Exception { vector: e.nr, error, cr2: None }))
    } else if events.interrupt.injected != 0 {
        Some(Event::Interrupt(events.interrupt.nr))
    } else if events.nmi.injected != 0 {
        Some(Event::Nmi)
    } else {
        None
    };
    // What is in flight in a TD is the module's.
    if state.kind != VmKind::Tdx {
        let core = state.vcpus[index].core_mut()?;
        core.pending = pending;
        core.nmi_blocked = events.nmi.masked != 0;
        if events.flags & SHADOW != 0 {
            core.shadow = events.interrupt.shadow != 0;
        }
        core.attention = true;
    }
    if events.flags & NMI_PENDING != 0 {
        state.chipset.set_nmis(index, events.nmi.pending);
    }
    if events.flags & SIPI_VECTOR != 0 {
        state.vcpus[index].sipi_vector = events.sipi_vector as u8;
    }
    Ok(())
}

fn interrupt(state: &mut State, index: usize, vector: u32) -> Answer {
    let vector = u8::try_from(vector).map_err(|_| Errno::EINVAL)?;
    if state.kind == VmKind::Tdx {
        // Taken, and never delivered: a TD gets posted interrupts only.
        return Ok(());
    }
    state.chipset.queue_external(index, vector).map_err(|error| match error {
        QueueError::InKernel => Errno::ENXIO,
        QueueError::Pending => Errno::EEXIST,
    })
}

fn set_signal_mask(state: &mut State, index: usize, arg: u64) -> Answer {
    let mask = if arg == 0 {
        None
    } else {
        let length: u32 = user::get(arg)?;
        Errno::require(length == 8)?;
        let bytes: [u8; 8] = user::get(arg + 4)?;
        Some(u64::from_le_bytes(bytes))
    };
    state.vcpus[index].signal_mask = mask;
    Ok(())
}

fn translate(state: &mut State, index: usize, arg: u64) -> Answer {
    let mut request: kvm_translation = user::get(arg)?;
    let mut p = state.vcpus[index].processor.take().ok_or(Errno::EBUSY)?;
    let la = request.linear_address;
    let mut guest = Guest { state, me: index, end_turn: false, horizon: u64::MAX };
    let answer = p.with_world(&mut guest, |p| p.translate(la, Access::Read, false));
    p.core.stop = None;
    state.vcpus[index].processor = Some(p);
    state.vcpus[index].exit = None;
    match answer {
        Ok((gpa, _)) => {
            request.physical_address = gpa;
            request.valid = 1;
            request.writeable = 1;
        }
        Err(_) => {
            request.physical_address = u64::MAX;
            request.valid = 0;
        }
    }
    user::put(arg, &request)
}

/// KVM_PRE_FAULT_MEMORY: progress is written back even when it ends early.
fn pre_fault(state: &mut State, arg: u64) -> Answer {
    let mut range: abi::kvm::PreFaultMemory = user::get(arg)?;
    Errno::require(
        range.flags == 0
            && range.size != 0
            && range.gpa.is_multiple_of(4096)
            && range.size.is_multiple_of(4096)
            && range.gpa.checked_add(range.size).is_some(),
    )?;
    if state.is_unfinished() {
        return Err(Errno::EOPNOTSUPP);
    }
    // Addresses here never carry the shared bit.
    Errno::require(!state.td().is_some_and(|td| td.is_shared(range.gpa)))?;
    let mut progress = false;
    let result = loop {
        if range.size == 0 {
            break Ok(());
        }
        if let Err(errno) = pre_fault_page(state, range.gpa) {
            break Err(errno);
        }
        progress = true;
        range.gpa += 4096;
        range.size -= 4096;
    };
    user::put(arg, &range)?;
    if progress { Ok(()) } else { result }
}

fn pre_fault_page(state: &mut State, gpa: u64) -> Answer {
    if state.memory.slot(gpa).is_none() {
        return Err(Errno::ENOENT);
    }
    if !state.memory.is_private(gpa >> 12) {
        state.memory.shared_page(gpa, false)?;
        state.memory.map(gpa, Half::Shared);
        return Ok(());
    }
    if state.kind == VmKind::SwProtected {
        state.memory.private_host(gpa).ok_or(Errno::EFAULT)?;
        state.memory.map(gpa, Half::Private);
        return Ok(());
    }
    if let Some(td) = state.td() {
        if td.sept().state(gpa >> 12) != PageState::Free {
            return Ok(());
        }
        return match state.td_map(gpa) {
            Mapped::Pending => Ok(()),
            Mapped::MemoryFault => Err(Errno::EFAULT),
            Mapped::Dead => Err(Errno::EIO),
        };
    }
    let asid = state.snp.asid();
    let entry = state.memory.rmp_entry(gpa).ok_or(Errno::EFAULT)?;
    // Only an immutable page refuses, and that is assigned.
    if !entry.assigned() && state.memory.assign(gpa, asid).is_some() {
        // What a fault would have taken beside the exit.
        let cost = state.costs.rmpupdate;
        state.clock.charge(cost);
    }
    state.memory.map(gpa, Half::Private);
    Ok(())
}
