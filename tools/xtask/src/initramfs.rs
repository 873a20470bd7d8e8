//! The initramfs of test guests: guest-init, the attestation modules, and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::images;
use crate::kernel::Kernel;
use crate::run::{capture, target};

/// The modules a guest needs to fetch an attestation report, before their dependencies: a driver for each technology, and
/// the parts of gcm(aes), which kernels before 6.14 ask the crypto API for by name, so that no module depends on them.
const WANTED: [&str; 6] = ["aes_generic", "ctr", "ghash_generic", "gcm", "sev_guest", "tdx_guest"];

/// Modules that guest-init inserts by itself where it needs them, for a probe or for a console on virtio: they are no part
/// of an ordinary boot.
const WHERE_NEEDED: [&str; 2] = ["msr", "virtio_mmio"];

/// Builds (or rebuilds) the initramfs for a kernel.
pub fn build(kernel: &Kernel) -> Result<PathBuf> {
    write(kernel, "initramfs.cpio", archive(kernel)?)
}

/// The same with programs, which guest-init runs.
pub fn with_programs(kernel: &Kernel, programs: &[PathBuf]) -> Result<PathBuf> {
    let mut archive = archive(kernel)?;
    archive.directory("run");
    let mut commands = String::new();
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("run/{name}"), 0o755, &fs::read(program)?);
        commands.push_str(&format!("/run/{name}\n"));
    }
    archive.file("commands", 0o644, commands.as_bytes());
    write(kernel, "programs.cpio", archive)
}

fn write(kernel: &Kernel, name: &str, archive: Archive) -> Result<PathBuf> {
    let out = target().join("kernels").join(&kernel.name).join(name);
    fs::write(&out, archive.finish())?;
    Ok(out)
}

fn archive(kernel: &Kernel) -> Result<Archive> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "modules"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    archive.file("init", 0o755, &fs::read(images::guest_init()?)?);
    let mut order = String::new();
    if let Some(modules) = &kernel.modules {
        for (name, bytes) in load_order(modules, &WANTED)? {
            archive.file(&format!("modules/{name}.ko"), 0o644, &bytes);
            order.push_str(&format!("{name}.ko\n"));
        }
        for (name, bytes) in load_order(modules, &WHERE_NEEDED)? {
            archive.file(&format!("modules/{name}.ko"), 0o644, &bytes);
        }
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive)
}

/// The modules of these names in load order, dependencies first. One that is not there is built in.
pub fn load_order(dir: &Path, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    index(dir, &mut found)?;
    let mut ordered = Vec::new();
    for name in names {
        visit(name, &found, &mut ordered)?;
    }
    Ok(ordered)
}

/// Maps module names (with underscores) to files.
fn index(dir: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            index(&path, found)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            found.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn visit(
    name: &str,
    found: &BTreeMap<String, PathBuf>,
    ordered: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    // What is missing is built into the kernel.
    let Some(path) = found.get(name) else { return Ok(()) };
    if ordered.iter().any(|(done, _)| done == name) {
        return Ok(());
    }
    let bytes = read_module(path)?;
    for dependency in depends(&bytes) {
        visit(&dependency, found, ordered)?;
    }
    ordered.push((name.to_owned(), bytes));
    Ok(())
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => capture(Command::new("xz").arg("-dc").arg(path)),
        Some("zst") => capture(Command::new("zstd").arg("-dcq").arg(path)),
        _ => Ok(fs::read(path)?),
    }
}

/// The `depends=` entry of a module's `.modinfo` section.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let list = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(list)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}
