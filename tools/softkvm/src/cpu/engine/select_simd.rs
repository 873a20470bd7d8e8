//! Chooses a handler for an SSE instruction on whole XMM registers.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::handlers::simd;
use super::op::Op;
use super::select::{Chosen, memory};
use crate::cpu::exec::offered;
use crate::cpu::{Features, sse};

/// As [`super::select::select`].
pub(super) fn select(insn: &Instruction, op: &mut Op, features: Features) -> Option<Chosen> {
    use Mnemonic as M;
    if !offered(features, insn) {
        return None;
    }
    match insn.mnemonic() {
        M::Movdqa | M::Movaps | M::Movapd => copy::<true>(insn, op),
        M::Movdqu | M::Movups | M::Movupd | M::Lddqu => copy::<false>(insn, op),
        _ => work(insn, op),
    }
}

fn xmm_at(insn: &Instruction, n: u32) -> Option<u8> {
    let register = insn.op_register(n);
    let xmm = insn.op_kind(n) == OpKind::Register && register.is_xmm();
    xmm.then(|| register.number() as u8)
}

fn copy<const ALIGNED: bool>(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    op.run = match (xmm_at(insn, 0), xmm_at(insn, 1)) {
        (Some(dst), Some(src)) => {
            (op.dst, op.src) = (dst, src);
            simd::copy_rr
        }
        (Some(dst), None) => {
            memory(insn, op, 1)?;
            op.dst = dst;
            simd::load::<ALIGNED>
        }
        (None, Some(src)) => {
            memory(insn, op, 0)?;
            op.src = src;
            simd::store::<ALIGNED>
        }
        (None, None) => return None,
    };
    Some(Chosen::Plain)
}

fn work(insn: &Instruction, op: &mut Op) -> Option<Chosen> {
    op.dst = xmm_at(insn, 0)?;
    let work = sse::work(insn)?;
    if let sse::Work::Immediate(_) = work {
        op.imm = u64::from(insn.immediate8());
    }
    op.run = match xmm_at(insn, 1) {
        Some(src) => {
            op.src = src;
            simd::work_rr
        }
        None if insn.memory_size().size() != 16 => return None,
        None => {
            memory(insn, op, 1)?;
            if sse::unaligned(insn.mnemonic()) {
                simd::work_rm::<false>
            } else {
                simd::work_rm::<true>
            }
        }
    };
    Some(Chosen::Work(work))
}
