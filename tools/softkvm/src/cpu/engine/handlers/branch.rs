//! Conditions, jumps, calls and returns, and comparisons fused with the branch behind them.
//!
//! UNSAFETY: as in [`crate::cpu::engine::op`]: operations are live, their offsets the builder's,
//! and host addresses come from the TLB for the width used.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One argument holds for all: the module's.

use super::alu::{CMP, TEST};
use crate::cpu::alu::{self, Word};
use crate::cpu::engine::op::{Op, address, follow, get, jump, links, readable, redo, writable};
use crate::cpu::state::RSP;
use crate::cpu::{Flags, Processor};

/// A condition code in encoding order.
#[inline(always)]
pub(crate) fn condition<const CC: u8>(f: &Flags) -> bool {
    let holds = match CC >> 1 {
        0 => f.of(),
        1 => f.cf(),
        2 => f.zf(),
        3 => f.cf() || f.zf(),
        4 => f.sf(),
        5 => f.pf(),
        6 => f.sf() != f.of(),
        _ => f.zf() || f.sf() != f.of(),
    };
    holds != (CC & 1 != 0)
}

/// A condition after CMP or TEST, straight from the operands where that is shorter.
#[inline(always)]
fn compared<T: Word, const OP: u8, const CC: u8>(f: &Flags, a: T, b: T) -> bool {
    if OP == TEST {
        let res = (a.zext() & b.zext(), T::cut(a.zext() & b.zext()).sext() as i64);
        let holds = match CC >> 1 {
            0 | 1 => false,
            2 | 3 => res.0 == 0,
            4 | 6 => res.1 < 0,
            5 => f.pf(),
            _ => res.1 <= 0,
        };
        return holds != (CC & 1 != 0);
    }
    let (ua, ub) = (a.zext(), b.zext());
    let (sa, sb) = (a.sext() as i64, b.sext() as i64);
    let holds = match CC >> 1 {
        0 => f.of(),
        1 => ua < ub,
        2 => ua == ub,
        3 => ua <= ub,
        4 => f.sf(),
        5 => f.pf(),
        6 => sa < sb,
        _ => sa <= sb,
    };
    holds != (CC & 1 != 0)
}

/// Past the last instruction of a block that does not end in a branch.
pub(crate) unsafe fn end(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe { follow(p, links(op)) }
}

pub(crate) unsafe fn jcc<const CC: u8>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        if condition::<CC>(&p.core.flags) {
            follow(p, links(op))
        } else {
            follow(p, links(op).add(1))
        }
    }
}

#[inline(always)]
unsafe fn compare<T: Word, const OP: u8, const CC: u8>(
    p: &mut Processor,
    op: *const Op,
    a: T,
    b: T,
) -> *const Op {
    unsafe {
        let f = &mut p.core.flags;
        if OP == CMP {
            alu::sub(f, a, b, false);
        } else {
            alu::logic(f, T::cut(a.zext() & b.zext()));
        }
        if compared::<T, OP, CC>(&p.core.flags, a, b) {
            follow(p, links(op))
        } else {
            follow(p, links(op).add(1))
        }
    }
}

/// CMP or TEST of two registers, then a conditional jump.
pub(crate) unsafe fn compare_rr<T: Word, const OP: u8, const CC: u8>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let (a, b) = (get::<T>(p, (*op).dst), get::<T>(p, (*op).src));
        compare::<T, OP, CC>(p, op, a, b)
    }
}

/// CMP or TEST of a register and an immediate, then a conditional jump.
pub(crate) unsafe fn compare_ri<T: Word, const OP: u8, const CC: u8>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let a = get::<T>(p, (*op).dst);
        compare::<T, OP, CC>(p, op, a, T::cut((*op).imm))
    }
}

/// JMP to a constant is what `end` does.
pub(crate) unsafe fn jmp_r(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let rip = get::<u64>(p, (*op).dst);
        if !p.canonical(rip) {
            return redo(p, op);
        }
        jump(p, rip)
    }
}

pub(crate) unsafe fn jmp_m(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let host = readable::<u64>(p, address::<true>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        let rip = host.read_unaligned();
        if !p.canonical(rip) {
            return redo(p, op);
        }
        jump(p, rip)
    }
}

#[inline(always)]
unsafe fn push_return(p: &mut Processor, op: *const Op) -> bool {
    unsafe {
        let rsp = p.core.gpr[RSP].wrapping_sub(8);
        let host = writable::<u64>(p, rsp);
        if host.is_null() {
            return false;
        }
        host.write_unaligned((*op).imm);
        p.core.gpr[RSP] = rsp;
        true
    }
}

pub(crate) unsafe fn call(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe { if push_return(p, op) { follow(p, links(op)) } else { redo(p, op) } }
}

pub(crate) unsafe fn call_r(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let rip = get::<u64>(p, (*op).dst);
        if p.canonical(rip) && push_return(p, op) { jump(p, rip) } else { redo(p, op) }
    }
}

pub(crate) unsafe fn call_m(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let host = readable::<u64>(p, address::<true>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        let rip = host.read_unaligned();
        if p.canonical(rip) && push_return(p, op) { jump(p, rip) } else { redo(p, op) }
    }
}

pub(crate) unsafe fn ret(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let rsp = p.core.gpr[RSP];
        let host = readable::<u64>(p, rsp);
        if host.is_null() {
            return redo(p, op);
        }
        let rip = host.read_unaligned();
        if !p.canonical(rip) {
            return redo(p, op);
        }
        p.core.gpr[RSP] = rsp.wrapping_add(8);
        jump(p, rip)
    }
}
