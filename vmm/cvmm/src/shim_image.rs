//! The measured shim, as the build made it.

/// Its flat image, to be placed at [`abi::shim::SHIM_CODE_GPA`].
pub const SHIM_CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim.bin"));

/// Placeholder until the TDX image is built.
pub const TDX_SHIM_CODE: &[u8] = SHIM_CODE;
/// Placeholder until the contract names it.
pub const AP_RESET_VECTOR_GPA: u64 = abi::shim::SHIM_CODE_GPA + 8;
