//! Shifts and rotates with their flags.
//!
//! For counts above one OF is undefined; it is given the value that the last single-bit step
//! would give it, as processors do.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::flags::Flags;
use crate::cpu::operand::{mask, operand_size, read, sext, update};
use crate::cpu::{Processor, Step};

/// Result, CF, OF.
type Shifted = (u64, bool, bool);

fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 != 0
}

/// Sets the flags of a shift: SF, ZF and PF by the result, AF clear.
fn shift_flags(flags: &mut Flags, size: usize, (r, cf, of): Shifted) {
    flags.set_logic(sext(r, size));
    flags.set_cf_of(cf, of);
}

fn shl(a: u64, bits: u32, count: u32) -> Shifted {
    let wide = u128::from(a) << count;
    let r = wide as u64 & mask(bits as usize / 8);
    let cf = wide >> bits & 1 != 0;
    (r, cf, cf ^ bit(r, bits - 1))
}

fn shr(a: u64, bits: u32, count: u32) -> Shifted {
    let r = if count < 64 { a >> count } else { 0 };
    let cf = a >> (count - 1) & 1 != 0;
    (r, cf, bit(r, bits - 1) ^ bit(r, bits - 2))
}

fn sar(a: u64, size: usize, count: u32) -> Shifted {
    let a = sext(a, size) as i64;
    let r = (a >> count.min(63)) as u64 & mask(size);
    (r, a >> (count - 1).min(63) & 1 != 0, false)
}

fn rol(a: u64, bits: u32, count: u32) -> Shifted {
    let count = count % bits;
    let r = if count == 0 { a } else { a << count | a >> (bits - count) } & mask(bits as usize / 8);
    let cf = bit(r, 0);
    (r, cf, cf ^ bit(r, bits - 1))
}

fn ror(a: u64, bits: u32, count: u32) -> Shifted {
    let count = count % bits;
    let r = if count == 0 { a } else { a >> count | a << (bits - count) } & mask(bits as usize / 8);
    (r, bit(r, bits - 1), bit(r, bits - 1) ^ bit(r, bits - 2))
}

/// Rotation of the `bits + 1` bits of CF:a to the left.
fn rotate_with_carry(a: u64, bits: u32, count: u32, carry: bool) -> (u64, bool) {
    let ring = u128::from(carry) << bits | u128::from(a);
    let r = ring << count | ring >> (bits + 1 - count);
    (r as u64 & mask(bits as usize / 8), r >> bits & 1 != 0)
}

fn rcl(a: u64, bits: u32, count: u32, carry: bool) -> Shifted {
    let (r, cf) = rotate_with_carry(a, bits, count, carry);
    (r, cf, cf ^ bit(r, bits - 1))
}

fn rcr(a: u64, bits: u32, count: u32, carry: bool) -> Shifted {
    let (r, cf) = rotate_with_carry(a, bits, bits + 1 - count, carry);
    (r, cf, bit(r, bits - 1) ^ bit(r, bits - 2))
}

/// SHL/SAL, SHR, SAR, ROL, ROR, RCL, RCR.
pub(super) fn shift(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let bits = size as u32 * 8;
    let count = read(p, insn, 1, 1)? as u32 & if size == 8 { 63 } else { 31 };
    let mut flags = p.core.flags;
    let carry = flags.cf();
    update(p, insn, 0, size, |a| {
        // RCL and RCR turn a ring of one bit more than the operand.
        let ring = count % (bits + 1);
        match insn.mnemonic() {
            _ if count == 0 => a,
            op @ (Mnemonic::Rol | Mnemonic::Ror) => {
                let (r, cf, of) =
                    if op == Mnemonic::Rol { rol(a, bits, count) } else { ror(a, bits, count) };
                flags.set_cf_of(cf, of);
                r
            }
            Mnemonic::Rcl | Mnemonic::Rcr if ring == 0 => {
                let top = bit(a, bits - 1);
                let below = bit(a, bits - 2);
                let rcl = insn.mnemonic() == Mnemonic::Rcl;
                flags.set_cf_of(carry, if rcl { carry ^ top } else { top ^ below });
                a
            }
            op @ (Mnemonic::Rcl | Mnemonic::Rcr) => {
                let (r, cf, of) = if op == Mnemonic::Rcl {
                    rcl(a, bits, ring, carry)
                } else {
                    rcr(a, bits, ring, carry)
                };
                flags.set_cf_of(cf, of);
                r
            }
            op => {
                let shifted = match op {
                    Mnemonic::Shr => shr(a, bits, count),
                    Mnemonic::Sar => sar(a, size, count),
                    _ => shl(a, bits, count),
                };
                shift_flags(&mut flags, size, shifted);
                shifted.0
            }
        }
    })?;
    p.core.flags = flags;
    Ok(())
}

/// SHLD and SHRD. A count above the operand's width (16-bit operands only) is undefined; the
/// operands are then taken as one ring, as AMD processors do.
pub(super) fn double(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let bits = size as u32 * 8;
    let source = read(p, insn, 1, size)?;
    let count = read(p, insn, 2, 1)? as u32 & if size == 8 { 63 } else { 31 };
    let mut flags = p.core.flags;
    update(p, insn, 0, size, |a| {
        if count == 0 {
            return a;
        }
        let left = insn.mnemonic() == Mnemonic::Shld;
        let shifted = if left {
            // a:source:a, of which the top moves out on the left.
            let (hi, lo) = (u128::from(a) << bits | u128::from(source), u128::from(a));
            let wide = if bits == 64 { hi << count } else { (hi << bits | lo) << count };
            let at = if bits == 64 { bits } else { 2 * bits };
            let r = (wide >> at) as u64 & mask(size);
            let cf =
                if count <= bits { bit(a, bits - count) } else { bit(source, 2 * bits - count) };
            (r, cf, cf ^ bit(r, bits - 1))
        } else {
            let pair = u128::from(source) << bits | u128::from(a);
            let ring = if bits == 16 { u128::from(a) << 32 | pair } else { pair };
            let r = (ring >> count) as u64 & mask(size);
            let cf = ring >> (count - 1) & 1 != 0;
            (r, cf, bit(r, bits - 1) ^ bit(r, bits - 2))
        };
        shift_flags(&mut flags, size, shifted);
        shifted.0
    })?;
    p.core.flags = flags;
    Ok(())
}
