//! Address translation: segment checks, page walks, the software TLB and the accesses that miss it.
//!
//! Everything here is an `impl` of [`crate::cpu::Processor`], split by noun. The question whether a
//! guest-physical access may happen at all is [`crate::cpu::World::page`]'s.

mod access;
mod linear;
pub(crate) mod tlb;
mod walk;

pub use tlb::{Tlb, TlbStats};
pub use walk::Translation;

#[cfg(test)]
#[path = "paging_test.rs"]
mod paging_test;
