//! A program in a TD: how it knows, and its report from `/dev/tdx_guest` (Linux include/uapi/linux/tdx-guest.h).

use core::arch::x86_64::__cpuid_count;

use abi::tdx::{CPUID_LEAF, CPUID_SIGNATURE, TdReport};

use crate::sys::{File, Mode, Sys};

/// Whether this is a TD. The leaf says so to programs as well: the TDX module answers it itself.
pub fn here() -> bool {
    let leaf = __cpuid_count(CPUID_LEAF, 0);
    [leaf.ebx, leaf.ecx, leaf.edx] == CPUID_SIGNATURE
}

/// `TDX_CMD_GET_REPORT0`: in 64 bytes of report data, out a TDREPORT behind them.
const GET_REPORT: u32 = 0xc440_5401;
const DATA_LEN: usize = 64;

/// A TDREPORT over `data`.
pub fn report(data: &[u8; DATA_LEN]) -> Sys<&'static [u8]> {
    let device = File::open(c"/dev/tdx_guest", Mode::Both)?;
    let request = crate::sys::map_pages(DATA_LEN + size_of::<TdReport>())?;
    request[..DATA_LEN].copy_from_slice(data);
    // SAFETY: the argument is a struct tdx_report_req, which holds no pointers, of its size.
    #[allow(unsafe_code)]
    unsafe { device.ioctl(GET_REPORT, request) }?;
    Ok(&request[DATA_LEN..DATA_LEN + size_of::<TdReport>()])
}
