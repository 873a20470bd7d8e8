//! Everything without a handler of its own: one call of the instruction's executor.
//!
//! UNSAFETY: as in [`crate::cpu::engine::op`]; the slot behind such an operation holds the decoded
//! instruction.
#![allow(unsafe_code)]

use iced_x86::Instruction;

use crate::cpu::engine::op::{Head, Leave, Op, go, leave};
use crate::cpu::{Processor, Step, exec};

/// The block an operation belongs to.
///
/// # Safety
/// The operation is live.
pub(crate) unsafe fn head(op: *const Op) -> *const Head {
    // SAFETY: `at` counts the slots from the head.
    unsafe { op.sub((*op).at as usize).cast() }
}

#[inline(always)]
unsafe fn execute<const OFFERED: bool>(p: &mut Processor, op: *const Op) -> Step {
    // SAFETY: the operation is live, and an instruction stands behind it.
    unsafe {
        p.core.rip = (*op).disp;
        let ahead = (*head(op)).count - i64::from((*op).before);
        p.hot.room = (p.hot.budget + ahead) as u64;
        let before = p.hot.limit.wrapping_sub(p.hot.room);
        p.core.instructions = before;
        let insn = &*op.add(1).cast::<Instruction>();
        let result = if OFFERED { exec::execute_offered(p, insn) } else { exec::execute(p, insn) };
        // Iterations of a repeated instruction count.
        p.hot.budget -= p.core.instructions.wrapping_sub(before) as i64;
        result
    }
}

/// An instruction inside a block (`OFFERED`: the builder knows that it exists): goes on unless something has to be looked at.
pub(crate) unsafe fn inside<const OFFERED: bool>(p: &mut Processor, op: *const Op) -> *const Op {
    // SAFETY: the operation is live; blocks dropped by the instruction are freed only after this
    // one has been left.
    unsafe {
        if execute::<OFFERED>(p, op).is_err() {
            return leave(p, op, Leave::Stopped);
        }
        let dropped = (*p.hot.code).drops() != p.hot.seen_drops;
        if p.core.rip != (*op).imm || p.core.attention || dropped || p.hot.budget < 0 {
            return leave(p, op, Leave::After);
        }
        go(p, op.add(2))
    }
}

/// The last instruction of a block.
pub(crate) unsafe fn last<const OFFERED: bool>(p: &mut Processor, op: *const Op) -> *const Op {
    // SAFETY: as in `inside`.
    unsafe {
        let why = if execute::<OFFERED>(p, op).is_err() { Leave::Stopped } else { Leave::After };
        leave(p, op, why)
    }
}
