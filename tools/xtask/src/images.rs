//! The programs that the chores run: cvmm and softkvm in release mode, guest-init freestanding.

use std::path::PathBuf;

use anyhow::Result;

use crate::run::{cargo, root, run, target};

/// Builds cvmm, softkvm and its preload library; returns the directory that holds them.
pub fn tools() -> Result<PathBuf> {
    run(cargo().args(["build", "--release", "--quiet"]).args([
        "-p",
        "cvmm",
        "-p",
        "softkvm",
        "-p",
        "softkvm-preload",
    ]))?;
    Ok(target().join("release"))
}

/// Builds the `/init` of test guests.
pub fn guest_init() -> Result<PathBuf> {
    let dir = target().join("guest-init");
    run(cargo()
        .args(["build", "--release", "--quiet", "--locked"])
        .current_dir(root().join("tools/guest-init"))
        .env("CARGO_TARGET_DIR", &dir))?;
    Ok(dir.join("release/cvmm-init"))
}
