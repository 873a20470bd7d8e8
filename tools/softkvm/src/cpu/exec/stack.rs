//! PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE.

use iced_x86::{Code, Instruction, OpKind};

use crate::cpu::operand::{
    effective, gpr, load, mask, memory_segment, peek, pop, push, read, segment, set_gpr, set_reg,
    set_stack, stack_at, stack_size, store,
};
use crate::cpu::state::{RBP, RSP};
use crate::cpu::{Access, Processor, Seg, Step, flags, segments};

/// PUSH of a register, segment register, immediate or memory.
pub(super) fn push_operand(p: &mut Processor, insn: &Instruction) -> Step {
    let size = insn.stack_pointer_increment().unsigned_abs() as usize;
    let value = read(p, insn, 0, size)?;
    push(p, size, value)
}

/// POP into a register, segment register or memory.
pub(super) fn pop_operand(p: &mut Processor, insn: &Instruction) -> Step {
    let size = insn.stack_pointer_increment().unsigned_abs() as usize;
    if insn.op_kind(0) == OpKind::Register {
        let register = insn.op_register(0);
        if register.is_segment_register() {
            let seg = segment(register);
            // Only the selector is read, whatever the stack slot's size.
            let selector = peek(p, 0, 2)?;
            let at = stack_at(p, size as i64);
            segments::load(p, seg, selector as u16)?;
            if seg == Seg::Ss {
                p.core.shadow = true;
            }
            set_stack(p, at);
            return Ok(());
        }
        let value = pop(p, size)?;
        set_reg(p, register, value);
        return Ok(());
    }
    // The address is computed with the stack pointer after the pop.
    let value = peek(p, 0, size)?;
    let before = p.core.gpr[RSP];
    let at = stack_at(p, size as i64);
    set_stack(p, at);
    let offset = effective(p, insn);
    store(p, memory_segment(insn), offset, size, value).inspect_err(|_| p.core.gpr[RSP] = before)
}

/// PUSHA and PUSHAD.
pub(super) fn push_all(p: &mut Processor, insn: &Instruction) -> Step {
    let size = if insn.code() == Code::Pushaw { 2 } else { 4 };
    for index in 0..8 {
        let at = stack_at(p, -((index as i64 + 1) * size as i64));
        store(p, Seg::Ss, at, size, gpr(p, index, size))?;
    }
    let at = stack_at(p, -8 * size as i64);
    set_stack(p, at);
    Ok(())
}

/// POPA and POPAD: the stack pointer's slot is skipped.
pub(super) fn pop_all(p: &mut Processor, insn: &Instruction) -> Step {
    let size = if insn.code() == Code::Popaw { 2 } else { 4 };
    let mut values = [0; 8];
    for (index, value) in values.iter_mut().enumerate() {
        *value = peek(p, (7 - index as i64) * size as i64, size)?;
    }
    let at = stack_at(p, 8 * size as i64);
    set_stack(p, at);
    for (index, value) in values.into_iter().enumerate().filter(|&(index, _)| index != RSP) {
        set_gpr(p, index, size, value);
    }
    Ok(())
}

/// PUSHF, PUSHFD, PUSHFQ: RF and VM read as zero.
pub(super) fn push_flags(p: &mut Processor, insn: &Instruction) -> Step {
    let size = insn.stack_pointer_increment().unsigned_abs() as usize;
    let value = p.core.rflags() & !(flags::RF | flags::VM);
    push(p, size, value)
}

/// POPF, POPFD, POPFQ.
pub(super) fn pop_flags(p: &mut Processor, insn: &Instruction) -> Step {
    let size = insn.stack_pointer_increment().unsigned_abs() as usize;
    let value = pop(p, size)?;
    write_flags(p, value, size);
    Ok(())
}

/// Replaces what the current privilege level may change in the low `size` bytes of RFLAGS, as POPF
/// does: IOPL only at CPL 0, IF only at CPL <= IOPL, RF is cleared.
fn write_flags(p: &mut Processor, value: u64, size: usize) {
    let old = p.core.rflags();
    let mut writable =
        flags::ARITH_MASK | flags::TF | flags::DF | flags::NT | flags::AC | flags::ID | flags::RF;
    if p.core.cpl == 0 {
        writable |= flags::IOPL;
    }
    if u64::from(p.core.cpl) <= (old & flags::IOPL) >> 12 {
        writable |= flags::IF;
    }
    writable &= mask(size);
    let value = value & !flags::RF;
    set_flags(p, (old & !writable) | (value & writable));
}

/// Replaces RFLAGS, and asks for attention if interrupts have become possible.
pub(in crate::cpu) fn set_flags(p: &mut Processor, value: u64) {
    let was = p.core.rflags & flags::IF;
    p.core.set_rflags(value);
    if was == 0 && value & flags::IF != 0 {
        p.core.attention = true;
    }
}

/// ENTER (AMD APM vol. 3).
pub(super) fn enter(p: &mut Processor, insn: &Instruction) -> Step {
    let size = match insn.code() {
        Code::Enterw_imm16_imm8 => 2,
        Code::Enterd_imm16_imm8 => 4,
        _ => 8,
    };
    let frame = u64::from(insn.immediate16());
    let level = i64::from(insn.immediate8_2nd() & 31);
    let step = size as i64;
    let width = stack_size(p);
    let at = stack_at(p, -step);
    store(p, Seg::Ss, at, size, gpr(p, RBP, size))?;
    let new_frame = at;
    if level > 0 {
        for i in 1..level {
            let from = p.core.gpr[RBP].wrapping_sub((i * step) as u64) & mask(width);
            let value = load(p, Seg::Ss, from, size)?;
            let to = stack_at(p, -(i + 1) * step);
            store(p, Seg::Ss, to, size, value)?;
        }
        let to = stack_at(p, -(level + 1) * step);
        store(p, Seg::Ss, to, size, new_frame)?;
    }
    let pushed = if level > 0 { level + 1 } else { 1 };
    let end = stack_at(p, -(pushed * step + frame as i64));
    // The new stack top must be writable.
    let la = p.linear(Seg::Ss, end, size, Access::Write)?;
    p.probe_write(la, size, p.core.cpl == 3)?;
    set_gpr(p, RBP, size, new_frame);
    set_stack(p, end);
    Ok(())
}

/// LEAVE.
pub(super) fn leave(p: &mut Processor, insn: &Instruction) -> Step {
    let size = match insn.code() {
        Code::Leavew => 2,
        Code::Leaved => 4,
        _ => 8,
    };
    let width = stack_size(p);
    let at = p.core.gpr[RBP] & mask(width);
    let value = load(p, Seg::Ss, at, size)?;
    set_stack(p, at.wrapping_add(size as u64) & mask(width));
    set_gpr(p, RBP, size, value);
    Ok(())
}
