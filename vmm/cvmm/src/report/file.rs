//! Writing files that are there completely or not at all.

use std::io::Write;
use std::path::Path;

use crate::error::Error;
use crate::sys::signals::Held;

/// Writes a file beside its place, then moves it there: nobody ever sees half of it.
///
/// # Errors
/// The file's.
pub fn write_atomically(
    what: &'static str,
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), Error> {
    let fail = |source| Error::WriteFile { what, path: path.to_owned(), source };
    if is_special(path) {
        // A pipe or a device cannot be replaced.
        let mut file = std::fs::OpenOptions::new().write(true).open(path).map_err(fail)?;
        return fill(&mut file).map_err(fail);
    }
    let temporary = temporary_name(path);
    let _held = Held::back();
    let result = (|| {
        let mut file = std::io::BufWriter::new(std::fs::File::create(&temporary)?);
        fill(&mut file)?;
        file.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    result.map_err(|source| {
        // Best effort: the error that matters is the one being reported.
        let _ = std::fs::remove_file(&temporary);
        fail(source)
    })
}

/// Finds out before the run whether a file can be written after it.
///
/// # Errors
/// It cannot.
pub fn check_writable(what: &'static str, path: &Path) -> Result<(), Error> {
    let fail = |source| Error::WriteFile { what, path: path.to_owned(), source };
    if path.is_dir() {
        return Err(fail(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    if is_special(path) {
        return Ok(());
    }
    let temporary = temporary_name(path);
    let _held = Held::back();
    std::fs::File::create(&temporary).map_err(fail)?;
    std::fs::remove_file(&temporary).map_err(fail)
}

fn is_special(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

fn temporary_name(path: &Path) -> std::path::PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}
