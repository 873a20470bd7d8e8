//! Operands of a decoded instruction: registers, immediates and memory of 1, 2, 4 or 8 bytes,
//! carried as zero-extended 64-bit values.

use iced_x86::{Instruction, OpKind, Register};

use crate::cpu::state::RSP;
use crate::cpu::{Access, Exception, Mode, Processor, Seg, Step};

const SEGMENTS: [Seg; 6] = [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs];

/// All ones in the low `size` bytes.
pub(in crate::cpu) fn mask(size: usize) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// Sign-extends the low `size` bytes.
pub(in crate::cpu) fn sext(value: u64, size: usize) -> u64 {
    match size {
        1 => value as i8 as u64,
        2 => value as i16 as u64,
        4 => value as i32 as u64,
        _ => value,
    }
}

/// The segment register behind the decoder's name.
pub(in crate::cpu) fn segment(register: Register) -> Seg {
    SEGMENTS[register.number().min(5)]
}

/// Slot and bit position of a general register.
fn place(register: Register) -> (usize, u32) {
    if register.is_gpr8() {
        let index = register as usize - Register::AL as usize;
        match index {
            0..4 => (index, 0),
            // AH, CH, DH, BH: the second byte of the first four registers.
            4..8 => (index - 4, 8),
            _ => (index - 4, 0),
        }
    } else {
        (register.number(), 0)
    }
}

/// Reads a general or segment register.
pub(in crate::cpu) fn reg(p: &Processor, register: Register) -> u64 {
    if register.is_segment_register() {
        return u64::from(p.core.seg[segment(register) as usize].selector);
    }
    let (slot, shift) = place(register);
    (p.core.gpr[slot] >> shift) & mask(register.size())
}

/// Writes a general register: 32-bit writes clear the upper half, narrower ones keep the rest.
pub(in crate::cpu) fn set_reg(p: &mut Processor, register: Register, value: u64) {
    let (slot, shift) = place(register);
    let slot = &mut p.core.gpr[slot];
    *slot = match register.size() {
        8 => value,
        4 => u64::from(value as u32),
        size => (*slot & !(mask(size) << shift)) | ((value & mask(size)) << shift),
    };
}

/// Reads the general register `index` (encoding order) at the given size.
pub(in crate::cpu) fn gpr(p: &Processor, index: usize, size: usize) -> u64 {
    p.core.gpr[index] & mask(size)
}

/// Writes the general register `index` (encoding order) at the given size of 1 to 8 bytes.
pub(in crate::cpu) fn set_gpr(p: &mut Processor, index: usize, size: usize, value: u64) {
    let slot = &mut p.core.gpr[index];
    *slot = match size {
        8 => value,
        4 => u64::from(value as u32),
        _ => (*slot & !mask(size)) | (value & mask(size)),
    };
}

/// Size in bytes of operand `n`; for an immediate, that of operand 0.
pub(in crate::cpu) fn operand_size(insn: &Instruction, n: u32) -> usize {
    match insn.op_kind(n) {
        OpKind::Register => insn.op_register(n).size(),
        OpKind::Memory
        | OpKind::MemorySegSI
        | OpKind::MemorySegESI
        | OpKind::MemorySegRSI
        | OpKind::MemorySegDI
        | OpKind::MemorySegEDI
        | OpKind::MemorySegRDI
        | OpKind::MemoryESDI
        | OpKind::MemoryESEDI
        | OpKind::MemoryESRDI => insn.memory_size().size(),
        _ if n > 0 => operand_size(insn, 0),
        _ => 0,
    }
}

/// Address size in bytes of the memory operand.
pub(in crate::cpu) fn address_size(p: &Processor, insn: &Instruction) -> usize {
    let base = insn.memory_base();
    let index = insn.memory_index();
    if base != Register::None {
        base.size()
    } else if index != Register::None {
        index.size()
    } else {
        match insn.memory_displ_size() {
            2 => 2,
            4 => 4,
            8 => 8,
            _ if p.core.mode == Mode::Long64 => 8,
            _ => 4,
        }
    }
}

/// Offset of the memory operand, cut to the address size, plus `extra`.
pub(in crate::cpu) fn effective_plus(p: &Processor, insn: &Instruction, extra: u64) -> u64 {
    let base = insn.memory_base();
    let index = insn.memory_index();
    // For RIP-relative operands the decoder has already added the instruction pointer.
    let mut offset = insn.memory_displacement64();
    if base != Register::None && !base.is_ip() {
        offset = offset.wrapping_add(reg(p, base));
    }
    if index != Register::None {
        let scale = u64::from(insn.memory_index_scale());
        offset = offset.wrapping_add(reg(p, index).wrapping_mul(scale));
    }
    offset.wrapping_add(extra) & mask(address_size(p, insn))
}

/// Offset of the memory operand, cut to the address size.
pub(in crate::cpu) fn effective(p: &Processor, insn: &Instruction) -> u64 {
    effective_plus(p, insn, 0)
}

/// Segment of the memory operand.
pub(in crate::cpu) fn memory_segment(insn: &Instruction) -> Seg {
    segment(insn.memory_segment())
}

/// Linear address of the memory operand, checked for an access of `len` bytes.
pub(in crate::cpu) fn memory_linear(
    p: &mut Processor,
    insn: &Instruction,
    len: usize,
    access: Access,
) -> Step<u64> {
    let offset = effective(p, insn);
    p.linear(memory_segment(insn), offset, len, access)
}

/// Reads 1, 2, 4 or 8 bytes.
pub(in crate::cpu) fn load(p: &mut Processor, seg: Seg, offset: u64, size: usize) -> Step<u64> {
    Ok(match size {
        1 => u64::from(p.load::<u8>(seg, offset)?),
        2 => u64::from(p.load::<u16>(seg, offset)?),
        4 => u64::from(p.load::<u32>(seg, offset)?),
        _ => p.load::<u64>(seg, offset)?,
    })
}

/// Writes 1, 2, 4 or 8 bytes.
pub(in crate::cpu) fn store(
    p: &mut Processor,
    seg: Seg,
    offset: u64,
    size: usize,
    value: u64,
) -> Step {
    match size {
        1 => p.store::<u8>(seg, offset, value as u8),
        2 => p.store::<u16>(seg, offset, value as u16),
        4 => p.store::<u32>(seg, offset, value as u32),
        _ => p.store::<u64>(seg, offset, value),
    }
}

/// Reads and replaces 1, 2, 4 or 8 bytes; returns the old value.
pub(in crate::cpu) fn modify(
    p: &mut Processor,
    seg: Seg,
    offset: u64,
    size: usize,
    f: impl FnOnce(u64) -> u64,
) -> Step<u64> {
    Ok(match size {
        1 => u64::from(p.modify::<u8>(seg, offset, |v| f(u64::from(v)) as u8)?),
        2 => u64::from(p.modify::<u16>(seg, offset, |v| f(u64::from(v)) as u16)?),
        4 => u64::from(p.modify::<u32>(seg, offset, |v| f(u64::from(v)) as u32)?),
        _ => p.modify::<u64>(seg, offset, f)?,
    })
}

/// Reads operand `n` at `size` bytes.
pub(in crate::cpu) fn read(
    p: &mut Processor,
    insn: &Instruction,
    n: u32,
    size: usize,
) -> Step<u64> {
    match insn.op_kind(n) {
        OpKind::Register => Ok(reg(p, insn.op_register(n)) & mask(size)),
        OpKind::Memory => {
            let offset = effective(p, insn);
            load(p, memory_segment(insn), offset, size)
        }
        _ => match insn.try_immediate(n) {
            Ok(value) => Ok(value & mask(size)),
            Err(_) => Err(p.unknown("operand kind")),
        },
    }
}

/// Writes operand `n`, a register or memory of `size` bytes.
pub(in crate::cpu) fn write(
    p: &mut Processor,
    insn: &Instruction,
    n: u32,
    size: usize,
    value: u64,
) -> Step {
    if insn.op_kind(n) == OpKind::Register {
        set_reg(p, insn.op_register(n), value);
        return Ok(());
    }
    let offset = effective(p, insn);
    store(p, memory_segment(insn), offset, size, value)
}

/// Replaces operand `n`, a register or memory of `size` bytes, and returns the old value.
pub(in crate::cpu) fn update(
    p: &mut Processor,
    insn: &Instruction,
    n: u32,
    size: usize,
    f: impl FnOnce(u64) -> u64,
) -> Step<u64> {
    if insn.op_kind(n) == OpKind::Register {
        let register = insn.op_register(n);
        let old = reg(p, register);
        set_reg(p, register, f(old));
        return Ok(old);
    }
    let offset = effective(p, insn);
    modify(p, memory_segment(insn), offset, size, f)
}

/// Width of the stack pointer in bytes.
pub(in crate::cpu) fn stack_size(p: &Processor) -> usize {
    if p.core.mode == Mode::Long64 {
        8
    } else if p.core.seg[Seg::Ss as usize].big() {
        4
    } else {
        2
    }
}

/// The stack pointer moved by `by` bytes, cut to its width; the register is not changed.
pub(in crate::cpu) fn stack_at(p: &Processor, by: i64) -> u64 {
    p.core.gpr[RSP].wrapping_add(by as u64) & mask(stack_size(p))
}

/// Sets the stack pointer at its width.
pub(in crate::cpu) fn set_stack(p: &mut Processor, value: u64) {
    let size = stack_size(p);
    set_gpr(p, RSP, size, value);
}

/// Pushes `size` bytes.
pub(in crate::cpu) fn push(p: &mut Processor, size: usize, value: u64) -> Step {
    let at = stack_at(p, -(size as i64));
    store(p, Seg::Ss, at, size, value)?;
    set_stack(p, at);
    Ok(())
}

/// Reads `size` bytes, `by` bytes above the stack pointer, without popping.
pub(in crate::cpu) fn peek(p: &mut Processor, by: i64, size: usize) -> Step<u64> {
    let at = stack_at(p, by);
    load(p, Seg::Ss, at, size)
}

/// Pops `size` bytes.
pub(in crate::cpu) fn pop(p: &mut Processor, size: usize) -> Step<u64> {
    let value = peek(p, 0, size)?;
    let at = stack_at(p, size as i64);
    set_stack(p, at);
    Ok(value)
}

/// #GP(0) unless at CPL 0.
pub(in crate::cpu) fn supervisor_only(p: &mut Processor) -> Step {
    if p.core.cpl != 0 {
        return Err(p.fault(Exception::gp(0)));
    }
    Ok(())
}

/// Segment and offset of the memory operand; the offset is cut to the address size.
pub(in crate::cpu) fn address(p: &Processor, insn: &Instruction) -> (Seg, u64) {
    (memory_segment(insn), effective(p, insn))
}

/// Faults as an access to a save area does on AMD processors: they touch its first element of
/// `first` bytes and then its last byte.
pub(in crate::cpu) fn probe_area(
    p: &mut Processor,
    la: u64,
    first: usize,
    len: usize,
    access: Access,
) -> Step {
    let user = p.core.cpl == 3;
    let last = la.wrapping_add(len as u64 - 1);
    match access {
        Access::Write => {
            p.probe_write(la, first, user)?;
            p.probe_write(last, 1, user)
        }
        _ => {
            p.probe_read(la, first, user)?;
            p.probe_read(last, 1, user)
        }
    }
}

/// Retires an instruction that does not branch.
#[inline]
pub(in crate::cpu) fn next(p: &mut Processor, insn: &Instruction) -> Step {
    p.core.rip = insn.next_ip();
    Ok(())
}
