//! Multiplication, division and the decimal adjustments.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::arith::{add, sub};
use crate::cpu::flags::{self, Flags};
use crate::cpu::operand::{gpr, mask, operand_size, read, set_gpr, set_reg, sext, write};
use crate::cpu::state::{RAX, RDX};
use crate::cpu::{Exception, Processor, Step};

/// CF and OF say that the product did not fit; the other flags are undefined and come from the
/// low half here.
fn product_flags(flags: &mut Flags, size: usize, low: u64, overflow: bool) {
    flags.set_logic(sext(low, size));
    flags.set_cf_of(overflow, overflow);
}

/// MUL, and IMUL with one operand.
pub(super) fn multiply(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let bits = size as u32 * 8;
    let b = read(p, insn, 0, size)?;
    let a = gpr(p, RAX, size);
    let signed = insn.mnemonic() == Mnemonic::Imul;
    let product = if signed {
        (i128::from(sext(a, size) as i64) * i128::from(sext(b, size) as i64)) as u128
    } else {
        u128::from(a) * u128::from(b)
    };
    let low = product as u64 & mask(size);
    let high = (product >> bits) as u64 & mask(size);
    let overflow =
        if signed { i128::from(sext(low, size) as i64) as u128 != product } else { high != 0 };
    if size == 1 {
        set_gpr(p, RAX, 2, product as u64);
    } else {
        set_gpr(p, RAX, size, low);
        set_gpr(p, RDX, size, high);
    }
    product_flags(&mut p.core.flags, size, low, overflow);
    Ok(())
}

/// IMUL with two or three operands.
pub(super) fn multiply_into(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let (first, second) = if insn.op_count() == 3 { (1, 2) } else { (0, 1) };
    let a = read(p, insn, first, size)?;
    let b = read(p, insn, second, size)?;
    let product = i128::from(sext(a, size) as i64) * i128::from(sext(b, size) as i64);
    let low = product as u64 & mask(size);
    let overflow = i128::from(sext(low, size) as i64) != product;
    set_reg(p, insn.op_register(0), low);
    product_flags(&mut p.core.flags, size, low, overflow);
    Ok(())
}

/// MULX: no flags; the second operand gets the low half, the first the high half.
pub(super) fn mulx(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let product = u128::from(gpr(p, RDX, size)) * u128::from(read(p, insn, 2, size)?);
    set_reg(p, insn.op_register(1), product as u64);
    set_reg(p, insn.op_register(0), (product >> (size * 8)) as u64);
    Ok(())
}

/// DIV and IDIV.
pub(super) fn divide(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let bits = size as u32 * 8;
    let divisor = read(p, insn, 0, size)?;
    if divisor == 0 {
        return Err(p.fault(Exception::DE));
    }
    let dividend = if size == 1 {
        u128::from(gpr(p, RAX, 2))
    } else {
        u128::from(gpr(p, RDX, size)) << bits | u128::from(gpr(p, RAX, size))
    };
    let (quotient, remainder) = if insn.mnemonic() == Mnemonic::Idiv {
        let unused = 128 - 2 * bits;
        let dividend = ((dividend << unused) as i128) >> unused;
        let divisor = i128::from(sext(divisor, size) as i64);
        // The one quotient that does not fit in 128 bits does not fit in 64 either.
        let Some(quotient) = dividend.checked_div(divisor) else {
            return Err(p.fault(Exception::DE));
        };
        if i128::from(sext(quotient as u64, size) as i64) != quotient {
            return Err(p.fault(Exception::DE));
        }
        (quotient as u64, dividend.wrapping_rem(divisor) as u64)
    } else {
        let quotient = dividend / u128::from(divisor);
        if quotient >> bits != 0 {
            return Err(p.fault(Exception::DE));
        }
        (quotient as u64, (dividend % u128::from(divisor)) as u64)
    };
    if size == 1 {
        set_gpr(p, RAX, 2, (quotient & 0xff) | (remainder & 0xff) << 8);
    } else {
        set_gpr(p, RAX, size, quotient);
        set_gpr(p, RDX, size, remainder);
    }
    Ok(())
}

/// AAA, AAS, AAM, AAD, DAA, DAS (AMD APM vol. 3).
pub(super) fn decimal(p: &mut Processor, insn: &Instruction) -> Step {
    let ax = gpr(p, RAX, 2);
    let (al, ah) = (ax & 0xff, ax >> 8);
    let before = p.core.flags;
    let mut flags = before;
    match insn.mnemonic() {
        Mnemonic::Aaa | Mnemonic::Aas => {
            let adjust = al & 15 > 9 || before.af();
            let ax = match (adjust, insn.mnemonic()) {
                (false, _) => ax,
                (true, Mnemonic::Aaa) => ax.wrapping_add(0x106),
                (true, _) => ax.wrapping_sub(0x106),
            };
            set_gpr(p, RAX, 2, ax & 0xff0f);
            flags.load(decimal_flags(ax & 15, adjust, adjust));
        }
        Mnemonic::Aam => {
            let base = immediate_base(insn);
            if base == 0 {
                return Err(p.fault(Exception::DE));
            }
            let al_out = al % base;
            set_gpr(p, RAX, 2, (al / base) << 8 | al_out);
            flags.set_logic(sext(al_out, 1));
        }
        Mnemonic::Aad => {
            let al_out = add(&mut flags, 1, al, (ah * immediate_base(insn)) & 0xff, false);
            set_gpr(p, RAX, 2, al_out);
            flags.set_logic(sext(al_out, 1));
        }
        op => {
            let low = al & 15 > 9 || before.af();
            let high = al > 0x99 || before.cf();
            let by = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
            let mut ignored = before;
            let (out, carry) = if op == Mnemonic::Daa {
                (add(&mut ignored, 1, al, by, false), high)
            } else {
                // A borrow out of the low adjustment is a carry as well.
                (sub(&mut ignored, 1, al, by, false), high || (low && al < 6))
            };
            set_gpr(p, RAX, 1, out);
            flags.load(decimal_flags(out, low, carry));
        }
    }
    p.core.flags = flags;
    Ok(())
}

fn immediate_base(insn: &Instruction) -> u64 {
    if insn.op_count() > 0 && insn.op_kind(0) == OpKind::Immediate8 {
        u64::from(insn.immediate8())
    } else {
        10
    }
}

fn decimal_flags(al: u64, af: bool, cf: bool) -> u64 {
    let mut result = Flags::default();
    result.set_logic(sext(al, 1));
    result.bits() | if af { flags::AF } else { 0 } | if cf { flags::CF } else { 0 }
}

/// RORX, SARX, SHLX, SHRX: shifts without flags.
pub(super) fn shift_without_flags(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let bits = size as u32 * 8;
    let value = read(p, insn, 1, size)?;
    let count = read(p, insn, 2, size)? as u32 & (bits - 1);
    let out = match insn.mnemonic() {
        Mnemonic::Rorx if size == 4 => u64::from((value as u32).rotate_right(count)),
        Mnemonic::Rorx => value.rotate_right(count),
        Mnemonic::Sarx => (sext(value, size) as i64 >> count) as u64,
        Mnemonic::Shlx => value << count,
        // SHRX.
        _ => value >> count,
    };
    write(p, insn, 0, size, out)
}
