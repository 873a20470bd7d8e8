//! PUSH, POP and LEAVE in 64-bit mode.
//!
//! UNSAFETY: as in [`crate::cpu::engine::op`]: operations are live, their offsets the builder's,
//! and host addresses come from the TLB for the width used.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One argument holds for all: the module's.

use crate::cpu::engine::op::{Op, address, get, go, readable, redo, set, writable};
use crate::cpu::state::{RBP, RSP};
use crate::cpu::{Processor, flags};

#[inline(always)]
unsafe fn push(p: &mut Processor, op: *const Op, value: u64) -> *const Op {
    unsafe {
        let rsp = p.core.gpr[RSP].wrapping_sub(8);
        let host = writable::<u64>(p, rsp);
        if host.is_null() {
            return redo(p, op);
        }
        host.write_unaligned(value);
        p.core.gpr[RSP] = rsp;
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn push_r(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let value = get::<u64>(p, (*op).src);
        push(p, op, value)
    }
}

pub(crate) unsafe fn push_i(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe { push(p, op, (*op).imm) }
}

pub(crate) unsafe fn push_m(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let host = readable::<u64>(p, address::<true>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        let value = host.read_unaligned();
        push(p, op, value)
    }
}

pub(crate) unsafe fn push_flags(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let value = p.core.rflags() & !(flags::RF | flags::VM);
        push(p, op, value)
    }
}

pub(crate) unsafe fn pop_r(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let rsp = p.core.gpr[RSP];
        let host = readable::<u64>(p, rsp);
        if host.is_null() {
            return redo(p, op);
        }
        p.core.gpr[RSP] = rsp.wrapping_add(8);
        // After the increment: POP RSP gets what was loaded.
        set(p, (*op).dst, host.read_unaligned());
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn leave_frame(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let rbp = p.core.gpr[RBP];
        let host = readable::<u64>(p, rbp);
        if host.is_null() {
            return redo(p, op);
        }
        p.core.gpr[RSP] = rbp.wrapping_add(8);
        p.core.gpr[RBP] = host.read_unaligned();
        go(p, op.add(1))
    }
}
