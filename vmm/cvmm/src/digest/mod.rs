//! Launch digests: folds over a plan, without KVM. The one place of this folder that chooses by technology.

pub mod dump;
pub mod snp;
pub mod tdx;

use std::fmt;
use std::str::FromStr;

use crate::plan::{PageKind, Plan, Technology};

/// A SHA-384 launch digest.
#[derive(Clone, PartialEq, Eq)]
pub struct LaunchDigest(pub [u8; 48]);

impl fmt::Display for LaunchDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for LaunchDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for LaunchDigest {
    type Err = String;

    fn from_str(text: &str) -> Result<LaunchDigest, String> {
        parse_hex(text)
            .and_then(|bytes| bytes.try_into().ok())
            .map(LaunchDigest)
            .ok_or_else(|| format!("'{text}' is not a launch digest: 96 hexadecimal digits"))
    }
}

/// The launch digest of a plan (MRTD of a TD); nothing for a guest that is not measured.
pub fn launch_digest(plan: &Plan) -> Option<LaunchDigest> {
    match plan.technology {
        Technology::Plain => None,
        Technology::Snp => Some(snp::launch_digest(plan)),
        Technology::Tdx => Some(tdx::mrtd(plan)),
    }
}

/// The run-time measurement registers of a plan as the kernel finds them, for a technology that has them. What a firmware
/// image extends them by is not foretold.
pub fn runtime_registers(plan: &Plan) -> Option<[LaunchDigest; 4]> {
    let known = plan.technology == Technology::Tdx && plan.firmware.is_none();
    known.then_some(tdx::RTMRS_AT_ENTRY)
}

/// How a kind of page is added, in the words of the technology's specification.
pub fn page_type(plan: &Plan, kind: PageKind) -> &'static str {
    match plan.technology {
        Technology::Plain | Technology::Snp => snp::page_type(kind).name().unwrap_or("?"),
        Technology::Tdx => tdx::page_type(kind),
    }
}

/// Pages that the host's kernel adds to those of the plan.
pub fn pages_of_vcpus(plan: &Plan) -> u64 {
    match plan.technology {
        Technology::Plain | Technology::Tdx => 0,
        Technology::Snp => u64::from(plan.cpus.get()),
    }
}

/// Bytes written as hexadecimal digits.
pub fn parse_hex(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|b| b.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
