//! The Python environment of the test oracles.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::run::{capture, have, run, target};

/// On PyPI: IBM's calculator of SEV-SNP launch digests, and statistics that everybody trusts.
const PACKAGES: [&str; 3] = ["sev-snp-measure==0.0.13", "numpy==2.4.6", "scipy==1.17.1"];

/// An interpreter that can import the oracles; its environment is made on first use.
pub fn python() -> Result<PathBuf> {
    let dir = target().join("venv");
    let python = dir.join("bin/python3");
    if fs::read_to_string(dir.join("ready")).is_ok_and(|done| done == PACKAGES.join(" ")) {
        return Ok(python);
    }
    if make(&dir).is_err() {
        // Debian ships the interpreter without the means to make environments.
        eprintln!("installing python3-venv");
        let tools = ["python3", "python3-venv"];
        let install = Command::new("apt-get")
            .args(["install", "-y", "--no-install-recommends"])
            .args(tools)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output();
        if !have("apt-get") || !install.is_ok_and(|output| output.status.success()) {
            eprintln!(
                "that did not work; if the next step fails, install {} by hand",
                tools.join(" and ")
            );
        }
        make(&dir).context("python3 cannot make a virtual environment")?;
    }
    eprintln!("fetching {}", PACKAGES.join(", "));
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet"])
        .arg("--disable-pip-version-check")
        .args(PACKAGES))?;
    capture(Command::new(&python).args(["-c", "import sevsnpmeasure.gctx, scipy.stats"]))?;
    fs::write(dir.join("ready"), PACKAGES.join(" "))?;
    Ok(python)
}

fn make(dir: &std::path::Path) -> Result<()> {
    let _ = fs::remove_dir_all(dir);
    capture(Command::new("python3").args(["-m", "venv"]).arg(dir)).map(drop)
}
