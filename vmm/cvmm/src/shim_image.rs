//! The measured shim, as the build made it: two flat images, to be placed at [`abi::shim::SHIM_CODE_GPA`], and the first stage
//! that brings in one of them.

/// For SEV-SNP and for unprotected guests.
pub const SHIM_CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim.bin"));
/// For Intel TDX.
pub const TDX_SHIM_CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim_tdx.bin"));

/// What of a first stage is in its page (`abi::shim::snp`).
#[derive(Clone, Copy, Debug)]
pub struct FirstStage {
    /// What runs in place.
    pub code: &'static [u8],
    /// What is packed.
    pub program: &'static [u8],
}

/// For SEV-SNP.
pub const FIRST_STAGE: FirstStage = FirstStage {
    code: include_bytes!(concat!(env!("OUT_DIR"), "/boot_code.bin")),
    program: include_bytes!(concat!(env!("OUT_DIR"), "/boot_program.bin")),
};
