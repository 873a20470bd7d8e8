//! Bit tests, scans, counts, byte swaps, BMI1/BMI2 and CRC32.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::cpu::operand::{
    effective_plus, load, mask, memory_segment, modify, operand_size, read, reg, set_reg, sext,
    update, write,
};
use crate::cpu::{Features, Processor, Step};

fn changed(op: Mnemonic, value: u64, bit: u64) -> u64 {
    match op {
        Mnemonic::Bts => value | bit,
        Mnemonic::Btr => value & !bit,
        Mnemonic::Btc => value ^ bit,
        // BT.
        _ => value,
    }
}

/// BT, BTS, BTR, BTC. With a register offset a memory operand is a bit string that reaches 2^63
/// bits either way.
pub(super) fn test(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let bits = size as u64 * 8;
    let op = insn.mnemonic();
    let offset = read(p, insn, 1, size)?;
    let bit = 1 << (offset & (bits - 1));
    let string = insn.op_kind(0) == OpKind::Memory && insn.op_kind(1) == OpKind::Register;
    let old = if string {
        let units = sext(offset, size) as i64 >> bits.trailing_zeros();
        let at = effective_plus(p, insn, (units as u64).wrapping_mul(size as u64));
        if op == Mnemonic::Bt {
            load(p, memory_segment(insn), at, size)?
        } else {
            modify(p, memory_segment(insn), at, size, |v| changed(op, v, bit))?
        }
    } else if op == Mnemonic::Bt {
        read(p, insn, 0, size)?
    } else {
        update(p, insn, 0, size, |v| changed(op, v, bit))?
    };
    p.core.flags.set_cf(old & bit != 0);
    Ok(())
}

/// BSF, BSR, TZCNT, LZCNT. Where the counting forms are hidden their encoding is that of the
/// scans.
pub(super) fn scan(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let bits = size as u64 * 8;
    let value = read(p, insn, 1, size)?;
    let leading = bits - (64 - u64::from(value.leading_zeros()));
    let (counts, forward) = match insn.mnemonic() {
        Mnemonic::Tzcnt => (p.core.features.contains(Features::BMI1), true),
        Mnemonic::Lzcnt => (p.core.features.contains(Features::LZCNT), false),
        Mnemonic::Bsf => (false, true),
        // BSR.
        _ => (false, false),
    };
    if counts {
        let count = match forward {
            true => u64::from(value.trailing_zeros()).min(bits),
            false => leading,
        };
        set_reg(p, insn.op_register(0), count);
        p.core.flags.set_logic(count);
        p.core.flags.set_cf(count == bits);
    } else if value == 0 {
        // The destination keeps all its bits, even the upper half.
        p.core.flags.set_logic(0);
    } else {
        let at = match forward {
            true => u64::from(value.trailing_zeros()),
            false => bits - 1 - leading,
        };
        set_reg(p, insn.op_register(0), at);
        // ZF clear; the rest is undefined. Bit 8 keeps the result word from being zero.
        p.core.flags.set_logic(at | 0x100);
    }
    Ok(())
}

/// POPCNT.
pub(super) fn popcnt(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let value = read(p, insn, 1, size)?;
    let count = u64::from(value.count_ones());
    set_reg(p, insn.op_register(0), count);
    // All flags but ZF are cleared, PF too.
    p.core.flags.load(if count == 0 { crate::cpu::flags::ZF } else { 0 });
    Ok(())
}

/// BSWAP. A 16-bit operand is undefined; processors clear it.
pub(super) fn swap(p: &mut Processor, insn: &Instruction) -> Step {
    let register = insn.op_register(0);
    let value = reg(p, register);
    let out = match register.size() {
        8 => value.swap_bytes(),
        4 => u64::from((value as u32).swap_bytes()),
        _ => 0,
    };
    set_reg(p, register, out);
    Ok(())
}

/// MOVBE.
pub(super) fn movbe(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let value = read(p, insn, 1, size)?;
    write(p, insn, 0, size, value.swap_bytes() >> (64 - size * 8))
}

/// ANDN, BEXTR, BLSI, BLSMSK, BLSR.
pub(super) fn bmi1(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let bits = size as u64 * 8;
    let a = read(p, insn, 1, size)?;
    let (r, cf) = match insn.mnemonic() {
        Mnemonic::Andn => (!a & read(p, insn, 2, size)?, false),
        Mnemonic::Bextr => {
            let control = read(p, insn, 2, size)?;
            let (start, len) = (control & 0xff, control >> 8 & 0xff);
            let shifted = if start < bits { a >> start } else { 0 };
            (if len < 64 { shifted & ((1 << len) - 1) } else { shifted }, false)
        }
        Mnemonic::Blsi => (a & a.wrapping_neg(), a != 0),
        Mnemonic::Blsmsk => (a ^ a.wrapping_sub(1), a == 0),
        // BLSR.
        _ => (a & a.wrapping_sub(1), a == 0),
    };
    let r = r & mask(size);
    set_reg(p, insn.op_register(0), r);
    p.core.flags.set_logic(sext(r, size));
    p.core.flags.set_cf(cf);
    Ok(())
}

/// BZHI, PDEP, PEXT.
pub(super) fn bmi2(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 0);
    let a = read(p, insn, 1, size)?;
    let b = read(p, insn, 2, size)?;
    let r = match insn.mnemonic() {
        Mnemonic::Bzhi => {
            let index = b & 0xff;
            let bits = size as u64 * 8;
            let r = if index < bits { a & ((1 << index) - 1) } else { a };
            p.core.flags.set_logic(sext(r, size));
            p.core.flags.set_cf(index >= bits);
            r
        }
        Mnemonic::Pdep => deposit(a, b),
        // PEXT.
        _ => extract(a, b),
    };
    set_reg(p, insn.op_register(0), r);
    Ok(())
}

fn deposit(mut value: u64, mut places: u64) -> u64 {
    let mut out = 0;
    while places != 0 {
        let lowest = places & places.wrapping_neg();
        if value & 1 != 0 {
            out |= lowest;
        }
        value >>= 1;
        places ^= lowest;
    }
    out
}

fn extract(value: u64, mut places: u64) -> u64 {
    let mut out = 0;
    let mut at = 0;
    while places != 0 {
        let lowest = places & places.wrapping_neg();
        if value & lowest != 0 {
            out |= 1 << at;
        }
        at += 1;
        places ^= lowest;
    }
    out
}

/// The Castagnoli polynomial, bit-reversed.
const CRC32C: u32 = 0x82f6_3b78;

/// CRC32.
pub(super) fn crc32(p: &mut Processor, insn: &Instruction) -> Step {
    let size = operand_size(insn, 1);
    let data = read(p, insn, 1, size)?;
    let mut crc = reg(p, insn.op_register(0)) as u32;
    for byte in &data.to_le_bytes()[..size] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { CRC32C } else { 0 };
        }
    }
    set_reg(p, insn.op_register(0), u64::from(crc));
    Ok(())
}
