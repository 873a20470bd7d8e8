//! SSE instructions on whole XMM registers: copies, and functions of destination and source.
//!
//! Whether SSE may be used at all is looked at every time; where it may not, and where a memory operand is not aligned as
//! it must be, the reference engine raises the fault.
//!
//! UNSAFETY: as in [`crate::cpu::engine::op`]: operations are live, host addresses come from the TLB for 16 bytes, and a
//! [`Work`] stands behind the operations of the functions named for it.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One argument holds for all: the module's.

use crate::cpu::engine::op::{Op, address, go, readable, redo, writable};
use crate::cpu::sse::Work;
use crate::cpu::state::{cr0, cr4};
use crate::cpu::{Core, Processor};

fn usable(core: &Core) -> bool {
    core.cr0 & (cr0::EM | cr0::TS) == 0 && core.cr4 & cr4::OSFXSR != 0
}

fn xmm(core: &Core, number: u8) -> u128 {
    core.fpu.xmm[usize::from(number & 15)]
}

fn set_xmm(core: &mut Core, number: u8, value: u128) {
    core.fpu.xmm[usize::from(number & 15)] = value;
}

/// The 16 bytes at the memory operand, or `None` for the reference engine.
#[inline(always)]
unsafe fn source<const ALIGNED: bool>(p: &mut Processor, op: *const Op) -> Option<u128> {
    unsafe {
        let la = address::<true>(p, op);
        if ALIGNED && la & 15 != 0 || !usable(&p.core) {
            return None;
        }
        let host = readable::<u128>(p, la);
        (!host.is_null()).then(|| host.read_unaligned())
    }
}

pub(crate) unsafe fn copy_rr(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        if !usable(&p.core) {
            return redo(p, op);
        }
        let value = xmm(&p.core, (*op).src);
        set_xmm(&mut p.core, (*op).dst, value);
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn load<const ALIGNED: bool>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let Some(value) = source::<ALIGNED>(p, op) else { return redo(p, op) };
        set_xmm(&mut p.core, (*op).dst, value);
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn store<const ALIGNED: bool>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let la = address::<true>(p, op);
        if ALIGNED && la & 15 != 0 || !usable(&p.core) {
            return redo(p, op);
        }
        let host = writable::<u128>(p, la);
        if host.is_null() {
            return redo(p, op);
        }
        host.write_unaligned(xmm(&p.core, (*op).src));
        go(p, op.add(1))
    }
}

/// Computes the destination and goes on behind the work.
#[inline(always)]
unsafe fn finish(p: &mut Processor, op: *const Op, b: u128) -> *const Op {
    unsafe {
        let a = xmm(&p.core, (*op).dst);
        let value = match *op.add(1).cast::<Work>() {
            Work::Two(f) => f(a, b),
            Work::Immediate(f) => f(a, b, (*op).imm as u8),
            Work::Xmm0(f) => f(a, b, p.core.fpu.xmm[0]),
        };
        set_xmm(&mut p.core, (*op).dst, value);
        go(p, op.add(2))
    }
}

/// A function of two registers.
pub(crate) unsafe fn work_rr(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        if !usable(&p.core) {
            return redo(p, op);
        }
        let b = xmm(&p.core, (*op).src);
        finish(p, op, b)
    }
}

/// A function of a register and memory.
pub(crate) unsafe fn work_rm<const ALIGNED: bool>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        match source::<ALIGNED>(p, op) {
            Some(b) => finish(p, op, b),
            None => redo(p, op),
        }
    }
}
