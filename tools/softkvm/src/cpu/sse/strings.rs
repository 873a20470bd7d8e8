//! SSE4.2 string comparison (PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM).

use iced_x86::{Instruction, Mnemonic};

use super::lanes::*;
use super::{operands, zf_cf};
use crate::cpu::flags;
use crate::cpu::operand::next;
use crate::cpu::processor::Processor;
use crate::cpu::state::{RAX, RCX, RDX};
use crate::cpu::world::Step;

/// Executes an instruction of this file; `None` if it is not one.
pub(super) fn execute(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    use Mnemonic as M;
    let (explicit, wide, index) = match insn.mnemonic() {
        M::Pcmpestri => (true, false, true),
        M::Pcmpestri64 => (true, true, true),
        M::Pcmpestrm => (true, false, false),
        M::Pcmpestrm64 => (true, true, false),
        M::Pcmpistri => (false, false, true),
        M::Pcmpistrm => (false, false, false),
        _ => return None,
    };
    Some(compare(p, insn, explicit, wide, index))
}

/// Elements, sign- or zero-extended.
fn elements(v: u128, imm: u8) -> Vec<i32> {
    match imm & 3 {
        0 => bytes(v).iter().map(|&x| i32::from(x)).collect(),
        1 => words(v).iter().map(|&x| i32::from(x)).collect(),
        2 => bytes(v).iter().map(|&x| i32::from(x as i8)).collect(),
        _ => words(v).iter().map(|&x| i32::from(x as i16)).collect(),
    }
}

/// Length from a register, saturated to the number of elements.
fn explicit_length(value: u64, wide: bool, count: usize) -> usize {
    let length = if wide { value as i64 } else { i64::from(value as i32) };
    length.unsigned_abs().min(count as u64) as usize
}

fn implicit_length(v: &[i32]) -> usize {
    v.iter().position(|&x| x == 0).unwrap_or(v.len())
}

/// The intermediate result: one bit per element of the second operand.
fn aggregate(a: &[i32], la: usize, b: &[i32], lb: usize, imm: u8) -> u32 {
    let n = a.len();
    let bit = |j: usize| match imm >> 2 & 3 {
        0 => j < lb && a[..la].contains(&b[j]),
        1 => j < lb && (0..la / 2).any(|i| a[2 * i] <= b[j] && b[j] <= a[2 * i + 1]),
        2 => (j < la) == (j < lb) && (j >= la || a[j] == b[j]),
        _ => (0..la).all(|i| i + j >= n || i + j < lb && a[i] == b[i + j]),
    };
    (0..n).filter(|&j| bit(j)).fold(0, |bits, j| bits | 1 << j)
}

fn compare(p: &mut Processor, insn: &Instruction, explicit: bool, wide: bool, index: bool) -> Step {
    let (a, b) = operands(p, insn)?;
    let imm = insn.immediate8();
    let (a, b) = (elements(a, imm), elements(b, imm));
    let n = a.len();
    let (la, lb) = if explicit {
        let gpr = &p.core.gpr;
        (explicit_length(gpr[RAX], wide, n), explicit_length(gpr[RDX], wide, n))
    } else {
        (implicit_length(&a), implicit_length(&b))
    };
    let all = (1u32 << n) - 1;
    let raw = aggregate(&a, la, &b, lb, imm);
    let result = match imm >> 4 & 3 {
        1 => !raw & all,
        3 => raw ^ ((1u32 << lb) - 1),
        _ => raw,
    };
    if index {
        let found = match (result, imm >> 6 & 1) {
            (0, _) => n as u32,
            (_, 0) => result.trailing_zeros(),
            _ => 31 - result.leading_zeros(),
        };
        p.core.gpr[RCX] = u64::from(found);
    } else if imm >> 6 & 1 == 0 {
        p.core.fpu.xmm[0] = u128::from(result);
    } else {
        let bits = 128 / n;
        let element = u128::MAX >> (128 - bits);
        p.core.fpu.xmm[0] =
            (0..n).filter(|i| result >> i & 1 != 0).fold(0, |v, i| v | element << (i * bits));
    }
    let sign = if la < n { flags::SF } else { 0 };
    let overflow = if result & 1 != 0 { flags::OF } else { 0 };
    p.core.flags.load(zf_cf(lb < n, result != 0) | sign | overflow);
    next(p, insn)
}
