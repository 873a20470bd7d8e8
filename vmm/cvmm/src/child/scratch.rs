//! Where files of children wait to be read.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// A directory of this process alone, which goes with this value.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes it, for this verb.
    ///
    /// # Errors
    /// It exists, or cannot be made.
    pub fn create(verb: &str) -> Result<Scratch, Error> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("cvmm-{verb}.{}", std::process::id()));
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
