//! A Chromium without a window: it tests the page of `cvmm report`, and makes the picture of it in `docs/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::run::capture;

/// What it may be called, the smallest first.
const NAMES: [&str; 3] = ["chromium-headless-shell", "chromium", "google-chrome"];

/// Debian's packages of it: 100 MB to fetch with what they depend on. Text needs a font.
const PACKAGES: [&str; 2] = ["chromium-headless-shell", "fonts-dejavu-core"];

/// The program; installed where it is missing.
pub fn program() -> Result<PathBuf> {
    if let Some(program) = find() {
        return Ok(program);
    }
    apt::install(&PACKAGES).context("the page of `cvmm report` is tested in a Chromium")?;
    find().with_context(|| format!("{PACKAGES:?} are installed, but none of {NAMES:?} is there"))
}

fn find() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&paths).collect();
    let mut candidates = NAMES.iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
    candidates.find(|program| program.is_file())
}

/// Photographs a page as a window of this size shows it.
pub fn photograph(page: &Path, (width, height): (u32, u32), picture: &Path) -> Result<()> {
    capture(
        // Containers run as root and have no GPU; without a sandbox it sees nothing but this page.
        Command::new(program()?)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--screenshot={}", picture.display()))
            .arg(format!("file://{}", page.display())),
    )?;
    if !picture.exists() {
        bail!("Chromium made no {}", picture.display());
    }
    Ok(())
}
