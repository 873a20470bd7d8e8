//! `--dump-pages`: every launch page as one line of JSON, so that somebody else's calculator can check the digest.

use std::io::{self, Write};

use serde::Serialize;
use sha2::{Digest, Sha384};

use super::hex;
use super::snp;
use crate::plan::Plan;

/// One line: `docs/report.md` documents it.
#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    gpa: u64,
    #[serde(rename = "type")]
    page_type: u8,
    type_name: &'static str,
    tag: &'a str,
    /// Of the 4096 bytes as handed over, whether the type measures them or not.
    sha384: String,
    contents: String,
}

/// Writes the pages of a plan in launch order, VMSAs included.
///
/// # Errors
/// The writer's.
pub fn write(plan: &Plan, out: &mut dyn Write) -> io::Result<()> {
    for (index, page) in snp::pages(plan).enumerate() {
        let line = Line {
            index,
            gpa: page.gpa,
            page_type: page.page_type.0,
            type_name: page.page_type.name().unwrap_or("?"),
            tag: page.tag,
            sha384: hex(&Sha384::digest(&page.bytes)),
            contents: hex(&page.bytes),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
