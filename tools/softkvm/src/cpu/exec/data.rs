//! Moves, exchanges, conditional moves, LEA, XLAT, flag bits.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::arith::{add, sub};
use super::condition;
use crate::cpu::operand::{
    address_size, effective, gpr, load, mask, memory_segment, operand_size, read, reg, segment,
    set_gpr, set_reg, sext, update, write,
};
use crate::cpu::state::{RAX, RBX, RCX, RDX};
use crate::cpu::{Exception, Features, Mode, Processor, Seg, Step, flags, segments};

/// MOV between general registers, memory, immediates and segment registers.
pub(super) fn mov(p: &mut Processor, insn: &Instruction) -> Step {
    let to = insn.op_kind(0) == OpKind::Register;
    if to && insn.op_register(0).is_segment_register() {
        let seg = segment(insn.op_register(0));
        if seg == Seg::Cs {
            return Err(p.fault(Exception::UD));
        }
        let selector = read(p, insn, 1, 2)? as u16;
        segments::load(p, seg, selector)?;
        p.core.shadow = seg == Seg::Ss;
        return Ok(());
    }
    let size = operand_size(insn, 0);
    let value = read(p, insn, 1, size)?;
    write(p, insn, 0, size, value)
}

/// MOVZX, MOVSX, MOVSXD.
pub(super) fn extend(p: &mut Processor, insn: &Instruction) -> Step {
    // MOVSXD with a 16-bit destination reads 16 bits.
    let size = operand_size(insn, 1).min(operand_size(insn, 0));
    let value = read(p, insn, 1, size)?;
    let value = if insn.mnemonic() == Mnemonic::Movzx { value } else { sext(value, size) };
    set_reg(p, insn.op_register(0), value);
    Ok(())
}

/// LEA.
pub(super) fn lea(p: &mut Processor, insn: &Instruction) -> Step {
    let value = effective(p, insn);
    set_reg(p, insn.op_register(0), value);
    Ok(())
}

/// XCHG: with memory always locked.
pub(super) fn xchg(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    // The decoder puts a memory operand first.
    let (memory, other) = if insn.op_kind(1) == OpKind::Memory { (1, 0) } else { (0, 1) };
    let register = insn.op_register(other);
    let new = reg(p, register);
    let old = update(p, insn, memory, size, |_| new)?;
    set_reg(p, register, old);
    Ok(())
}

/// XADD.
pub(super) fn xadd(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let source = insn.op_register(1);
    let b = reg(p, source);
    let mut flags = p.core.flags;
    if insn.op_kind(0) == OpKind::Register {
        let a = reg(p, insn.op_register(0));
        let sum = add(&mut flags, size, a, b, false);
        // The destination is written last: it wins when both are one register.
        set_reg(p, source, a);
        set_reg(p, insn.op_register(0), sum);
    } else {
        let old = update(p, insn, 0, size, |a| add(&mut flags, size, a, b, false))?;
        set_reg(p, source, old);
    }
    p.core.flags = flags;
    Ok(())
}

/// CMPXCHG: memory is written in any case, with its old value if the comparison failed.
pub(super) fn cmpxchg(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let expected = gpr(p, RAX, size);
    let new = reg(p, insn.op_register(1));
    let old = if insn.op_kind(0) == OpKind::Register {
        let register = insn.op_register(0);
        let old = reg(p, register);
        if old == expected {
            set_reg(p, register, new);
        }
        old
    } else {
        update(p, insn, 0, size, |old| if old == expected { new } else { old })?
    };
    sub(&mut p.core.flags, size, expected, old, false);
    if old != expected {
        set_gpr(p, RAX, size, old);
    }
    Ok(())
}

/// CMPXCHG8B and CMPXCHG16B: only ZF changes.
pub(super) fn cmpxchg_pair(p: &mut Processor, insn: &Instruction) -> Step {
    let half = if insn.mnemonic() == Mnemonic::Cmpxchg16b { 8 } else { 4 };
    let pair = |p: &Processor, low, high| {
        u128::from(gpr(p, low, half)) | u128::from(gpr(p, high, half)) << (half * 8)
    };
    let expected = pair(p, RAX, RDX);
    let new = pair(p, RBX, RCX);
    let seg = memory_segment(insn);
    let offset = effective(p, insn);
    let choose = |old: u128| if old == expected { new } else { old };
    let old = if half == 8 {
        p.require_alignment(seg, offset, 16)?;
        p.modify::<u128>(seg, offset, choose)?
    } else {
        u128::from(p.modify::<u64>(seg, offset, |old| choose(u128::from(old)) as u64)?)
    };
    let equal = old == expected;
    if !equal {
        set_gpr(p, RAX, half, old as u64);
        set_gpr(p, RDX, half, (old >> (half * 8)) as u64);
    }
    let rest = p.core.flags.bits() & !flags::ZF;
    p.core.flags.load(rest | if equal { flags::ZF } else { 0 });
    Ok(())
}

/// CMOVcc: the source is read in any case, and a 32-bit destination is always zero-extended.
pub(super) fn cmov(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let value = read(p, insn, 1, size)?;
    let register = insn.op_register(0);
    let value = if condition(&p.core.flags, insn) { value } else { reg(p, register) };
    set_reg(p, register, value);
    Ok(())
}

/// SETcc.
pub(super) fn setcc(p: &mut Processor, insn: &Instruction) -> Step {
    let value = u64::from(condition(&p.core.flags, insn));
    write(p, insn, 0, 1, value)
}

/// XLAT.
pub(super) fn xlat(p: &mut Processor, insn: &Instruction) -> Step {
    let size = address_size(p, insn);
    let at = gpr(p, RBX, size).wrapping_add(gpr(p, RAX, 1)) & mask(size);
    let value = load(p, memory_segment(insn), at, 1)?;
    set_gpr(p, RAX, 1, value);
    Ok(())
}

/// LES, LDS, LSS, LFS, LGS.
pub(super) fn load_far_pointer(p: &mut Processor, insn: &Instruction) -> Step {
    let size = insn.op_register(0).size();
    let seg = match insn.mnemonic() {
        Mnemonic::Les => Seg::Es,
        Mnemonic::Lds => Seg::Ds,
        Mnemonic::Lss => Seg::Ss,
        Mnemonic::Lfs => Seg::Fs,
        // LGS.
        _ => Seg::Gs,
    };
    let at = effective(p, insn);
    let offset = load(p, memory_segment(insn), at, size)?;
    let selector = load(p, memory_segment(insn), effective_after(p, insn, size), 2)?;
    segments::load(p, seg, selector as u16)?;
    set_reg(p, insn.op_register(0), offset);
    Ok(())
}

/// Offset `by` bytes into the memory operand.
pub(super) fn effective_after(p: &Processor, insn: &Instruction, by: usize) -> u64 {
    crate::cpu::operand::effective_plus(p, insn, by as u64)
}

/// LAHF and SAHF.
pub(super) fn flags_ah(p: &mut Processor, insn: &Instruction) -> Step {
    if p.core.mode == Mode::Long64 && !p.core.features.contains(Features::LAHF_LM) {
        return Err(p.fault(Exception::UD));
    }
    // SF, ZF, AF, PF, CF.
    const LOW: u64 = 0xd5;
    if insn.mnemonic() == Mnemonic::Lahf {
        let value = p.core.flags.bits() & LOW | 2;
        set_reg(p, Register::AH, value);
    } else {
        let value = reg(p, Register::AH) & LOW;
        let of = p.core.flags.bits() & flags::OF;
        p.core.flags.load(value | of);
    }
    Ok(())
}

/// CLC, STC, CMC, CLD, STD, SALC.
pub(super) fn flag_bits(p: &mut Processor, insn: &Instruction) -> Step {
    let cf = p.core.flags.cf();
    match insn.mnemonic() {
        Mnemonic::Clc => p.core.flags.set_cf(false),
        Mnemonic::Stc => p.core.flags.set_cf(true),
        Mnemonic::Cmc => p.core.flags.set_cf(!cf),
        Mnemonic::Cld => p.core.rflags &= !flags::DF,
        Mnemonic::Std => p.core.rflags |= flags::DF,
        // SALC.
        _ => set_reg(p, Register::AL, if cf { 0xff } else { 0 }),
    }
    Ok(())
}
