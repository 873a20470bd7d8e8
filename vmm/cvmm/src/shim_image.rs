//! The measured shim, as the build made it.

/// Its flat image, to be placed at [`abi::shim::SHIM_CODE_GPA`].
pub const SHIM_CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim.bin"));
