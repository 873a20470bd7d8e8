//! What each line of a configuration does, as a table in guest-kernel-config/README.md.

use std::fmt::Write;

use anyhow::Result;

use super::bisect::{Args, Finding, Output};
use crate::run::put_between;

/// What the table stands between; the command that makes it is its first line.
const BEGIN: &str = "<!-- effects -->\n";
const END: &str = "<!-- end of effects -->\n";

/// Puts the table in its place.
pub fn write(args: &Args, outputs: &[Output<'_>]) -> Result<()> {
    let text = format!("    {}\n\n{}", command(args), table(outputs));
    put_between("guest-kernel-config/README.md", BEGIN, END, &text)
}

fn command(args: &Args) -> String {
    let technologies = args.technology.join(",");
    let mut text =
        format!("cargo xtask kernel-bisect {} --without {}", args.base, args.without.join(","));
    write!(text, " --each --readme --technology {technologies}").ok();
    if !args.only.is_empty() {
        write!(text, " --only {}", args.only.join(",")).ok();
    }
    text
}

/// A row for each option, with what it changes in each technology; the largest change of the first one comes first.
fn table(outputs: &[Output<'_>]) -> String {
    let mut text = String::from("| |");
    for output in outputs {
        let name = match output.technology {
            "snp" => "SEV-SNP",
            "tdx" => "TDX",
            other => other,
        };
        text += &format!(" {name} ms | exits |");
    }
    text += " bytes |\n|---|";
    text += &"---:|".repeat(2 * outputs.len() + 1);
    let Some(first) = outputs.first() else { return text };
    text += "\n| as it is |";
    for output in outputs {
        text += &format!(" {:.2} | {} |", output.from.modelled_ns as f64 / 1e6, output.from.exits);
    }
    text += &format!(" {} |\n", first.from.image_bytes);
    let mut rows: Vec<&Finding> = first.findings.iter().collect();
    rows.sort_by_key(|found| std::cmp::Reverse(found.modelled_ns.unsigned_abs()));
    for row in rows {
        text += &format!("| {} |", row.options.join(", "));
        for output in outputs {
            match output.findings.iter().find(|found| found.options == row.options) {
                Some(found) => {
                    text +=
                        &format!(" {:+.2} | {:+} |", found.modelled_ns as f64 / 1e6, found.exits);
                }
                None => text += " no boot | |",
            }
        }
        text += &format!(" {:+} |\n", row.image_bytes);
    }
    for (what, options) in [("No boot", &first.failed), ("Not to be changed alone", &first.stuck)] {
        if !options.is_empty() {
            text += &format!("\n{what}: {}.\n", options.join(", "));
        }
    }
    text
}
