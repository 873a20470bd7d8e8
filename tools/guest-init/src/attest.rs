//! Fetches an attestation report: through configfs-tsm where the kernel has it (Linux
//! Documentation/ABI/testing/configfs-tsm-report), else from `/dev/sev-guest` (Linux
//! include/uapi/linux/sev-guest.h).

use crate::sys::{self, Errno, File, Mode, Sys};

const ENTRY: &core::ffi::CStr = c"/sys/kernel/config/tsm/report/cvmm";
/// The largest blob a provider returns fits (certificates of all kinds included).
const BLOB_MAX: usize = 64 * 1024;

/// A report, and what the platform sends along with it (certificates).
pub struct Evidence {
    /// Where it came from.
    pub source: &'static str,
    /// The report.
    pub report: &'static [u8],
    /// Additional data; empty if there is none.
    pub aux: &'static [u8],
}

/// Fetches a report over `data`.
pub fn fetch(data: &[u8; 64]) -> Sys<Evidence> {
    match sys::mkdir(ENTRY) {
        Ok(()) => {
            let evidence = from_tsm(data);
            let _ = sys::rmdir(ENTRY);
            evidence
        }
        Err(error) => {
            // No such directory: the kernel has no tsm module, which is no news.
            if error != Errno::ENOENT {
                crate::say!("configfs-tsm: {error}");
            }
            from_sev_guest(data)
        }
    }
}

fn from_tsm(data: &[u8; 64]) -> Sys<Evidence> {
    File::open(c"/sys/kernel/config/tsm/report/cvmm/inblob", Mode::Write)?.write_all(data)?;
    let report = blob(c"/sys/kernel/config/tsm/report/cvmm/outblob")?;
    // Linux 6.12 takes a quote that the host could not have for one of no bytes (tdx-guest.c, tdx_report_new).
    if report.is_empty() {
        return Err(Errno::ENODATA);
    }
    let aux = blob(c"/sys/kernel/config/tsm/report/cvmm/auxblob").unwrap_or_default();
    Ok(Evidence { source: "configfs-tsm", report, aux })
}

fn blob(path: &core::ffi::CStr) -> Sys<&'static [u8]> {
    let buffer = sys::map_pages(BLOB_MAX)?;
    let len = File::open(path, Mode::Read)?.read_all(buffer)?;
    Ok(&buffer[..len])
}

/// `struct snp_guest_request_ioctl`: version, request and response addresses, error.
const SNP_GET_REPORT: u32 = 0xc020_5300;
const SNP_GET_EXT_REPORT: u32 = 0xc020_5302;
const REQUEST_LEN: usize = 112;
const RESPONSE_LEN: usize = 4000;
const CERTS_LEN: u32 = 0x4000;

fn from_sev_guest(data: &[u8; 64]) -> Sys<Evidence> {
    let device = File::open(c"/dev/sev-guest", Mode::Both)
        .inspect_err(|error| crate::say!("/dev/sev-guest: {error}"))?;
    let certs = sys::map_pages(CERTS_LEN as usize)?;
    let response = sys::map_pages(RESPONSE_LEN)?;
    // A snp_report_req (data, VMPL 0), extended by where certificates go.
    let mut request = [0; REQUEST_LEN];
    request[..64].copy_from_slice(data);
    request[96..104].copy_from_slice(&certs.as_ptr().expose_provenance().to_le_bytes());
    request[104..108].copy_from_slice(&CERTS_LEN.to_le_bytes());
    let extended = ask(&device, SNP_GET_EXT_REPORT, &request, response);
    let aux = match extended {
        Ok(()) => &certs[..certs_len(certs)],
        Err(_) => {
            ask(&device, SNP_GET_REPORT, &request, response)?;
            &[]
        }
    };
    let word = |at: usize| {
        u32::from_le_bytes([response[at], response[at + 1], response[at + 2], response[at + 3]])
    };
    // MSG_REPORT_RSP: status, size, report at 0x20 (SEV-SNP firmware ABI 56860, table 25).
    let (status, size) = (word(0), word(4) as usize);
    if status != 0 {
        return Err(Errno(5));
    }
    let report = response.get(0x20..0x20 + size).ok_or(Errno(75))?;
    Ok(Evidence { source: "/dev/sev-guest", report, aux })
}

fn ask(device: &File, number: u32, request: &[u8; REQUEST_LEN], response: &mut [u8]) -> Sys {
    let mut argument = [0; 32];
    argument[0] = 1;
    let (from, to) = (request.as_ptr(), response.as_mut_ptr());
    argument[8..16].copy_from_slice(&from.expose_provenance().to_le_bytes());
    argument[16..24].copy_from_slice(&to.expose_provenance().to_le_bytes());
    // SAFETY: the argument is a snp_guest_request_ioctl; request, response and certificate buffers
    // have the sizes of its structures and live until after the call.
    #[allow(unsafe_code)]
    let answer = unsafe { device.ioctl(number, &mut argument) };
    answer.inspect_err(|error| {
        let mut word = [0; 8];
        word.copy_from_slice(&argument[24..32]);
        let info = u64::from_le_bytes(word);
        crate::say!("/dev/sev-guest request {number:#x}: {error}, exitinfo2 {info:#x}");
    })
}

/// Length of a GHCB certificate table with its certificates: entries of GUID, offset and length,
/// ended by one of zeros (GHCB specification 56421, 4.1.8.1).
fn certs_len(table: &[u8]) -> usize {
    let mut end = 0;
    for entry in table.chunks_exact(24) {
        let word = |at: usize| {
            u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]) as usize
        };
        if entry.iter().all(|&byte| byte == 0) {
            break;
        }
        end = end.max(word(16).saturating_add(word(20)));
    }
    end.min(table.len())
}
