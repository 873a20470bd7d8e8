//! SEV-SNP: the reverse map table, the security processor, KVM's launch commands and the host's
//! side of the GHCB protocol.
//!
//! Pure logic: no processor runs here and no ioctl is dispatched. The front end owns memory,
//! descriptors and vCPUs and lends what a call needs.
//!
//! - [`rmp`] — who owns a page; [`rmp::gate`] decides about every access.
//! - [`psp`]: firmware commands; [`launch`] — what KVM does around them.
//! - [`vmsa`] — registers to page and back.
//! - [`ghcb`] — VMGEXIT.
//! - [`attest`], [`certs`], [`requests`] — reports, their chain, and the messages that ask for them.
//!
//! Not modelled: VMPLs above 0, migration agents, VLEK, the debug commands, page swapping.

pub mod attest;
pub mod certs;
pub mod cpuid;
pub mod digest;
pub mod ghcb;
pub mod launch;
pub mod platform;
pub mod psp;
pub mod requests;
pub mod rmp;
mod rsa;
pub mod vmsa;

pub use digest::LaunchDigest;
pub use ghcb::Vmgexit;
pub use launch::SnpVm;
pub use platform::Platform;
pub use psp::Psp;
pub use rmp::RmpEntry;

/// A 4 KiB page.
pub type Page = [u8; 4096];
