//! TDG.VP.INFO (TDX Module 1.5 ABI specification): is this the TD that was measured?

use abi::shim::Termination;
use abi::tdx::TdAttributes;

/// Bits of RCX and of EBX at the start that hold the width of guest addresses.
const WIDTH_MASK: u64 = 0x3F;

/// What the leaf answers.
#[derive(Clone, Copy, Debug)]
pub struct VpInfo {
    /// RCX: width of guest addresses.
    pub width: u64,
    /// RDX.
    pub attributes: TdAttributes,
    /// R8, lower half: vCPUs that exist.
    pub vcpus: u32,
}

/// Checks the TD and returns the bit that makes a mapping shared: the highest of a guest address.
///
/// `width` is EBX at the start. `vcpus` is what the parameters promise the kernel.
pub fn check(info: VpInfo, width: u64, vcpus: u32) -> Result<u64, Termination> {
    let bits = info.width & WIDTH_MASK;
    if width & WIDTH_MASK != bits || !matches!(bits, 48 | 52) || info.vcpus < vcpus {
        return Err(Termination::TD_INFO);
    }
    if !info.attributes.contains(TdAttributes::SEPT_VE_DISABLE) {
        return Err(Termination::TD_ATTRIBUTES);
    }
    Ok(1 << (bits - 1))
}
