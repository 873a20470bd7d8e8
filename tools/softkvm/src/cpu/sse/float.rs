//! Floating-point SSE instructions: operands, MXCSR flags and #XM around the host's arithmetic.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::lanes::*;
use super::{enter, finish, host, is_mm, operands, register, source};
use crate::cpu::operand::next;
use crate::cpu::processor::Processor;
use crate::cpu::state::cr4;
use crate::cpu::world::{Exception, Step};

/// MXCSR.UM: underflow masked.
const UNDERFLOW_MASK: u32 = 1 << 11;
/// MXCSR.UE.
const UNDERFLOW: u32 = 1 << 4;
/// MXCSR.FTZ.
const FLUSH: u32 = 1 << 15;
/// Invalid, denormal and zero-divide: detected before the operation.
const BEFORE: u32 = 7;

/// Executes a floating-point instruction; `None` if it is not one.
pub(super) fn execute(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    use Mnemonic as M;
    let mnemonic = insn.mnemonic();
    Some(match mnemonic {
        M::Comiss | M::Comisd | M::Ucomiss | M::Ucomisd => ordered(p, insn),
        M::Cvtsi2ss | M::Cvtsi2sd => from_integer(p, insn),
        M::Cvtss2si | M::Cvttss2si | M::Cvtsd2si | M::Cvttsd2si => to_integer(p, insn),
        M::Cvtpi2ps | M::Cvtpi2pd => from_mmx(p, insn),
        M::Cvtps2pi | M::Cvttps2pi | M::Cvtpd2pi | M::Cvttpd2pi => to_mmx(p, insn),
        // The string instruction shares the name of the scalar comparison.
        M::Cmpsd if !insn.op0_register().is_xmm() => return None,
        M::Cmpps | M::Cmppd | M::Cmpss | M::Cmpsd => {
            let imm = insn.immediate8();
            arithmetic(p, insn, |a, b, csr| host::compare(mnemonic, a, b, imm, csr))
        }
        M::Roundps | M::Roundpd | M::Roundss | M::Roundsd => {
            host::round(mnemonic, 0, 0, 0, 0)?;
            let imm = insn.immediate8();
            arithmetic(p, insn, |a, b, csr| host::round(mnemonic, a, b, imm, csr))
        }
        M::Dpps | M::Dppd => dot_product(p, insn),
        _ => {
            host::binary(mnemonic, 0, 0, 0x1f80)?;
            arithmetic(p, insn, |a, b, csr| host::binary(mnemonic, a, b, csr))
        }
    })
}

/// Records the flags of an operation and raises #XM for unmasked ones.
fn record(p: &mut Processor, flags: u32) -> Step {
    let masks = p.core.fpu.mxcsr >> 7;
    let unmasked = flags & !masks;
    if unmasked == 0 {
        p.core.fpu.mxcsr |= flags;
        return Ok(());
    }
    // An unmasked exception found before the operation prevents the operation and its flags.
    p.core.fpu.mxcsr |= if unmasked & BEFORE != 0 { flags & BEFORE } else { flags };
    let known = p.core.cr4 & cr4::OSXMMEXCPT != 0;
    Err(p.fault(if known { Exception::XM } else { Exception::UD }))
}

/// Runs `f` under the guest's MXCSR and records its flags. With underflow unmasked a tiny result
/// counts even if it is exact, and FTZ has no effect: FTZ on the host then tells tiny results.
/// When overflow or underflow is reported this way, the precision flag is that of the masked
/// response, which may be set where the unmasked one, with its unbounded exponent, is exact.
fn run<T>(p: &mut Processor, f: impl Fn(u32) -> Option<(T, u32)>) -> Step<Option<T>> {
    let csr = p.core.fpu.mxcsr;
    let result = if csr & UNDERFLOW_MASK != 0 {
        f(csr)
    } else {
        let tiny = f(csr | FLUSH).map_or(0, |(_, flags)| flags & UNDERFLOW);
        f(csr & !FLUSH).map(|(value, flags)| (value, flags | tiny))
    };
    match result {
        Some((value, flags)) => record(p, flags).map(|()| Some(value)),
        None => Ok(None),
    }
}

fn arithmetic(
    p: &mut Processor,
    insn: &Instruction,
    f: impl Fn(u128, u128, u32) -> Option<(u128, u32)>,
) -> Step {
    let (a, b) = operands(p, insn)?;
    let result = run(p, |csr| f(a, b, csr))?;
    finish(p, insn, result.unwrap_or(a))
}

fn ordered(p: &mut Processor, insn: &Instruction) -> Step {
    let (a, b) = operands(p, insn)?;
    if let Some(flags) = run(p, |csr| host::ordered(insn.mnemonic(), a, b, csr))? {
        p.core.flags.load(flags);
    }
    next(p, insn)
}

fn from_integer(p: &mut Processor, insn: &Instruction) -> Step {
    let (a, b) = operands(p, insn)?;
    let wide = match insn.op1_kind() {
        OpKind::Register => insn.op1_register().size() == 8,
        _ => insn.memory_size().size() == 8,
    };
    let result = run(p, |csr| host::from_integer(insn.mnemonic(), a, b as u64, wide, csr))?;
    finish(p, insn, result.unwrap_or(a))
}

fn to_integer(p: &mut Processor, insn: &Instruction) -> Step {
    let (_, b) = operands(p, insn)?;
    let wide = insn.op0_register().size() == 8;
    let result = run(p, |csr| host::to_integer(insn.mnemonic(), b, wide, csr))?;
    finish(p, insn, u128::from(result.unwrap_or(0)))
}

/// MMX registers are entered even if the conversion then raises #XM.
fn enter_registers(p: &mut Processor, insn: &Instruction) {
    if is_mm(insn, 0) || is_mm(insn, 1) {
        p.core.fpu.enter_mmx();
    }
}

/// CVTPI2PS and CVTPI2PD: two integers; a memory source does not touch the MMX state.
fn from_mmx(p: &mut Processor, insn: &Instruction) -> Step {
    enter(p, insn)?;
    let b = source(p, insn, 1)?;
    enter_registers(p, insn);
    let a = register(p, insn.op0_register());
    let result = if insn.mnemonic() == Mnemonic::Cvtpi2pd {
        run(p, |csr| host::binary(Mnemonic::Cvtdq2pd, a, b, csr))?
    } else {
        run(p, |csr| host::binary(Mnemonic::Cvtdq2ps, a, b, csr))?.map(|v| merge(a, v, LOW64))
    };
    finish(p, insn, result.unwrap_or(a))
}

/// CVTPS2PI and its like. The absent upper lanes are zero and raise nothing.
fn to_mmx(p: &mut Processor, insn: &Instruction) -> Step {
    use Mnemonic as M;
    enter(p, insn)?;
    let b = source(p, insn, 1)?;
    enter_registers(p, insn);
    let (op, b) = match insn.mnemonic() {
        M::Cvtps2pi => (M::Cvtps2dq, b & LOW64),
        M::Cvttps2pi => (M::Cvttps2dq, b & LOW64),
        M::Cvtpd2pi => (M::Cvtpd2dq, b),
        _ => (M::Cvttpd2dq, b),
    };
    let result = run(p, |csr| host::binary(op, 0, b, csr))?;
    finish(p, insn, result.unwrap_or(0))
}

/// DPPS and DPPD: selected products, summed pairwise, to the selected lanes.
fn dot_product(p: &mut Processor, insn: &Instruction) -> Step {
    use Mnemonic as M;
    let (a, b) = operands(p, insn)?;
    let imm = insn.immediate8();
    let double = insn.mnemonic() == M::Dppd;
    let lane = |set: u8| {
        let bits = if double { 64 } else { 32 };
        let element = u128::MAX >> (128 - bits);
        (0..128 / bits)
            .filter(|i| set >> i & 1 != 0)
            .fold(0, |mask, i| mask | element << (i * bits))
    };
    let (factors, places) = (lane(imm >> 4), lane(imm & 15));
    let (mul, add) = if double { (M::Mulpd, M::Addsd) } else { (M::Mulps, M::Addss) };
    let products = run(p, |csr| host::binary(mul, a & factors, b & factors, csr))?.unwrap_or(0);
    let products = products & factors;
    let sum = if double {
        run(p, |csr| host::binary(add, products, products >> 64, csr))?.unwrap_or(0) & LOW64
    } else {
        let low = run(p, |csr| host::binary(add, products, products >> 32, csr))?.unwrap_or(0);
        let (high, higher) = (products >> 64, products >> 96);
        let high = run(p, |csr| host::binary(add, high, higher, csr))?.unwrap_or(0);
        run(p, |csr| host::binary(add, low, high, csr))?.unwrap_or(0) & LOW32
    };
    let all = if double { sum | sum << 64 } else { sum | sum << 32 | sum << 64 | sum << 96 };
    finish(p, insn, all & places)
}
