//! The launch digest as firmware computes it, page by page.

use std::fmt;

use abi::snp::{PageInfo, PageType};
use sha2::{Digest, Sha384};
use zerocopy::IntoBytes;

use super::Page;

/// A launch digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaunchDigest(pub [u8; 48]);

impl Default for LaunchDigest {
    fn default() -> Self {
        Self([0; 48])
    }
}

impl fmt::Display for LaunchDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LaunchDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl LaunchDigest {
    /// Extends the digest by one page (firmware ABI 56860, SNP_LAUNCH_UPDATE, "PAGE_INFO").
    pub fn extend(&mut self, kind: PageType, gpa: u64, page: &Page) {
        let contents = if kind.measures_contents() { Sha384::digest(page).into() } else { [0; 48] };
        let info = PageInfo {
            digest_cur: self.0,
            contents,
            length: size_of::<PageInfo>() as u16,
            page_type: kind,
            imi_page: 0,
            vmpl3_perms: 0,
            vmpl2_perms: 0,
            vmpl1_perms: 0,
            reserved: 0,
            gpa,
        };
        self.0 = Sha384::digest(info.as_bytes()).into();
    }
}
