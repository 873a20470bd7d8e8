//! MOV, MOVZX, MOVSX, LEA, XCHG, CMOVcc, SETcc, BSWAP and the sign extensions of RAX.
//!
//! UNSAFETY: as in [`crate::cpu::engine::op`]: operations are live, their offsets the builder's,
//! and host addresses come from the TLB for the width used.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One argument holds for all: the module's.

use super::branch::condition;
use crate::cpu::Processor;
use crate::cpu::alu::Word;
use crate::cpu::engine::op::{Op, address, get, go, readable, redo, set, writable};
use crate::cpu::state::{RAX, RDX};

pub(crate) unsafe fn nop(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe { go(p, op.add(1)) }
}

/// An instruction that does no more than a read could fault at: CLFLUSH.
pub(crate) unsafe fn touch(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        if readable::<u8>(p, address::<true>(p, op)).is_null() {
            return redo(p, op);
        }
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn rr<T: Word>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let value = get::<T>(p, (*op).src);
        set(p, (*op).dst, value);
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn ri<T: Word>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        set(p, (*op).dst, T::cut((*op).imm));
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn load<T: Word, const FULL: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let host = readable::<T>(p, address::<FULL>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        set(p, (*op).dst, host.read_unaligned());
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn store<T: Word, const FULL: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let host = writable::<T>(p, address::<FULL>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        host.write_unaligned(get::<T>(p, (*op).src));
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn store_imm<T: Word, const FULL: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let host = writable::<T>(p, address::<FULL>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        host.write_unaligned(T::cut((*op).imm));
        go(p, op.add(1))
    }
}

/// Zero- or sign-extends; `D` is the destination.
#[inline(always)]
fn extend<S: Word, D: Word, const SIGNED: bool>(value: S) -> D {
    D::cut(if SIGNED { value.sext() } else { value.zext() })
}

pub(crate) unsafe fn extend_rr<S: Word, D: Word, const SIGNED: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let value = extend::<S, D, SIGNED>(get::<S>(p, (*op).src));
        set(p, (*op).dst, value);
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn extend_rm<S: Word, D: Word, const SIGNED: bool>(
    p: &mut Processor,
    op: *const Op,
) -> *const Op {
    unsafe {
        let host = readable::<S>(p, address::<true>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        set(p, (*op).dst, extend::<S, D, SIGNED>(host.read_unaligned()));
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn lea<T: Word, const FULL: bool>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let value = address::<FULL>(p, op);
        set(p, (*op).dst, T::cut(value));
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn xchg_rr<T: Word>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let (a, b) = (get::<T>(p, (*op).dst), get::<T>(p, (*op).src));
        set(p, (*op).dst, b);
        set(p, (*op).src, a);
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn xchg_mr<T: Word>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let host = writable::<T>(p, address::<true>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        let old = host.read_unaligned();
        host.write_unaligned(get::<T>(p, (*op).src));
        set(p, (*op).src, old);
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn cmov_rr<T: Word, const CC: u8>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        // A 32-bit destination is zero-extended even when nothing is moved.
        let from = if condition::<CC>(&p.core.flags) { (*op).src } else { (*op).dst };
        let value = get::<T>(p, from);
        set(p, (*op).dst, value);
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn cmov_rm<T: Word, const CC: u8>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let host = readable::<T>(p, address::<true>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        let new = host.read_unaligned();
        let old = get::<T>(p, (*op).dst);
        set(p, (*op).dst, if condition::<CC>(&p.core.flags) { new } else { old });
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn set_r<const CC: u8>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let value = u8::from(condition::<CC>(&p.core.flags));
        set(p, (*op).dst, value);
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn set_m<const CC: u8>(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let host = writable::<u8>(p, address::<true>(p, op));
        if host.is_null() {
            return redo(p, op);
        }
        host.write(u8::from(condition::<CC>(&p.core.flags)));
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn bswap32(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let value = get::<u32>(p, (*op).dst).swap_bytes();
        set(p, (*op).dst, value);
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn bswap64(p: &mut Processor, op: *const Op) -> *const Op {
    unsafe {
        let value = get::<u64>(p, (*op).dst).swap_bytes();
        set(p, (*op).dst, value);
        go(p, op.add(1))
    }
}

pub(crate) unsafe fn cdqe(p: &mut Processor, op: *const Op) -> *const Op {
    p.core.gpr[RAX] = p.core.gpr[RAX] as i32 as i64 as u64;
    unsafe { go(p, op.add(1)) }
}

pub(crate) unsafe fn cwde(p: &mut Processor, op: *const Op) -> *const Op {
    p.core.gpr[RAX] = p.core.gpr[RAX] as i16 as i32 as u32 as u64;
    unsafe { go(p, op.add(1)) }
}

pub(crate) unsafe fn cqo(p: &mut Processor, op: *const Op) -> *const Op {
    p.core.gpr[RDX] = (p.core.gpr[RAX] as i64 >> 63) as u64;
    unsafe { go(p, op.add(1)) }
}

pub(crate) unsafe fn cdq(p: &mut Processor, op: *const Op) -> *const Op {
    p.core.gpr[RDX] = (p.core.gpr[RAX] as i32 >> 31) as u32 as u64;
    unsafe { go(p, op.add(1)) }
}
