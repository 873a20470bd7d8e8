//! Running other programs, with errors that name the command.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// Where everything generated goes.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Puts a text into a document of ours (by its path from the root), between two lines that stay.
pub fn put_between(document: &str, begin: &str, end: &str, text: &str) -> Result<()> {
    let path = root().join(document);
    let old = std::fs::read_to_string(&path).with_context(|| document.to_owned())?;
    let lacks = |line: &str| format!("{document} has no line {}", line.trim_end());
    let (before, rest) = old.split_once(begin).with_context(|| lacks(begin))?;
    let (_, after) = rest.split_once(end).with_context(|| lacks(end))?;
    std::fs::write(&path, format!("{before}{begin}\n{text}\n{end}{after}"))?;
    eprintln!("{document} is as these runs were");
    Ok(())
}

/// `cargo`, as the one that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs to the end; output goes to the terminal.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// Runs to the end and returns what it printed.
pub fn capture(command: &mut Command) -> Result<Vec<u8>> {
    let Output { status, stdout, stderr } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}\n{}", String::from_utf8_lossy(&stderr));
    }
    Ok(stdout)
}

/// Whether a program of this name can be started.
pub fn have(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}
