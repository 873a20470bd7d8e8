//! What a selftest leaves behind: one tar file that can be attached to a bug report. No guest bytes, unless they are asked for.

use std::io;
use std::path::Path;

use crate::error::Error;
use crate::report::write_atomically;

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
