//! REP MOVS and REP STOS upwards through plain memory.
//!
//! Every iteration counts as an instruction. What cannot be done here is left to the reference
//! engine: it finds the registers as the architecture leaves them between two iterations.
//!
//! UNSAFETY: as in [`crate::cpu::engine::op`]: operations are live, their offsets the builder's,
//! and host addresses come from the TLB; each copy stays inside one page of either side.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One argument holds for all: the module's.

use super::generic::head;
use crate::cpu::alu::Word;
use crate::cpu::engine::op::{Leave, Op, go, leave, readable, redo, writable_page};
use crate::cpu::state::{RAX, RCX, RDI, RSI};
use crate::cpu::{Processor, flags};

/// Elements from `la` to the end of its page.
#[inline(always)]
fn room<T: Word>(la: u64) -> u64 {
    (4096 - (la & 0xfff)) / T::LEN as u64
}

/// Iterations that this turn has room for.
#[inline(always)]
unsafe fn room_in_turn(p: &Processor, op: *const Op) -> u64 {
    unsafe { (p.hot.budget + (*head(op)).count - i64::from((*op).before)) as u64 }
}

/// Ends a repeated instruction; the iterations have been taken from the budget.
#[inline(always)]
unsafe fn finish(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        if p.core.gpr[RCX] != 0 {
            // The turn is over: the instruction goes on in the next one.
            p.hot.budget += (*head(op)).count - i64::from((*op).before);
            p.core.rip = (*op).disp;
            p.hot.link = std::ptr::null();
            return leave(p, op, Leave::Done);
        }
        // The last iteration is the instruction itself, which the block has paid for.
        p.hot.budget += 1;
        if p.hot.budget < 0 {
            p.core.rip = (*op).imm;
            return leave(p, op, Leave::After);
        }
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn rep_movs<T: Word>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        if p.core.rflags & flags::DF != 0 {
            return redo(p, op);
        }
        let mut left = p.core.gpr[RCX].min(room_in_turn(p, op));
        if left == 0 {
            return go(p, op.add(1));
        }
        while left != 0 {
            let (from, to) = (p.core.gpr[RSI], p.core.gpr[RDI]);
            let count = room::<T>(from).min(room::<T>(to)).min(left);
            if count == 0 {
                return redo(p, op);
            }
            let source = readable::<T>(p, from);
            if source.is_null() {
                return redo(p, op);
            }
            // Filling the second translation may evict the first, but host addresses stay valid
            // until a flush, and none happens here.
            let target = writable_page::<T>(p, to);
            if target.is_null() {
                return redo(p, op);
            }
            copy_up(source, target, count as usize);
            let bytes = count * T::LEN as u64;
            p.core.gpr[RSI] = from.wrapping_add(bytes);
            p.core.gpr[RDI] = to.wrapping_add(bytes);
            p.core.gpr[RCX] -= count;
            p.hot.budget -= count as i64;
            left -= count;
        }
        finish(p, op)
    }
}

/// Copies element by element upwards: an overlapping target repeats the source, as the
/// instruction does.
#[inline(always)]
unsafe fn copy_up<T: Word>(source: *const T, target: *mut T, count: usize) {
    unsafe {
        let distance = (target as usize).wrapping_sub(source as usize);
        if distance >= count * T::LEN {
            std::ptr::copy(source.cast::<u8>(), target.cast::<u8>(), count * T::LEN);
        } else {
            for i in 0..count {
                target.add(i).write_unaligned(source.add(i).read_unaligned());
            }
        }
    }
}

pub(crate) unsafe fn rep_stos<T: Word>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        if p.core.rflags & flags::DF != 0 {
            return redo(p, op);
        }
        let value = T::cut(p.core.gpr[RAX]);
        let mut left = p.core.gpr[RCX].min(room_in_turn(p, op));
        if left == 0 {
            return go(p, op.add(1));
        }
        while left != 0 {
            let to = p.core.gpr[RDI];
            let count = room::<T>(to).min(left);
            if count == 0 {
                return redo(p, op);
            }
            let target = writable_page::<T>(p, to);
            if target.is_null() {
                return redo(p, op);
            }
            for i in 0..count as usize {
                target.add(i).write_unaligned(value);
            }
            p.core.gpr[RDI] = to.wrapping_add(count * T::LEN as u64);
            p.core.gpr[RCX] -= count;
            p.hot.budget -= count as i64;
            left -= count;
        }
        finish(p, op)
    }
}
