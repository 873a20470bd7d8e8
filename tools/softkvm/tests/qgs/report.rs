//! TDREPORTs as a TDX module makes them, by means of its own: the service's check is compared with them.

use abi::tdx::{ReportMac, TdAttributes, TdReport, Xfam};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha384};
use softkvm::qgs::platform::TEE_TCB_SVN;
use softkvm::tdx::report::REPORT_KEY;
use zerocopy::{FromZeros, IntoBytes};

/// A report with a different value in every field.
pub fn report() -> TdReport {
    let mut report = TdReport::new_zeroed();
    report.mac.report_type[0] = ReportMac::TYPE_TDX;
    report.mac.cpu_svn = *b"softkvm\0\0\0\0\0\0\0\0\0";
    report.mac.report_data = std::array::from_fn(|index| index as u8);
    report.tee_tcb_info.valid = [0xff, 1, 0, 0, 0, 0, 0, 0];
    report.tee_tcb_info.tee_tcb_svn = TEE_TCB_SVN;
    report.tee_tcb_info.mr_seam = [0x11; 48];
    report.tee_tcb_info.tee_tcb_svn2 = TEE_TCB_SVN;
    report.td_info.attributes = TdAttributes::SEPT_VE_DISABLE;
    report.td_info.xfam = Xfam(0xe7);
    report.td_info.mrtd = [0x22; 48];
    report.td_info.mrconfigid = [0x33; 48];
    report.td_info.mrowner = [0x44; 48];
    report.td_info.mrownerconfig = [0x55; 48];
    report.td_info.rtmr = [[0x60; 48], [0x61; 48], [0x62; 48], [0x63; 48]];
    seal(report)
}

/// Makes hashes and MAC fit.
pub fn seal(mut report: TdReport) -> TdReport {
    let bytes = report.as_bytes().to_owned();
    report.mac.tee_tcb_info_hash = Sha384::digest(&bytes[256..495]).into();
    report.mac.tee_info_hash = Sha384::digest(&bytes[512..]).into();
    let mut mac = Hmac::<Sha256>::new_from_slice(&REPORT_KEY).unwrap();
    mac.update(&report.as_bytes()[..224]);
    report.mac.mac = mac.finalize().into_bytes().into();
    report
}
