//! Debian's builds of OVMF, and the EFI shim through which one with secure boot starts kernels.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::apt::Apt;
use crate::run::target;

/// Suites to look in: the images are younger than Debian 13.
const SUITES: [&str; 2] = ["forky", "sid"];

/// What is fetched: the variable that names it to the tests, package, file in it.
const FILES: [(&str, &str, &str); 4] = [
    ("CVMM_OVMF_AMDSEV", "ovmf-amdsev", "usr/share/ovmf/OVMF.amdsev.fd"),
    ("CVMM_OVMF_INTELTDX", "ovmf-inteltdx", "usr/share/ovmf/OVMF.inteltdx.ms.fd"),
    ("CVMM_OVMF_GENERIC", "ovmf-generic", "usr/share/ovmf/OVMF.fd"),
    ("CVMM_EFI_SHIM", "shim-signed", "usr/lib/shim/shimx64.efi.signed"),
];

/// The files, fetched on first use, each with the variable that names it to the tests.
pub fn fetch() -> Result<Vec<(&'static str, PathBuf)>> {
    let dir = target().join("ovmf");
    let files: Vec<_> =
        FILES.iter().map(|(variable, _, file)| (*variable, dir.join(file))).collect();
    if files.iter().all(|(_, file)| file.exists()) {
        return Ok(files);
    }
    for suite in SUITES {
        let apt = Apt::suite(suite)?;
        if FILES.iter().all(|(_, package, _)| apt.has(package)) {
            FILES.iter().try_for_each(|(_, package, _)| apt.unpack(package, &dir))?;
            break;
        }
    }
    match files.iter().find(|(_, file)| !file.exists()) {
        None => Ok(files),
        Some((_, file)) => bail!("Debian {SUITES:?} does not have {}", file.display()),
    }
}
