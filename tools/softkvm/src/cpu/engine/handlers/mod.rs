//! The handlers of hot instructions, by kind, and the generic one.

pub(super) mod alu;
pub(super) mod bits;
pub(super) mod branch;
pub(super) mod generic;
pub(super) mod mov;
pub(super) mod simd;
pub(super) mod stack;
pub(super) mod string;
