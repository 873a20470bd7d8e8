//! What hot instructions on whole XMM registers compute, as functions that the engine calls without decoding again.

use iced_x86::{Instruction, Mnemonic};

use super::{crypto, int, shuffle};

/// A function of destination and source, and perhaps of something else.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// Of these two.
    Two(fn(u128, u128) -> u128),
    /// And of the immediate byte.
    Immediate(fn(u128, u128, u8) -> u128),
    /// And of XMM0.
    Xmm0(fn(u128, u128, u128) -> u128),
}

/// The work of an instruction whose operands are 16 bytes; `None` if it is not a hot one.
pub(in crate::cpu) fn work(insn: &Instruction) -> Option<Work> {
    use Mnemonic as M;
    const LEN: usize = 16;
    Some(match insn.mnemonic() {
        M::Pshufb => Work::Two(|a, b| shuffle::bytes_by(a, b, LEN)),
        M::Pshufd => Work::Immediate(|_, b, imm| shuffle::dwords_by(b, imm)),
        M::Palignr => Work::Immediate(|a, b, imm| shuffle::align(a, b, imm, LEN)),
        M::Pblendw => Work::Immediate(shuffle::blend_words),
        M::Sha256msg1 => Work::Two(crypto::sha256_message1),
        M::Sha256msg2 => Work::Two(crypto::sha256_message2),
        M::Sha256rnds2 => Work::Xmm0(crypto::sha256_rounds),
        other => Work::Two(int::binary(other)?),
    })
}
