//! `cvmm explain CODE`: what a number that a user meets can mean.

use std::fmt::Write;

use crate::error::{Error, ExitCode};
use crate::sys::sev_status;
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
        cure: "write a firmware or exit code such as 7 or 0x16, a termination such as 5:2 (set:reason) or a GHCB MSR \
               value such as 0x25100"
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
        let _ = writeln!(out, "GHCB termination request {number:#x}: {}", termination.sentence());
    }
    if out.is_empty() {
        Err(bad("no exit code, firmware status or termination request has it"))
    } else {
        Ok(out)
    }
}

fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
