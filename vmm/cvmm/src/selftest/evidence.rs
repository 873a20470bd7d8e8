//! The launch digest in the attestation that a guest printed: guest-init writes it to the console as lines of hexadecimal
//! digits between two others.

use abi::snp::AttestationReport;
use abi::tdx::TdReport;
use zerocopy::FromBytes;

use crate::digest::{hex, parse_hex};

/// What guest-init calls what holds the digest.
fn name(technology: &str) -> &'static str {
    match technology {
        // A quote needs a quoting service; the module's own report does not.
        "tdx" => "tdreport",
        _ => "report",
    }
}

/// The digest, as `cvmm measure` prints it, from a report that was made for `data`.
///
/// # Errors
/// The guest printed none, no whole one, or one for other data.
pub fn digest(technology: &str, console: &str, data: &[u8; 64]) -> Result<String, &'static str> {
    let bytes = printed(name(technology), console).ok_or("the guest printed no report")?;
    let cut = "the guest's report is not whole";
    let (digest, holds) = match technology {
        "tdx" => {
            let (report, _) = TdReport::read_from_prefix(&bytes).map_err(|_| cut)?;
            (report.td_info.mrtd, report.mac.report_data)
        }
        _ => {
            let (report, _) = AttestationReport::read_from_prefix(&bytes).map_err(|_| cut)?;
            (report.measurement, report.report_data)
        }
    };
    if holds == *data {
        Ok(hex(&digest))
    } else {
        Err("the guest's report holds other data than was asked for")
    }
}

fn printed(what: &str, console: &str) -> Option<Vec<u8>> {
    let (begin, end) = (format!("cvmm-init: {what} BEGIN"), format!("cvmm-init: {what} END"));
    let mut lines = console.lines().map(str::trim).skip_while(|line| *line != begin);
    lines.next()?;
    let mut bytes = Vec::new();
    for line in lines {
        if line == end {
            return Some(bytes);
        }
        // The kernel may say something in between.
        bytes.extend(parse_hex(line).unwrap_or_default());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_found_among_lines_of_the_kernel() {
        let measurement = [0xa5; 48];
        let mut report = vec![0; size_of::<AttestationReport>()];
        report[0x90..0xc0].copy_from_slice(&measurement);
        report[0x50..0x90].fill(7);
        let lines: Vec<String> = report.chunks(32).map(hex).collect();
        let console = |end| {
            let [first, rest @ ..] = lines.as_slice() else { unreachable!() };
            format!(
                "cvmm-init: ready\r\ncvmm-init: report BEGIN\r\n{first}\r\n[ 1.0] random: crng\n{}\r\n{end}\n",
                rest.join("\r\n")
            )
        };
        let whole = console("cvmm-init: report END\r");
        assert_eq!(digest("snp", &whole, &[7; 64]), Ok(hex(&measurement)));
        assert!(digest("snp", &whole, &[8; 64]).unwrap_err().contains("other data"));
        assert!(digest("snp", &console(""), &[7; 64]).is_err());
        assert!(digest("tdx", &whole, &[7; 64]).is_err());
    }
}
