//! Debian's QEMU of the newest suite, with the C library it is built for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Stage;
use super::row::Row;
use crate::apt::Apt;
use crate::run::target;

/// What is fetched: the monitor, and the firmware images that Debian builds for its guests.
const PACKAGES: [&str; 5] =
    ["qemu-system-x86", "ovmf", "ovmf-generic", "ovmf-inteltdx", "ovmf-amdsev"];

/// Where QEMU and everything it needs lies: the root of a small Debian system.
fn fetch() -> Result<PathBuf> {
    let root = target().join("interop/qemu");
    let ready = root.join("ready");
    if !ready.exists() {
        let _ = fs::remove_dir_all(&root);
        Apt::suite("forky")?.unpack_with_dependencies(&PACKAGES, &root)?;
        fs::write(ready, "")?;
    }
    Ok(root)
}

/// Boots it in every way that softkvm has.
pub fn run(_stage: &Stage) -> Result<Vec<Row>> {
    let root: &Path = &fetch()?;
    eprintln!("QEMU is in {}", root.display());
    Ok(Vec::new())
}
