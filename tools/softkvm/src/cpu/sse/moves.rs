//! Data movement between vector registers, general registers and memory.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::lanes::*;
use super::{
    available, check_alignment, enter, enter_mmx, finish, is_mm, operands, register, source,
};
use crate::cpu::operand::{self, next};
use crate::cpu::processor::Processor;
use crate::cpu::state::{RDI, Seg};
use crate::cpu::world::{Access, Step};

/// Executes a move; `None` if the instruction is not one.
pub(super) fn execute(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    use Mnemonic as M;
    Some(match insn.mnemonic() {
        M::Movaps
        | M::Movapd
        | M::Movdqa
        | M::Movups
        | M::Movupd
        | M::Movdqu
        | M::Lddqu
        | M::Movntps
        | M::Movntpd
        | M::Movntdq
        | M::Movntdqa
        | M::Movntq
        | M::Movd
        | M::Movq
        | M::Movq2dq
        | M::Movdq2q => copy(p, insn),
        M::Movnti => nontemporal_gpr(p, insn),
        M::Movss => scalar(p, insn, LOW32),
        // The string instruction has the same name and no vector operand.
        M::Movsd if insn.op0_register().is_xmm() || insn.op1_register().is_xmm() => {
            scalar(p, insn, LOW64)
        }
        M::Movlps | M::Movlpd => low_half(p, insn),
        M::Movhps | M::Movhpd => high_half(p, insn),
        M::Movhlps => {
            operands(p, insn).and_then(|(a, b)| finish(p, insn, merge(a, b >> 64, LOW64)))
        }
        M::Movlhps => operands(p, insn).and_then(|(a, b)| finish(p, insn, a & LOW64 | b << 64)),
        M::Movmskps => {
            mask(p, insn, |v| dwords(v).iter().rev().fold(0, |m, x| m << 1 | u64::from(x >> 31)))
        }
        M::Movmskpd => mask(p, insn, |v| qwords(v).iter().rev().fold(0, |m, x| m << 1 | x >> 63)),
        M::Pmovmskb => {
            mask(p, insn, |v| bytes(v).iter().rev().fold(0, |m, x| m << 1 | u64::from(x >> 7)))
        }
        M::Maskmovdqu | M::Maskmovq => masked_store(p, insn),
        M::Pinsrb => insert(p, insn, 8, 15),
        M::Pinsrw if is_mm(insn, 0) => insert(p, insn, 16, 3),
        M::Pinsrw => insert(p, insn, 16, 7),
        M::Pinsrd => insert(p, insn, 32, 3),
        M::Pinsrq => insert(p, insn, 64, 1),
        M::Pextrb => extract(p, insn, 8, 15),
        M::Pextrw if is_mm(insn, 1) => extract(p, insn, 16, 3),
        M::Pextrw => extract(p, insn, 16, 7),
        M::Pextrd | M::Extractps => extract(p, insn, 32, 3),
        M::Pextrq => extract(p, insn, 64, 1),
        _ => return None,
    })
}

/// Whole-operand moves; shorter sources are zero-extended.
fn copy(p: &mut Processor, insn: &Instruction) -> Step {
    enter(p, insn)?;
    let mut value = source(p, insn, 1)?;
    // MOVQ between XMM registers copies the low half only.
    if insn.mnemonic() == Mnemonic::Movq {
        value &= LOW64;
    }
    finish(p, insn, value)
}

/// MOVNTI moves a general register and needs no SIMD state.
fn nontemporal_gpr(p: &mut Processor, insn: &Instruction) -> Step {
    let value = u128::from(operand::reg(p, insn.op1_register()));
    finish(p, insn, value)
}

/// MOVSS and MOVSD: between registers the rest of the destination stays.
fn scalar(p: &mut Processor, insn: &Instruction, low: u128) -> Step {
    enter(p, insn)?;
    let value = source(p, insn, 1)?;
    let both = insn.op0_kind() == OpKind::Register && insn.op1_kind() == OpKind::Register;
    let old = if both { register(p, insn.op0_register()) } else { 0 };
    finish(p, insn, merge(old, value, low))
}

fn low_half(p: &mut Processor, insn: &Instruction) -> Step {
    enter(p, insn)?;
    let value = source(p, insn, 1)?;
    if insn.op0_kind() != OpKind::Register {
        return finish(p, insn, value);
    }
    let old = register(p, insn.op0_register());
    finish(p, insn, merge(old, value, LOW64))
}

fn high_half(p: &mut Processor, insn: &Instruction) -> Step {
    enter(p, insn)?;
    let value = source(p, insn, 1)?;
    if insn.op0_kind() != OpKind::Register {
        return finish(p, insn, value >> 64);
    }
    let old = register(p, insn.op0_register());
    finish(p, insn, old & LOW64 | value << 64)
}

/// Sign bits to a general register.
fn mask(p: &mut Processor, insn: &Instruction, f: impl Fn(u128) -> u64) -> Step {
    enter(p, insn)?;
    let value = source(p, insn, 1)?;
    // An MMX source has no upper half, so its upper mask bits are zero.
    finish(p, insn, u128::from(f(value)))
}

/// MASKMOVDQU and MASKMOVQ: byte stores to DS:rDI where the mask's sign bit is set.
fn masked_store(p: &mut Processor, insn: &Instruction) -> Step {
    let mmx = is_mm(insn, 1);
    if mmx {
        enter_mmx(p, false)?;
    } else {
        available(p)?;
    }
    let (segment, offset) = masked_address(p, insn);
    let value = register(p, insn.op1_register()).to_le_bytes();
    let mask = register(p, insn.op2_register()).to_le_bytes();
    let len = if mmx { 8 } else { 16 };
    if mmx {
        // Even if the store then faults, as AMD processors do.
        p.core.fpu.enter_mmx();
    }
    let la = p.linear_aligned(segment, offset, len, 8, Access::Write)?;
    let user = p.core.cpl == 3;
    // A zero mask need not fault, but any selected byte must be writable before the first store.
    for i in (0..len).filter(|&i| mask[i] & 0x80 != 0) {
        p.probe_write(la.wrapping_add(i as u64), 1, user)?;
    }
    for i in (0..len).filter(|&i| mask[i] & 0x80 != 0) {
        p.store_linear(la.wrapping_add(i as u64), user, value[i])?;
    }
    next(p, insn)
}

fn masked_address(p: &Processor, insn: &Instruction) -> (Seg, u64) {
    let rdi = p.core.gpr[RDI];
    let offset = match insn.op0_kind() {
        OpKind::MemorySegDI => rdi & 0xffff,
        OpKind::MemorySegEDI => rdi & 0xffff_ffff,
        _ => rdi,
    };
    (operand::segment(insn.memory_segment()), offset)
}

fn lane_mask(bits: u32) -> u128 {
    u128::MAX >> (128 - bits)
}

fn insert(p: &mut Processor, insn: &Instruction, bits: u32, lanes: u8) -> Step {
    let (a, b) = operands(p, insn)?;
    let at = u32::from(insn.immediate8() & lanes) * bits;
    finish(p, insn, merge(a, b << at, lane_mask(bits) << at))
}

fn extract(p: &mut Processor, insn: &Instruction, bits: u32, lanes: u8) -> Step {
    enter(p, insn)?;
    check_alignment(p, insn)?;
    let value = register(p, insn.op1_register());
    let at = u32::from(insn.immediate8() & lanes) * bits;
    finish(p, insn, value >> at & lane_mask(bits))
}
