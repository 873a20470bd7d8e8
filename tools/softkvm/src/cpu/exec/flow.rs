//! Near and far transfers of control, and software interrupts.
//!
//! Every function here sets RIP itself.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use super::data::effective_after;
use super::{breakpoints, condition};
use crate::cpu::operand::{
    gpr, load, mask, memory_segment, operand_size, peek, push, read, set_gpr, set_stack, sext,
    stack_at,
};
use crate::cpu::state::RCX;
use crate::cpu::{Exception, Mode, Processor, Seg, Step, deliver, segments};

/// Jumps within the code segment: #GP(0) past its limit or outside the canonical range.
pub(super) fn near(p: &mut Processor, target: u64) -> Step {
    check(p, target)?;
    p.core.rip = target;
    Ok(())
}

fn check(p: &mut Processor, target: u64) -> Step {
    let good = match p.core.mode {
        Mode::Long64 => p.canonical(target),
        _ => target <= u64::from(p.core.seg[Seg::Cs as usize].limit),
    };
    if good { Ok(()) } else { Err(p.fault(Exception::gp(0))) }
}

/// Target of a near branch and its operand size.
fn near_target(p: &mut Processor, insn: &Instruction) -> Step<(u64, usize)> {
    match insn.op_kind(0) {
        OpKind::NearBranch16 => Ok((u64::from(insn.near_branch16()), 2)),
        OpKind::NearBranch32 => Ok((u64::from(insn.near_branch32()), 4)),
        OpKind::NearBranch64 => Ok((insn.near_branch64(), 8)),
        _ => {
            let size = operand_size(insn, 0);
            Ok((read(p, insn, 0, size)?, size))
        }
    }
}

fn far_target(p: &mut Processor, insn: &Instruction) -> Step<(u16, u64, usize)> {
    let size = match insn.code() {
        Code::Jmp_ptr1616 | Code::Call_ptr1616 | Code::Jmp_m1616 | Code::Call_m1616 => 2,
        Code::Jmp_ptr1632 | Code::Call_ptr1632 | Code::Jmp_m1632 | Code::Call_m1632 => 4,
        _ => 8,
    };
    match insn.op_kind(0) {
        OpKind::FarBranch16 => {
            Ok((insn.far_branch_selector(), u64::from(insn.far_branch16()), size))
        }
        OpKind::FarBranch32 => {
            Ok((insn.far_branch_selector(), u64::from(insn.far_branch32()), size))
        }
        _ => {
            let seg = memory_segment(insn);
            let offset = load(p, seg, effective_after(p, insn, 0), size)?;
            let selector = load(p, seg, effective_after(p, insn, size), 2)?;
            Ok((selector as u16, offset, size))
        }
    }
}

fn is_far(insn: &Instruction) -> bool {
    insn.is_jmp_far()
        || insn.is_call_far()
        || insn.is_jmp_far_indirect()
        || insn.is_call_far_indirect()
}

/// JMP, near and far.
pub(super) fn jmp(p: &mut Processor, insn: &Instruction) -> Step {
    if is_far(insn) {
        let (selector, offset, _) = far_target(p, insn)?;
        return segments::far_jump(p, selector, offset);
    }
    let (target, _) = near_target(p, insn)?;
    near(p, target)
}

/// CALL, near and far.
pub(super) fn call(p: &mut Processor, insn: &Instruction, next: u64) -> Step {
    if is_far(insn) {
        let (selector, offset, size) = far_target(p, insn)?;
        return segments::far_call(p, selector, offset, size, next);
    }
    let (target, size) = near_target(p, insn)?;
    check(p, target)?;
    push(p, size, next)?;
    p.core.rip = target;
    Ok(())
}

/// RET near.
pub(super) fn ret(p: &mut Processor, insn: &Instruction) -> Step {
    let size = match insn.code() {
        Code::Retnw | Code::Retnw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 => 4,
        _ => 8,
    };
    let target = peek(p, 0, size)?;
    check(p, target)?;
    let at = stack_at(p, size as i64 + released(insn));
    set_stack(p, at);
    p.core.rip = target;
    Ok(())
}

/// RET far.
pub(super) fn ret_far(p: &mut Processor, insn: &Instruction) -> Step {
    let size = match insn.code() {
        Code::Retfw | Code::Retfw_imm16 => 2,
        Code::Retfd | Code::Retfd_imm16 => 4,
        _ => 8,
    };
    segments::far_return(p, size, released(insn) as u64)
}

fn released(insn: &Instruction) -> i64 {
    if insn.op_count() > 0 { i64::from(insn.immediate16()) } else { 0 }
}

/// Jcc.
pub(super) fn jcc(p: &mut Processor, insn: &Instruction, next: u64) -> Step {
    if condition(&p.core.flags, insn) {
        let (target, _) = near_target(p, insn)?;
        near(p, target)
    } else {
        p.core.rip = next;
        Ok(())
    }
}

/// Width of the count register of LOOP and JCXZ.
fn count_size(insn: &Instruction) -> usize {
    match insn.code() {
        Code::Jcxz_rel8_16
        | Code::Jcxz_rel8_32
        | Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX => 2,
        Code::Jrcxz_rel8_16
        | Code::Jrcxz_rel8_64
        | Code::Loop_rel8_16_RCX
        | Code::Loop_rel8_64_RCX
        | Code::Loope_rel8_16_RCX
        | Code::Loope_rel8_64_RCX
        | Code::Loopne_rel8_16_RCX
        | Code::Loopne_rel8_64_RCX => 8,
        _ => 4,
    }
}

/// LOOP, LOOPE, LOOPNE, JCXZ, JECXZ, JRCXZ.
pub(super) fn counted(p: &mut Processor, insn: &Instruction, next: u64) -> Step {
    let size = count_size(insn);
    let zf = p.core.flags.zf();
    let (left, loops, jump) = match insn.mnemonic() {
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => (0, false, gpr(p, RCX, size) == 0),
        op => {
            let left = gpr(p, RCX, size).wrapping_sub(1) & mask(size);
            let also = match op {
                Mnemonic::Loope => zf,
                Mnemonic::Loopne => !zf,
                _ => true,
            };
            (left, true, left != 0 && also)
        }
    };
    let target = if jump { near_target(p, insn)?.0 } else { next };
    near(p, target)?;
    if loops {
        set_gpr(p, RCX, size, left);
    }
    Ok(())
}

/// INT n, INT3, INTO, INT1.
pub(super) fn interrupt(p: &mut Processor, insn: &Instruction, next: u64) -> Step {
    match insn.mnemonic() {
        Mnemonic::Int3 => deliver::software(p, 3, next),
        Mnemonic::Int1 => {
            deliver::icebp(p, next)?;
            breakpoints::join(p);
            Ok(())
        }
        Mnemonic::Into => {
            if p.core.flags.of() {
                return deliver::software(p, 4, next);
            }
            p.core.rip = next;
            Ok(())
        }
        // INT n.
        _ => deliver::software(p, insn.immediate8(), next),
    }
}

/// IRET, IRETD, IRETQ.
pub(super) fn iret(p: &mut Processor, insn: &Instruction) -> Step {
    let size = match insn.code() {
        Code::Iretw => 2,
        Code::Iretd => 4,
        _ => 8,
    };
    segments::iret(p, size)
}

/// BOUND.
pub(super) fn bound(p: &mut Processor, insn: &Instruction) -> Step {
    let size = insn.op_register(0).size();
    let index = sext(read(p, insn, 0, size)?, size) as i64;
    let seg = memory_segment(insn);
    let low = load(p, seg, effective_after(p, insn, 0), size)?;
    let high = load(p, seg, effective_after(p, insn, size), size)?;
    if index < sext(low, size) as i64 || index > sext(high, size) as i64 {
        return Err(p.fault(Exception::BR));
    }
    Ok(())
}
