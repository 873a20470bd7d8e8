//! `--dump-pages`: every launch page as one line of JSON, so that somebody else's calculator can check the digest.

use std::io::{self, Write};

use serde::Serialize;
use sha2::{Digest, Sha384};

use super::{hex, snp, tdx};
use crate::plan::{Plan, Technology};

/// One line of an SEV-SNP guest, or of an unprotected one: `docs/report.md` documents it.
#[derive(Serialize)]
struct SnpLine<'a> {
    index: usize,
    gpa: u64,
    /// Nothing for a page that the boot page has the hash of.
    #[serde(rename = "type")]
    page_type: Option<u8>,
    type_name: &'static str,
    tag: &'a str,
    /// Of the 4096 bytes as handed over, whether the type measures them or not.
    sha384: String,
    contents: String,
}

/// One line of a TD.
#[derive(Serialize)]
struct TdLine<'a> {
    index: usize,
    gpa: u64,
    /// Are its contents extended into MRTD, beside its address?
    measured: bool,
    tag: &'a str,
    sha384: String,
    contents: String,
}

/// Writes the pages of a plan in launch order, what the kernel adds for vCPUs included, and then what the boot page has the
/// hash of.
///
/// # Errors
/// The writer's.
pub fn write(plan: &Plan, out: &mut dyn Write) -> io::Result<()> {
    match plan.technology {
        Technology::Plain | Technology::Snp => write_snp(plan, out),
        Technology::Tdx => write_tdx(plan, out),
    }
}

fn write_snp(plan: &Plan, out: &mut dyn Write) -> io::Result<()> {
    let launched = snp::pages(plan).map(|page| {
        let name = page.page_type.name().unwrap_or("?");
        (Some(page.page_type.0), name, page.gpa, page.tag, page.bytes)
    });
    let hashed = snp::pages_of(&plan.hashed)
        .map(|(gpa, bytes, region)| (None, "HASHED", gpa, region.tag, bytes.into()));
    for (index, (page_type, type_name, gpa, tag, bytes)) in launched.chain(hashed).enumerate() {
        let line = SnpLine {
            index,
            gpa,
            page_type,
            type_name,
            tag,
            sha384: hex(&Sha384::digest(&bytes)),
            contents: hex(&bytes),
        };
        write_line(&line, out)?;
    }
    Ok(())
}

fn write_tdx(plan: &Plan, out: &mut dyn Write) -> io::Result<()> {
    for (index, page) in tdx::pages(plan).enumerate() {
        let line = TdLine {
            index,
            gpa: page.gpa,
            measured: page.measured,
            tag: page.tag,
            sha384: hex(&Sha384::digest(page.bytes)),
            contents: hex(page.bytes),
        };
        write_line(&line, out)?;
    }
    Ok(())
}

fn write_line(line: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}
