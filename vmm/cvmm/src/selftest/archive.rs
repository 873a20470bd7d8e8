//! What a selftest leaves behind: one tar file that can be attached to a bug report. No guest bytes, unless they are asked for.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::report::write_atomically;

/// Where files wait for it: a directory of this process alone, which goes with this value.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes it.
    ///
    /// # Errors
    /// It exists, or cannot be made.
    pub fn create() -> Result<Scratch, Error> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("cvmm-selftest.{}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Scratch { path }),
            Err(source) => Err(Error::WriteFile { what: "scratch directory", path, source }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into it; gives its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        match std::fs::write(&path, bytes) {
            Ok(()) => Ok(path),
            Err(source) => Err(Error::WriteFile { what: "scratch file", path, source }),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing can be done about what is left in a directory for such files.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Files by their names in the archive, in its order.
#[derive(Debug, Default)]
pub struct Archive {
    files: Vec<(String, Vec<u8>)>,
}

impl Archive {
    /// Adds a file.
    pub fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.files.push((name.into(), bytes.into()));
    }

    /// Adds what is in a file, if it is there.
    pub fn add_file(&mut self, name: impl Into<String>, path: &Path) {
        if let Ok(bytes) = std::fs::read(path) {
            self.add(name, bytes);
        }
    }

    /// Writes all of it, or nothing.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        write_atomically("archive", path, |out| {
            let mut tar = tar::Builder::new(out);
            for (name, bytes) in &self.files {
                let mut header = tar::Header::new_ustar();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                header.set_mtime(now());
                tar.append_data(&mut header, format!("cvmm-selftest/{name}"), bytes.as_slice())?;
            }
            tar.into_inner().and_then(io::Write::flush)
        })
    }
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
