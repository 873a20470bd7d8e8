//! Somebody else's MRTD: Microsoft's igvm crate.

use std::path::Path;

use igvm::IgvmDirectiveHeader;
use igvm::measurement::generate_tdx_measurement;
use igvm_defs::{IgvmPageDataFlags, IgvmPageDataType};
use serde_json::Value;

use crate::{from_hex, hex};

/// A page of a `--dump-pages` file.
pub struct Page {
    /// Where it is.
    pub gpa: u64,
    /// Whether its contents are.
    pub measured: bool,
    /// 4096 bytes.
    pub contents: Vec<u8>,
}

/// The pages of a `--dump-pages` file, in their order.
pub fn pages(dump: &Path) -> Vec<Page> {
    let text = std::fs::read_to_string(dump).expect("a dump");
    text.lines()
        .map(|line| {
            let page: Value = serde_json::from_str(line).expect("JSON");
            Page {
                gpa: page["gpa"].as_u64().expect("an address"),
                measured: page["measured"].as_bool().expect("a flag"),
                contents: from_hex(page["contents"].as_str().expect("contents")),
            }
        })
        .collect()
}

/// MRTD as the igvm crate computes it.
pub fn mrtd(pages: &[Page]) -> String {
    const MASK: u32 = 1;
    let headers: Vec<IgvmDirectiveHeader> = pages
        .iter()
        .map(|page| IgvmDirectiveHeader::PageData {
            gpa: page.gpa,
            compatibility_mask: MASK,
            flags: IgvmPageDataFlags::new().with_unmeasured(!page.measured),
            data_type: IgvmPageDataType::NORMAL,
            data: page.contents.clone(),
        })
        .collect();
    hex(&generate_tdx_measurement(&headers, MASK).expect("a measurement"))
}
