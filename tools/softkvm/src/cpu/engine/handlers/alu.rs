//! ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT, shifts, multiplication and division.
//!
//! UNSAFETY: as in [`crate::cpu::engine::op`]: operations are live, their offsets the builder's,
//! and host addresses come from the TLB for the width used.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One argument holds for all: the module's.

use crate::cpu::alu::{self, Word};
use crate::cpu::engine::op::{Op, address, get, go, readable, redo, set, writable};
use crate::cpu::state::{RAX, RCX, RDX};
use crate::cpu::{Flags, Processor};

/// Operations in encoding order, then TEST.
pub(crate) const ADD: u8 = 0;
pub(crate) const OR: u8 = 1;
pub(crate) const ADC: u8 = 2;
pub(crate) const SBB: u8 = 3;
pub(crate) const AND: u8 = 4;
pub(crate) const SUB: u8 = 5;
pub(crate) const XOR: u8 = 6;
pub(crate) const CMP: u8 = 7;
pub(crate) const TEST: u8 = 8;

#[inline(always)]
fn apply<T: Word, const OP: u8>(f: &mut Flags, a: T, b: T) -> T {
    match OP {
        ADD => alu::add(f, a, b, false),
        ADC => {
            let carry = f.cf();
            alu::add(f, a, b, carry)
        }
        SBB => {
            let borrow = f.cf();
            alu::sub(f, a, b, borrow)
        }
        SUB | CMP => alu::sub(f, a, b, false),
        OR => alu::logic(f, T::cut(a.zext() | b.zext())),
        XOR => alu::logic(f, T::cut(a.zext() ^ b.zext())),
        _ => alu::logic(f, T::cut(a.zext() & b.zext())),
    }
}

const fn keeps<const OP: u8>() -> bool {
    OP != CMP && OP != TEST
}

pub(crate) unsafe fn rr<T: Word, const OP: u8>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let (a, b) = (get::<T>(p, (*op).dst), get::<T>(p, (*op).src));
        let res = apply::<T, OP>(&mut p.core.flags, a, b);
        if keeps::<OP>() {
            set(p, (*op).dst, res);
        }
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn ri<T: Word, const OP: u8>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let a = get::<T>(p, (*op).dst);
        let res = apply::<T, OP>(&mut p.core.flags, a, T::cut((*op).imm));
        if keeps::<OP>() {
            set(p, (*op).dst, res);
        }
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn rm<T: Word, const OP: u8, const FULL: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let host = readable::<T>(p, address::<FULL>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        let a = get::<T>(p, (*op).dst);
        let res = apply::<T, OP>(&mut p.core.flags, a, host.read_unaligned());
        if keeps::<OP>() {
            set(p, (*op).dst, res);
        }
        go(p, op.add(1))
    }
}

#[inline(always)]
unsafe fn memory<T: Word, const OP: u8, const FULL: bool>(
    p: &mut Processor,
    op: *const Op,
    b: T,
) -> *const Op {
    unsafe {
        let la = address::<FULL>(p, op);
        if keeps::<OP>() {
            let host = writable::<T>(p, la);
            if host.is_null() {
                return redo(p, op);
            }
            let res = apply::<T, OP>(&mut p.core.flags, host.read_unaligned(), b);
            host.write_unaligned(res);
        } else {
            let host = readable::<T>(p, la);
            if host.is_null() {
                return redo(p, op);
            }
            apply::<T, OP>(&mut p.core.flags, host.read_unaligned(), b);
        }
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn mr<T: Word, const OP: u8, const FULL: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let b = get::<T>(p, (*op).src);
        memory::<T, OP, FULL>(p, op, b)
    }
}

pub(crate) unsafe fn mi<T: Word, const OP: u8, const FULL: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe { memory::<T, OP, FULL>(p, op, T::cut((*op).imm)) }
}

/// XOR or SUB of a register with itself.
pub(crate) unsafe fn zero(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        p.core.flags.set_logic(0);
        set::<u64>(p, (*op).dst, 0);
        go(p, op.add(1))
    }
}

pub(crate) const INC: u8 = 0;
pub(crate) const DEC: u8 = 1;
pub(crate) const NEG: u8 = 2;
pub(crate) const NOT: u8 = 3;

#[inline(always)]
fn apply_one<T: Word, const OP: u8>(f: &mut Flags, a: T) -> T {
    match OP {
        INC => alu::inc(f, a),
        DEC => alu::dec(f, a),
        NEG => alu::neg(f, a),
        _ => T::cut(!a.zext()),
    }
}

pub(crate) unsafe fn r<T: Word, const OP: u8>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let a = get::<T>(p, (*op).dst);
        let res = apply_one::<T, OP>(&mut p.core.flags, a);
        set(p, (*op).dst, res);
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn m<T: Word, const OP: u8>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let host = writable::<T>(p, address::<true>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        let res = apply_one::<T, OP>(&mut p.core.flags, host.read_unaligned());
        host.write_unaligned(res);
        go(p, op.add(1))
    }
}

/// Shifts and rotations in encoding order (RCL and RCR are left to the generic handler).
pub(crate) const ROL: u8 = 0;
pub(crate) const ROR: u8 = 1;
pub(crate) const SHL: u8 = 4;
pub(crate) const SHR: u8 = 5;
pub(crate) const SAR: u8 = 7;

#[inline(always)]
fn apply_shift<T: Word, const OP: u8>(f: &mut Flags, a: T, count: u32) -> T {
    match OP {
        ROL => alu::rol(f, a, count),
        ROR => alu::ror(f, a, count),
        SHL => alu::shl(f, a, count),
        SHR => alu::shr(f, a, count),
        _ => alu::sar(f, a, count),
    }
}

/// By an immediate, which the builder has masked; it is not zero.
pub(crate) unsafe fn shift_i<T: Word, const OP: u8>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let a = get::<T>(p, (*op).dst);
        let count = (*op).imm as u32;
        // Tells the compiler what the builder has seen to.
        std::hint::assert_unchecked(count != 0 && count < 64);
        let res = apply_shift::<T, OP>(&mut p.core.flags, a, count);
        set(p, (*op).dst, res);
        go(p, op.add(1))
    }
}

/// By CL.
pub(crate) unsafe fn shift_cl<T: Word, const OP: u8>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let a = get::<T>(p, (*op).dst);
        let count = alu::shift_count::<T>(p.core.gpr[RCX] as u8);
        let res = apply_shift::<T, OP>(&mut p.core.flags, a, count);
        set(p, (*op).dst, res);
        go(p, op.add(1))
    }
}

/// A memory operand by an immediate or, when `imm` is zero, by CL.
pub(crate) unsafe fn shift_m<T: Word, const OP: u8>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let host = writable::<T>(p, address::<true>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        let count = match (*op).imm as u32 {
            0 => alu::shift_count::<T>(p.core.gpr[RCX] as u8),
            count => count,
        };
        let res = apply_shift::<T, OP>(&mut p.core.flags, host.read_unaligned(), count);
        host.write_unaligned(res);
        go(p, op.add(1))
    }
}

/// SHLD or SHRD of registers by an immediate or, when `imm` is zero, by CL.
pub(crate) unsafe fn double_shift<T: Word, const LEFT: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let (a, b) = (get::<T>(p, (*op).dst), get::<T>(p, (*op).src));
        let count = match (*op).imm as u32 {
            0 => alu::shift_count::<T>(p.core.gpr[RCX] as u8),
            count => count,
        };
        let f = &mut p.core.flags;
        let res = if LEFT { alu::shld(f, a, b, count) } else { alu::shrd(f, a, b, count) };
        set(p, (*op).dst, res);
        go(p, op.add(1))
    }
}

/// IMUL with a register destination: `dst = src * (dst or imm)`.
pub(crate) unsafe fn imul_rr<T: Word, const IMM: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let a = get::<T>(p, (*op).src);
        let b = if IMM { T::cut((*op).imm) } else { get::<T>(p, (*op).dst) };
        let (low, _) = alu::imul(&mut p.core.flags, a, b);
        set(p, (*op).dst, low);
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn imul_rm<T: Word, const IMM: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let host = readable::<T>(p, address::<true>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        let b = if IMM { T::cut((*op).imm) } else { get::<T>(p, (*op).dst) };
        let (low, _) = alu::imul(&mut p.core.flags, host.read_unaligned(), b);
        set(p, (*op).dst, low);
        go(p, op.add(1))
    }
}

#[inline(always)]
unsafe fn operand<T: Word, const MEMORY: bool>(p: &mut Processor, op: *const Op) -> Option<T> {
    unsafe {
        if MEMORY {
            let host = readable::<T>(p, address::<true>(p, op));
            (!host.is_null()).then(|| host.read_unaligned())
        } else {
            Some(get::<T>(p, (*op).dst))
        }
    }
}

/// MUL and IMUL into RDX:RAX.
pub(crate) unsafe fn mul<T: Word, const SIGNED: bool, const MEMORY: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let Some(b) = operand::<T, MEMORY>(p, op) else { return redo(p, op) };
        let a = T::cut(p.core.gpr[RAX]);
        let f = &mut p.core.flags;
        let (low, high) = if SIGNED { alu::imul(f, a, b) } else { alu::mul(f, a, b) };
        p.core.gpr[RAX] = low.zext();
        p.core.gpr[RDX] = high.zext();
        go(p, op.add(1))
    }
}

/// DIV and IDIV of RDX:RAX.
pub(crate) unsafe fn div<T: Word, const SIGNED: bool, const MEMORY: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let Some(by) = operand::<T, MEMORY>(p, op) else { return redo(p, op) };
        let (high, low) = (T::cut(p.core.gpr[RDX]), T::cut(p.core.gpr[RAX]));
        let result = if SIGNED { alu::idiv(high, low, by) } else { alu::div(high, low, by) };
        let Some((quotient, remainder)) = result else { return redo(p, op) };
        p.core.gpr[RAX] = quotient.zext();
        p.core.gpr[RDX] = remainder.zext();
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn cmpxchg<T: Word>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let host = writable::<T>(p, address::<true>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        let old = host.read_unaligned();
        let expected = T::cut(p.core.gpr[RAX]);
        alu::sub(&mut p.core.flags, expected, old, false);
        if old == expected {
            host.write_unaligned(get::<T>(p, (*op).src));
        } else {
            set(p, 0, old);
        }
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn xadd<T: Word>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let host = writable::<T>(p, address::<true>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        let old = host.read_unaligned();
        let by = get::<T>(p, (*op).src);
        let sum = alu::add(&mut p.core.flags, old, by, false);
        set(p, (*op).src, old);
        host.write_unaligned(sum);
        go(p, op.add(1))
    }
}
