//! Intel TDX structures as the TDX module, the processor and the guest-host interface define them.
//!
//! Documents: "Intel TDX Module v1.5 ABI Specification" (348551), "Intel TDX Module v1.5 Base Architecture Specification"
//! (348549), "Guest-Host-Communication Interface (GHCI) for Intel TDX 1.5" (726790), "Intel TDX Virtual Firmware Design
//! Guide" (344991); the module's published source (intel/tdx-module) where they are silent. Values that the module, a host
//! or a guest may hand us are open newtypes, never Rust enums.

mod identity;
mod launch;
pub mod leaf;
mod mailbox;
pub mod qgs;
pub mod quote;
mod report;
mod status;
mod tdvf;
pub mod vmcall;

pub use identity::*;
pub use launch::*;
pub use mailbox::*;
pub use report::*;
pub use status::*;
pub use tdvf::*;

/// Vector of #VE.
pub const VE_VECTOR: u8 = 20;
/// CPUID leaf that names the TDX module to a guest; its EBX, EDX, ECX spell "IntelTDX    ".
pub const CPUID_LEAF: u32 = 0x21;
/// EBX, ECX, EDX of [`CPUID_LEAF`].
pub const CPUID_SIGNATURE: [u32; 3] = [0x6574_6E49, 0x2020_2020, 0x5844_546C];
