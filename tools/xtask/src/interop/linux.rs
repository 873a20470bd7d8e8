//! The kernel's own test programs: the part of Debian's kernel source that they are built from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt;
use crate::kernel::build::{self, PACKAGE};
use crate::run::{capture, run, target};

/// What of the source is unpacked: the tests, and what `make headers` reads.
const PARTS: [&str; 7] = ["Makefile", "Kbuild", "tools", "include", "arch/x86", "scripts", "usr"];

/// What building takes: program and Debian package.
const TOOLS: [(&str, &str); 4] =
    [("gcc", "gcc"), ("make", "make"), ("xz", "xz-utils"), ("tar", "tar")];

/// The unpacked source, with the kernel's headers made.
pub struct Linux {
    dir: PathBuf,
    /// The kernel's version.
    pub version: String,
}

impl Linux {
    /// Fetches and unpacks the source on first use.
    pub fn fetch() -> Result<Self> {
        apt::need(&TOOLS, &["libc6-dev"])?;
        let dir = target().join("interop/linux");
        let ready = dir.join("ready");
        if !ready.exists() {
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir)?;
            unpack(&dir)?;
            make(&dir, &["headers"])?;
            fs::write(&ready, PACKAGE)?;
        }
        let version = version(&dir)?;
        Ok(Self { dir, version })
    }

    /// Where the tests of one kind lie, and their programs when they are built.
    pub fn tests(&self, kind: &str) -> PathBuf {
        self.dir.join("tools/testing/selftests").join(kind)
    }
}

fn unpack(dir: &Path) -> Result<()> {
    let tarball = build::tarball()?;
    eprintln!("unpacking {}", tarball.display());
    run(Command::new("tar")
        .args(["-xJ", "--strip-components=1", "-C"])
        .arg(dir)
        .arg("-f")
        .arg(&tarball)
        .args(PARTS.map(|part| format!("{PACKAGE}/{part}"))))?;
    Ok(())
}

/// `make` in a directory of the source, on all processors.
pub fn make(dir: &Path, arguments: &[&str]) -> Result<()> {
    let jobs = std::thread::available_parallelism()?;
    capture(
        Command::new("make")
            .arg("-C")
            .arg(dir)
            .args(["ARCH=x86_64", &format!("-j{jobs}")])
            .args(arguments),
    )?;
    Ok(())
}

/// VERSION, PATCHLEVEL and SUBLEVEL of the top Makefile.
fn version(dir: &Path) -> Result<String> {
    let text = fs::read_to_string(dir.join("Makefile"))?;
    let value = |name: &str| {
        let assigned =
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('='));
        assigned.map(|value| value.trim().to_owned())
    };
    let parts = ["VERSION", "PATCHLEVEL", "SUBLEVEL"].map(value);
    let parts: Option<Vec<String>> = parts.into_iter().collect();
    Ok(parts.context("the kernel's Makefile names no version")?.join("."))
}
