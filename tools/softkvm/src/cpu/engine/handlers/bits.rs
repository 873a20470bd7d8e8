//! BT and its kin, BSF, BSR, and the carry flag.
//!
//! UNSAFETY: as in [`crate::cpu::engine::op`]: operations are live, their offsets the builder's,
//! and host addresses come from the TLB for the width used.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One argument holds for all: the module's.

use crate::cpu::Processor;
use crate::cpu::alu::Word;
use crate::cpu::engine::op::{Op, address, get, go, readable, redo, set, writable};

/// BT, BTS, BTR, BTC.
pub(crate) const BT: u8 = 0;
pub(crate) const BTS: u8 = 1;
pub(crate) const BTR: u8 = 2;
pub(crate) const BTC: u8 = 3;

#[inline(always)]
fn apply<const OP: u8>(value: u64, bit: u64) -> u64 {
    match OP {
        BTS => value | bit,
        BTR => value & !bit,
        BTC => value ^ bit,
        _ => value,
    }
}

/// A register, by an immediate or by another register.
pub(crate) unsafe fn register<T: Word, const OP: u8, const IMM: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let by = if IMM { (*op).imm } else { get::<u64>(p, (*op).src) };
        let bit = 1u64 << (by % u64::from(T::BITS));
        let value = get::<T>(p, (*op).dst).zext();
        p.core.flags.set_cf(value & bit != 0);
        if OP != BT {
            set(p, (*op).dst, T::cut(apply::<OP>(value, bit)));
        }
        go(p, op.add(1))
    }
}

/// Memory, by an immediate (`src` is the zero slot) or by a register that reaches beyond the
/// operand.
pub(crate) unsafe fn memory<T: Word, const OP: u8, const IMM: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let mut la = address::<true>(p, op);
        let by = if IMM {
            (*op).imm
        } else {
            let by = get::<T>(p, (*op).src).sext() as i64;
            let units = by.div_euclid(i64::from(T::BITS));
            la = la.wrapping_add((units * T::LEN as i64) as u64);
            by as u64
        };
        let bit = 1u64 << (by % u64::from(T::BITS));
        if OP == BT {
            let host = readable::<T>(p, la);
            if host.is_null() {
                return redo(p, op);
            }
            p.core.flags.set_cf(host.read_unaligned().zext() & bit != 0);
        } else {
            let host = writable::<T>(p, la);
            if host.is_null() {
                return redo(p, op);
            }
            let value = host.read_unaligned().zext();
            p.core.flags.set_cf(value & bit != 0);
            host.write_unaligned(T::cut(apply::<OP>(value, bit)));
        }
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn carry<const VALUE: u8>(p: &mut Processor, op: *const Op) -> *const Op {
    let cf = match VALUE {
        0 => false,
        1 => true,
        _ => !p.core.flags.cf(),
    };
    p.core.flags.set_cf(cf);
    unsafe { go(p, op.add(1)) }
}

/// BSF and BSR of registers: a zero source leaves the destination alone.
pub(crate) unsafe fn scan<T: Word, const FORWARD: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let value = get::<T>(p, (*op).src).zext();
        if value == 0 {
            p.core.flags.set_logic(0);
        } else {
            let at = if FORWARD { value.trailing_zeros() } else { 63 - value.leading_zeros() };
            set(p, (*op).dst, T::cut(u64::from(at)));
            // ZF clear; the rest is undefined. Bit 8 keeps the result word from being zero.
            p.core.flags.set_logic(u64::from(at) | 0x100);
        }
        go(p, op.add(1))
    }
}

/// TZCNT and LZCNT of registers.
pub(crate) unsafe fn count<T: Word, const FORWARD: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let value = get::<T>(p, (*op).src).zext();
        let zeros = if FORWARD {
            value.trailing_zeros().min(T::BITS)
        } else {
            value.leading_zeros() - (64 - T::BITS)
        };
        set(p, (*op).dst, T::cut(u64::from(zeros)));
        p.core.flags.set_logic(u64::from(zeros));
        p.core.flags.set_cf(zeros == T::BITS);
        go(p, op.add(1))
    }
}
