//! `cvmm explain CODE`: what a number that a user meets can mean.

use std::fmt::Write;

use abi::tdx::{TdxStatus, vmcall};

use crate::error::{Error, ExitCode};
use crate::sys::{sev_status, tdx_status};
use crate::termination::Termination;

/// Everything `code` can mean.
///
/// # Errors
/// `code` is not a number, or means nothing.
pub fn explain(code: &str) -> Result<String, Error> {
    let bad = |problem: &str| {
        Error::Usage {
        flag: format!("explain {code}"),
        problem: problem.into(),
        cure: "write a firmware or exit code such as 7 or 0x16, a termination such as 5:2 (set:reason), a GHCB MSR value \
               such as 0x25100, or a TDX status such as 0xC000010000000045"
            .into(),
    }
    };
    let mut out = String::new();
    if let Some((set, reason)) = code.split_once(':') {
        let set = parse(set)
            .and_then(|v| u8::try_from(v).ok())
            .ok_or_else(|| bad("the reason set is not a number"))?;
        let reason = parse(reason)
            .and_then(|v| u8::try_from(v).ok())
            .ok_or_else(|| bad("the reason is not a number"))?;
        let _ = writeln!(
            out,
            "guest termination {set}:{reason}: {}",
            Termination { set, reason }.sentence()
        );
        return Ok(out);
    }
    let number = parse(code).ok_or_else(|| bad("that is not a number"))?;
    if let Some(exit) = ExitCode::ALL.iter().find(|e| u64::from(**e as u8) == number) {
        let _ = writeln!(out, "exit code {number}: {}", exit.meaning());
    }
    if let Some(status) = u32::try_from(number).ok().and_then(sev_status::describe) {
        let _ = writeln!(out, "firmware status {number:#x}: {} - {}", status.name, status.meaning);
    }
    if number & 0xfff == 0x100 {
        let termination = Termination::from_ghcb_msr(number);
        let _ = writeln!(
            out,
            "termination request {number:#x} (GHCB, or R12 of a TD's ReportFatalError): {}",
            termination.sentence()
        );
    }
    let status = TdxStatus(number);
    // The codes are in the upper half; 0 there is success.
    if number >> 32 != 0 && status.name().is_some() {
        let _ = writeln!(out, "{}", tdx_status::sentence(status).unwrap_or_default());
    }
    if number >> 63 != 0
        && let Some(name) = vmcall::Status(number).name()
    {
        let _ = writeln!(out, "TDVMCALL status {number:#x} {name}: {}", vmcall_meaning(name));
    }
    if out.is_empty() {
        Err(bad("no exit code, firmware status, TDX status or termination request has it"))
    } else {
        Ok(out)
    }
}

/// What the host tells a TD with a status (GHCI 1.5, table "TDCALL[TDG.VP.VMCALL] status codes").
fn vmcall_meaning(name: &str) -> &'static str {
    match name {
        "INVALID_OPERAND" => {
            "the host finds an operand of the guest's call wrong; of GetQuote, it failed"
        }
        "GPA_INUSE" => "the address is in use",
        "ALIGN_ERROR" => "an address or a size is not aligned to pages",
        "SUBFUNC_UNSUPPORTED" => "the host does not offer the call",
        _ => "see the guest-host communication interface",
    }
}

fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
