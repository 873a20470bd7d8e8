//! SEV-SNP structures as the PSP firmware and the processor define them.
//!
//! Documents: "SEV Secure Nested Paging Firmware ABI Specification" (AMD publication 56860, rev.
//! 1.57) and "AMD64 Architecture Programmer's Manual, volume 2" (24593). Values that firmware or
//! a guest may hand us are open newtypes, never Rust enums.

mod firmware;
mod launch;
mod message;
mod report;
mod vmsa;

pub use firmware::*;
pub use launch::*;
pub use message::*;
pub use report::*;
pub use vmsa::*;

/// Bytes in the only page size that mainline KVM uses for private memory.
pub const PAGE_SIZE: usize = 4096;
