//! Launch digests: folds over a plan, without KVM.

pub mod dump;
pub mod snp;

use std::fmt;
use std::str::FromStr;

use crate::config::snp::parse_hex;

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

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
