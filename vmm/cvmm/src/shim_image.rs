//! The measured shim, as the build made it: two flat images, to be placed at [`abi::shim::SHIM_CODE_GPA`].

/// For SEV-SNP and for unprotected guests.
pub const SHIM_CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim.bin"));
/// For Intel TDX.
pub const TDX_SHIM_CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim_tdx.bin"));
