//! Where files of children wait to be read.

use std::path::{Path, PathBuf};

use vmm_sys_util::tempdir::TempDir;

use crate::error::Error;

/// A directory of this process alone, which goes with this value.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Makes it, for this verb. Its name is new: one of a process that was killed may lie there under any number.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(verb: &str) -> Result<Scratch, Error> {
        let path = std::env::temp_dir().join(format!("cvmm-{verb}."));
        match TempDir::new_with_prefix(&path) {
            Ok(dir) => Ok(Scratch { dir }),
            Err(source) => {
                Err(Error::WriteFile { what: "scratch directory", path, source: source.into() })
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.as_path()
    }

    /// Writes a file into it; gives its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
        let path = self.path().join(name);
        match std::fs::write(&path, bytes) {
            Ok(()) => Ok(path),
            Err(source) => Err(Error::WriteFile { what: "scratch file", path, source }),
        }
    }
}
