//! Verification of TDREPORTs, as the quoting enclave of the platform does it (SEAMVERIFYREPORT).

use abi::tdx::{ReportMac, TdReport};
use sha2::{Digest, Sha256, Sha384};
use zerocopy::IntoBytes;

/// Key of the MAC. Not a secret.
pub const REPORT_KEY: [u8; 32] = *b"softkvm TDREPORT key, no secret!";

/// Whether a report was made on this platform: MAC and both hashes are right.
pub fn verify(report: &TdReport) -> bool {
    let sha384 = |bytes: &[u8]| <[u8; 48]>::from(Sha384::digest(bytes));
    report.mac.report_type[0] == ReportMac::TYPE_TDX
        && report.mac.mac == mac(&report.mac)
        && report.mac.tee_tcb_info_hash == sha384(report.tee_tcb_info.as_bytes())
        && report.mac.tee_info_hash == sha384(report.td_info.as_bytes())
}

/// HMAC-SHA-256 (RFC 2104) over the structure up to its MAC.
fn mac(report: &ReportMac) -> [u8; 32] {
    const COVERED: usize = core::mem::offset_of!(ReportMac, mac);
    let mut key = [0; 64];
    key[..REPORT_KEY.len()].copy_from_slice(&REPORT_KEY);
    let inner = Sha256::new()
        .chain_update(key.map(|byte| byte ^ 0x36))
        .chain_update(&report.as_bytes()[..COVERED])
        .finalize();
    Sha256::new().chain_update(key.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}
