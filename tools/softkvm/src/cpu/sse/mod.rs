//! MMX and SSE instructions.
//!
//! Integer and bitwise work is done on lanes in plain Rust; floating-point arithmetic is done by
//! the host's SSE unit under the guest's MXCSR (`host`).

mod crypto;
mod float;
mod host;
mod int;
mod lanes;
mod moves;
mod shuffle;
mod strings;
mod work;

pub(crate) use self::work::Work;
pub(in crate::cpu) use self::work::work;

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::operand::{self, next};
use super::processor::Processor;
use super::state::{cr0, cr4};
use super::world::{Exception, Step};
use super::{fxsave, x87};

/// Executes an x87, MMX or SSE instruction, or one of the instructions that save and restore
/// their state; anything else ends the run as not modelled.
pub fn execute(p: &mut Processor, insn: &Instruction) -> Step {
    if let Some(step) = moves::execute(p, insn)
        .or_else(|| packed(p, insn))
        .or_else(|| float::execute(p, insn))
        .or_else(|| crypto::execute(p, insn))
        .or_else(|| strings::execute(p, insn))
        .or_else(|| fxsave::execute(p, insn))
        .or_else(|| x87::execute(p, insn))
    {
        return step;
    }
    Err(p.unknown("an instruction of an extension that is not modelled"))
}

/// Whether operand `i` is an MMX register.
fn is_mm(insn: &Instruction, i: u32) -> bool {
    insn.op_kind(i) == OpKind::Register && insn.op_register(i).is_mm()
}

/// Length in bytes of the vectors the instruction works on.
fn vector_len(insn: &Instruction) -> usize {
    if is_mm(insn, 0) || is_mm(insn, 1) { 8 } else { 16 }
}

/// Availability checks; instructions that touch MMX registers also leave x87 mode.
fn enter(p: &mut Processor, insn: &Instruction) -> Step {
    let mmx = is_mm(insn, 0) || is_mm(insn, 1);
    let sse = insn.op0_register().is_xmm() || insn.op1_register().is_xmm();
    if mmx {
        return enter_mmx(p, sse);
    }
    available(p)
}

/// Checks for an instruction on XMM registers (AMD APM vol. 4, tables of exceptions).
pub(super) fn available(p: &mut Processor) -> Step {
    if p.core.cr0 & cr0::EM != 0 || p.core.cr4 & cr4::OSFXSR == 0 {
        return Err(p.fault(Exception::UD));
    }
    if p.core.cr0 & cr0::TS != 0 {
        return Err(p.fault(Exception::NM));
    }
    Ok(())
}

/// Checks for an instruction on MMX registers. The caller marks the x87 registers as used once
/// nothing can fault any more ([`super::Fpu::enter_mmx`]).
fn enter_mmx(p: &mut Processor, sse: bool) -> Step {
    if p.core.cr0 & cr0::EM != 0 || sse && p.core.cr4 & cr4::OSFXSR == 0 {
        return Err(p.fault(Exception::UD));
    }
    if p.core.cr0 & cr0::TS != 0 {
        return Err(p.fault(Exception::NM));
    }
    x87::pending(p)
}

/// Whether a 16-byte memory operand may lie anywhere.
pub(in crate::cpu) fn unaligned(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Movups
            | M::Movupd
            | M::Movdqu
            | M::Lddqu
            | M::Pcmpestri
            | M::Pcmpestri64
            | M::Pcmpestrm
            | M::Pcmpestrm64
            | M::Pcmpistri
            | M::Pcmpistrm
            // AMD processors do not ask for alignment here, unlike in all other SSE instructions.
            | M::Sha1msg1
            | M::Sha1msg2
            | M::Sha1nexte
            | M::Sha1rnds4
            | M::Sha256msg1
            | M::Sha256msg2
            | M::Sha256rnds2
    )
}

/// #GP(0) unless a 16-byte operand is aligned or need not be.
fn check_alignment(p: &mut Processor, insn: &Instruction) -> Step {
    if insn.memory_size().size() == 16 && !unaligned(insn.mnemonic()) {
        let (segment, offset) = operand::address(p, insn);
        p.require_alignment(segment, offset, 16)?;
    }
    Ok(())
}

/// The value of operand `i`: a register, memory of its size (zero-extended) or an immediate.
fn source(p: &mut Processor, insn: &Instruction, i: u32) -> Step<u128> {
    match insn.op_kind(i) {
        OpKind::Register => Ok(register(p, insn.op_register(i))),
        OpKind::Memory => {
            check_alignment(p, insn)?;
            let (segment, offset) = operand::address(p, insn);
            match insn.memory_size().size() {
                1 => p.load::<u8>(segment, offset).map(u128::from),
                2 => p.load::<u16>(segment, offset).map(u128::from),
                4 => p.load::<u32>(segment, offset).map(u128::from),
                8 => p.load::<u64>(segment, offset).map(u128::from),
                16 => p.load::<u128>(segment, offset),
                _ => Err(p.unknown("a SIMD memory operand of unknown size")),
            }
        }
        _ => Ok(u128::from(insn.immediate8())),
    }
}

fn register(p: &Processor, register: Register) -> u128 {
    if register.is_xmm() {
        p.core.fpu.xmm[register.number()]
    } else if register.is_mm() {
        u128::from(p.core.fpu.mm(register.number()))
    } else {
        u128::from(operand::reg(p, register))
    }
}

/// Writes operand 0, a register or memory of its size, and retires the instruction. Using an MMX
/// register anywhere leaves x87 mode.
fn finish(p: &mut Processor, insn: &Instruction, value: u128) -> Step {
    match insn.op0_kind() {
        OpKind::Register => {
            let register = insn.op0_register();
            if register.is_xmm() {
                p.core.fpu.xmm[register.number()] = value;
            } else if register.is_mm() {
                p.core.fpu.set_mm(register.number(), value as u64);
            } else {
                operand::set_reg(p, register, value as u64);
            }
        }
        _ => {
            check_alignment(p, insn)?;
            let (segment, offset) = operand::address(p, insn);
            match insn.memory_size().size() {
                1 => p.store(segment, offset, value as u8)?,
                2 => p.store(segment, offset, value as u16)?,
                4 => p.store(segment, offset, value as u32)?,
                8 => p.store(segment, offset, value as u64)?,
                16 => p.store(segment, offset, value)?,
                _ => return Err(p.unknown("a SIMD store of unknown size")),
            }
        }
    }
    if is_mm(insn, 0) || is_mm(insn, 1) {
        p.core.fpu.enter_mmx();
    }
    next(p, insn)
}

/// Destination and source, after the availability checks.
fn operands(p: &mut Processor, insn: &Instruction) -> Step<(u128, u128)> {
    enter(p, insn)?;
    let b = source(p, insn, 1)?;
    Ok((register(p, insn.op0_register()), b))
}

/// Packed integer, bitwise and shuffling instructions.
fn packed(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    let mnemonic = insn.mnemonic();
    if let Some(f) = int::binary(mnemonic) {
        return Some(operands(p, insn).and_then(|(a, b)| finish(p, insn, f(a, b))));
    }
    if int::shift(mnemonic, 0, 0).is_some() {
        return Some(
            operands(p, insn)
                .and_then(|(a, b)| finish(p, insn, int::shift(mnemonic, a, b as u64).unwrap_or(a))),
        );
    }
    let len = vector_len(insn);
    if insn.op_count() == 2 && shuffle::binary(mnemonic, 0, 0, len).is_some() {
        return Some(operands(p, insn).and_then(|(a, b)| {
            finish(p, insn, shuffle::binary(mnemonic, a, b, len).unwrap_or(a))
        }));
    }
    if insn.op_count() == 3 && shuffle::immediate(mnemonic, 0, 0, 0, len).is_some() {
        let imm = insn.immediate8();
        return Some(operands(p, insn).and_then(|(a, mut b)| {
            if mnemonic == Mnemonic::Insertps && insn.op1_kind() == OpKind::Register {
                b >>= 32 * u32::from(imm >> 6);
            }
            finish(p, insn, shuffle::immediate(mnemonic, a, b, imm, len).unwrap_or(a))
        }));
    }
    if shuffle::variable_blend(mnemonic, 0, 0, 0).is_some() {
        return Some(operands(p, insn).and_then(|(a, b)| {
            let mask = p.core.fpu.xmm[0];
            finish(p, insn, shuffle::variable_blend(mnemonic, a, b, mask).unwrap_or(a))
        }));
    }
    match insn.code() {
        Code::Ptest_xmm_xmmm128 => Some(ptest(p, insn)),
        _ => None,
    }
}

fn ptest(p: &mut Processor, insn: &Instruction) -> Step {
    let (a, b) = operands(p, insn)?;
    p.core.flags.load(zf_cf(a & b == 0, !a & b == 0));
    next(p, insn)
}

fn zf_cf(zf: bool, cf: bool) -> u64 {
    u64::from(zf) << 6 | u64::from(cf)
}
