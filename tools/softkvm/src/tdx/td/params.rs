//! The checks of TD_PARAMS but for CPUID, in the module's order (TDX module source, TDH.MNG.INIT).

use abi::tdx::{TdParams, TdxStatus, Xfam, operand};

use crate::tdx::TdxPlatform;
use crate::tdx::platform::features0;

/// TSC frequencies, in units of 25 MHz.
const TSC_FREQUENCY: std::ops::RangeInclusive<u16> = 4..=400;

/// EPTP_CONTROLS: memory type 2:0, levels less one 5:3, everything else 0.
mod eptp {
    /// Write-back.
    pub const WB: u64 = 6;
    /// Four levels.
    pub const LEVELS_4: u64 = 3;
    /// Five levels.
    pub const LEVELS_5: u64 = 4;
}

/// Checks everything but the CPUID configuration and the reserved bytes after it.
pub(super) fn check(platform: &TdxPlatform, params: &TdParams) -> Result<(), TdxStatus> {
    let refuse = |id| Err(TdxStatus::OPERAND_INVALID.with(id));
    let attributes = params.attributes.0;
    if attributes & !platform.attributes_fixed0.0 != 0
        || !params.attributes.contains(platform.attributes_fixed1)
    {
        return refuse(operand::ATTRIBUTES);
    }
    if !xfam(platform, params.xfam) {
        return refuse(operand::XFAM);
    }
    if params.max_vcpus == 0 {
        return refuse(operand::MAX_VCPUS);
    }
    // The first two bytes count nested VMs, which are not modelled: the module would refuse more than three.
    if params.reserved_12 != [0; 6] {
        return refuse(operand::RDX);
    }
    let mut flags = TdParams::MAX_GPAW;
    if platform.module.features0 & features0::NO_RBP_MOD != 0 {
        flags |= TdParams::NO_RBP_MOD;
    }
    if params.config_flags & !flags != 0 {
        return refuse(operand::EXEC_CONTROLS);
    }
    if !eptp_controls(platform, params) {
        return refuse(operand::EPTP_CONTROLS);
    }
    if !TSC_FREQUENCY.contains(&params.tsc_frequency) {
        return refuse(operand::TSC_FREQUENCY);
    }
    if params.reserved_2a != [0; 38] || params.reserved_e0 != [0; 32] {
        return refuse(operand::RDX);
    }
    Ok(())
}

/// The rules of XFAM (TDX module source, `check_xfam`).
fn xfam(platform: &TdxPlatform, xfam: Xfam) -> bool {
    let all_or_none = |group: Xfam| xfam.0 & group.0 == 0 || xfam.0 & group.0 == group.0;
    xfam.0 & !platform.xfam_fixed0.0 == 0
        && xfam.0 & platform.xfam_fixed1.0 == platform.xfam_fixed1.0
        && all_or_none(Xfam::AVX512)
        && (xfam.0 & Xfam::AVX512.0 == 0 || xfam.0 & Xfam::AVX.0 != 0)
        && all_or_none(Xfam::CET)
        && all_or_none(Xfam::AMX)
}

fn eptp_controls(platform: &TdxPlatform, params: &TdParams) -> bool {
    let levels = match params.eptp_controls >> 3 {
        levels @ (eptp::LEVELS_4 | eptp::LEVELS_5) => levels,
        _ => return false,
    };
    let five = levels == eptp::LEVELS_5;
    params.eptp_controls & 7 == eptp::WB
        && (!five || platform.five_level_ept)
        && (five || params.config_flags & TdParams::MAX_GPAW == 0)
}
