//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the segment base instructions.

use iced_x86::{Instruction, Mnemonic};

use super::stack::set_flags;
use crate::cpu::operand::{gpr, read, set_gpr, set_reg, supervisor_only};
use crate::cpu::segments::{FLAT_CODE32, FLAT_CODE64, FLAT_DATA};
use crate::cpu::state::{RCX, RDX, RSP, cr0, cr4, efer};
use crate::cpu::{Exception, Features, Mode, Processor, Seg, Segment, Step, flags};

const R11: usize = 11;

fn flat(selector: u16, attrib: u16, cpl: u8) -> Segment {
    Segment { selector, attrib: attrib | u16::from(cpl) << 5, limit: u32::MAX, base: 0 }
}

/// Installs flat code and stack segments at a privilege level.
fn enter(p: &mut Processor, cs: u16, ss: u16, code: u16, cpl: u8) {
    p.core.seg[Seg::Cs as usize] = flat(cs, code, cpl);
    p.core.seg[Seg::Ss as usize] = flat(ss, FLAT_DATA, cpl);
    p.core.cpl = cpl;
    p.core.update_mode();
}

/// #UD where SYSCALL and SYSRET are off. Intel's exist in 64-bit mode only (Intel SDM volume 2, "SYSCALL").
fn enabled(p: &mut Processor) -> Step {
    let absent = is_intel(p) && p.core.mode != Mode::Long64;
    if p.core.efer & efer::SCE == 0 || absent {
        return Err(p.fault(Exception::UD));
    }
    Ok(())
}

/// The vendors differ where SYSENTER and SYSCALL do.
fn is_intel(p: &Processor) -> bool {
    p.core.features.contains(Features::SYSENTER_LM)
}

/// SYSCALL (AMD APM vol. 3).
pub(super) fn syscall(p: &mut Processor, next: u64) -> Step {
    enabled(p)?;
    let selector = (p.core.star >> 32) as u16 & 0xfffc;
    let old = p.core.rflags();
    if p.core.long_mode() {
        let entry = if p.core.mode == Mode::Long64 { p.core.lstar } else { p.core.cstar };
        set_gpr(p, RCX, 8, next);
        p.core.gpr[R11] = old & !flags::RF;
        enter(p, selector, selector.wrapping_add(8), FLAT_CODE64, 0);
        p.core.rip = entry;
        p.core.set_rflags(old & !p.core.sfmask & !flags::RF);
    } else {
        set_gpr(p, RCX, 4, next);
        enter(p, selector, selector.wrapping_add(8), FLAT_CODE32, 0);
        p.core.rip = p.core.star & 0xffff_ffff;
        p.core.set_rflags(old & !(flags::IF | flags::VM | flags::RF));
    }
    trap(p);
    Ok(())
}

/// Both instructions trap if TF is set behind them.
fn trap(p: &mut Processor) {
    if p.core.rflags & flags::TF != 0 {
        super::breakpoints::trap(p, true);
    }
}

/// SYSRET. On AMD RCX is not checked: a bad address faults when it is fetched.
pub(super) fn sysret(p: &mut Processor, insn: &Instruction) -> Step {
    enabled(p)?;
    if p.core.cr0 & cr0::PE == 0 {
        return Err(p.fault(Exception::gp(0)));
    }
    supervisor_only(p)?;
    let base = (p.core.star >> 48) as u16;
    let ss = base.wrapping_add(8) | 3;
    if p.core.long_mode() {
        let value = p.core.gpr[R11] & !(flags::RF | flags::VM);
        if insn.mnemonic() == Mnemonic::Sysretq {
            let target = p.core.gpr[RCX];
            if is_intel(p) && !p.canonical(target) {
                return Err(p.fault(Exception::gp(0)));
            }
            enter(p, base.wrapping_add(16) | 3, ss, FLAT_CODE64, 3);
            p.core.rip = target;
        } else {
            let target = gpr(p, RCX, 4);
            enter(p, base | 3, ss, FLAT_CODE32, 3);
            p.core.rip = target;
        }
        set_flags(p, value);
    } else {
        let target = gpr(p, RCX, 4);
        enter(p, base | 3, ss, FLAT_CODE32, 3);
        p.core.rip = target;
        let value = p.core.rflags() | flags::IF;
        set_flags(p, value);
    }
    trap(p);
    Ok(())
}

/// #UD where SYSENTER and SYSEXIT do not exist: in long mode of AMD processors.
fn sysenter_exists(p: &mut Processor) -> Step {
    if p.core.long_mode() && !is_intel(p) {
        return Err(p.fault(Exception::UD));
    }
    if p.core.cr0 & cr0::PE == 0 || p.core.sysenter_cs & 0xfffc == 0 {
        return Err(p.fault(Exception::gp(0)));
    }
    Ok(())
}

/// SYSENTER.
pub(super) fn sysenter(p: &mut Processor) -> Step {
    sysenter_exists(p)?;
    let selector = p.core.sysenter_cs as u16 & 0xfffc;
    let long = p.core.long_mode();
    let old = p.core.rflags();
    enter(p, selector, selector.wrapping_add(8), if long { FLAT_CODE64 } else { FLAT_CODE32 }, 0);
    let width = if long { 8 } else { 4 };
    let (rsp, rip) = (p.core.sysenter_esp, p.core.sysenter_eip);
    set_gpr(p, RSP, width, rsp);
    p.core.rip = if long { rip } else { rip & 0xffff_ffff };
    p.core.set_rflags(old & !(flags::IF | flags::VM | flags::RF));
    Ok(())
}

/// SYSEXIT.
pub(super) fn sysexit(p: &mut Processor, insn: &Instruction) -> Step {
    sysenter_exists(p)?;
    supervisor_only(p)?;
    let base = p.core.sysenter_cs as u16 & 0xfffc;
    let (rip, rsp) = (p.core.gpr[RDX], p.core.gpr[RCX]);
    if insn.mnemonic() == Mnemonic::Sysexitq {
        if !p.canonical(rip) || !p.canonical(rsp) {
            return Err(p.fault(Exception::gp(0)));
        }
        enter(p, base.wrapping_add(32) | 3, base.wrapping_add(40) | 3, FLAT_CODE64, 3);
        p.core.gpr[RSP] = rsp;
        p.core.rip = rip;
    } else {
        enter(p, base.wrapping_add(16) | 3, base.wrapping_add(24) | 3, FLAT_CODE32, 3);
        set_gpr(p, RSP, 4, rsp);
        p.core.rip = rip & 0xffff_ffff;
    }
    Ok(())
}

/// SWAPGS.
pub(super) fn swapgs(p: &mut Processor) -> Step {
    if p.core.mode != Mode::Long64 {
        return Err(p.fault(Exception::UD));
    }
    supervisor_only(p)?;
    let gs = &mut p.core.seg[Seg::Gs as usize].base;
    std::mem::swap(gs, &mut p.core.kernel_gs_base);
    Ok(())
}

/// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE.
pub(super) fn segment_base(p: &mut Processor, insn: &Instruction) -> Step {
    if p.core.cr4 & cr4::FSGSBASE == 0 || p.core.mode != Mode::Long64 {
        return Err(p.fault(Exception::UD));
    }
    let register = insn.op_register(0);
    let seg = match insn.mnemonic() {
        Mnemonic::Rdfsbase | Mnemonic::Wrfsbase => Seg::Fs,
        _ => Seg::Gs,
    };
    if matches!(insn.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Rdgsbase) {
        let base = p.core.seg[seg as usize].base;
        set_reg(p, register, base);
        return Ok(());
    }
    let base = read(p, insn, 0, register.size())?;
    if !p.canonical(base) {
        return Err(p.fault(Exception::gp(0)));
    }
    p.core.seg[seg as usize].base = base;
    Ok(())
}
