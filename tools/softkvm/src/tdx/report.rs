//! TDREPORT, and its verification by the quoting service of the same platform.
//!
//! The processor's report key is secret and differs at every boot. Here it is [`REPORT_KEY`]: a report of softkvm proves
//! nothing but that software handled it as reports are to be handled.

use abi::tdx::{ReportMac, TdReport, TeeTcbInfo};
use sha2::{Digest, Sha256, Sha384};
use zerocopy::{FromZeros, IntoBytes};

use super::Td;

/// Key of the MAC. Not a secret.
pub const REPORT_KEY: [u8; 32] = *b"softkvm TDREPORT key, no secret!";
/// MRSEAM: SHA-384 of a name, since there is no module to hash.
const MRSEAM_OF: &[u8] = b"softkvm TDX module";
/// CPUSVN: softkvm's own.
const CPU_SVN: [u8; 16] = *b"softkvm\0\0\0\0\0\0\0\0\0";
/// Security versions of the TDX module: its own, its major version (1 is TDX 1.5), SEAM loader. softkvm's own.
pub const TEE_TCB_SVN: [u8; 16] = [5, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// All fields of TEE_TCB_INFO up to and including TEE_TCB_SVN2.
const VALID: [u8; 8] = [0xff, 1, 0, 0, 0, 0, 0, 0];

/// TDG.MR.REPORT's structure for a TD.
pub fn make(td: &Td, report_data: &[u8; 64]) -> TdReport {
    let mut report = TdReport::new_zeroed();
    report.td_info = td.info();
    report.tee_tcb_info = TeeTcbInfo {
        valid: VALID,
        tee_tcb_svn: TEE_TCB_SVN,
        mr_seam: Sha384::digest(MRSEAM_OF).into(),
        mr_signer_seam: [0; 48],
        attributes: [0; 8],
        tee_tcb_svn2: TEE_TCB_SVN,
        reserved: [0; 95],
    };
    report.mac = ReportMac {
        report_type: [ReportMac::TYPE_TDX, 0, 0, 0],
        reserved_04: [0; 12],
        cpu_svn: CPU_SVN,
        tee_tcb_info_hash: Sha384::digest(report.tee_tcb_info.as_bytes()).into(),
        tee_info_hash: Sha384::digest(report.td_info.as_bytes()).into(),
        report_data: *report_data,
        reserved_c0: [0; 32],
        mac: [0; 32],
    };
    report.mac.mac = mac(&report.mac);
    report
}

/// Whether a report was made on this platform: MAC and both hashes are right (as `SEAMVERIFYREPORT` and the quoting
/// enclave check).
pub fn verify(report: &TdReport) -> bool {
    report.mac.report_type[0] == ReportMac::TYPE_TDX
        && report.mac.mac == mac(&report.mac)
        && report.mac.tee_tcb_info_hash
            == <[u8; 48]>::from(Sha384::digest(report.tee_tcb_info.as_bytes()))
        && report.mac.tee_info_hash == <[u8; 48]>::from(Sha384::digest(report.td_info.as_bytes()))
}

/// HMAC-SHA-256 (RFC 2104) over the structure up to its MAC.
fn mac(report: &ReportMac) -> [u8; 32] {
    const BLOCK: usize = 64;
    const COVERED: usize = core::mem::offset_of!(ReportMac, mac);
    let mut key = [0; BLOCK];
    key[..REPORT_KEY.len()].copy_from_slice(&REPORT_KEY);
    let inner = Sha256::new()
        .chain_update(key.map(|byte| byte ^ 0x36))
        .chain_update(&report.as_bytes()[..COVERED])
        .finalize();
    Sha256::new().chain_update(key.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}
