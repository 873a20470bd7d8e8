//! The pool's socket in the file system: made for its user alone, never in the place of something else, gone at the end.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::sys::descriptors::listen_for_oneself;

/// The socket, and whose file it is.
#[derive(Debug)]
pub struct Place {
    /// What clients connect to.
    pub listener: UnixListener,
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl Place {
    /// Makes it. What a pool that was killed has left is replaced; anything else that is there stays.
    ///
    /// # Errors
    /// Something is there, or the system calls'.
    pub fn take(path: &Path) -> Result<Place, Error> {
        let refuse = |problem: &str| Error::Input {
            what: "socket",
            path: path.to_owned(),
            problem: problem.into(),
            cure: "name another path with --socket, in a directory of your own".into(),
        };
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(refuse("something else than a socket is there, and stays there"));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(refuse("another process listens there"));
            }
            Ok(_) => fs::remove_file(path).map_err(|source| write_error(path, source))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(write_error(path, source)),
        }
        let listener = listen_for_oneself(path).map_err(|source| write_error(path, source))?;
        listener.set_nonblocking(true).map_err(|source| write_error(path, source))?;
        Ok(Place { listener, path: path.to_owned(), file: identity(path) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Another pool's that has taken the place stays. Nothing can be done about a failure.
        if self.file.is_some() && identity(&self.path) == self.file {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|there| (there.dev(), there.ino()))
}

fn write_error(path: &Path, source: io::Error) -> Error {
    Error::WriteFile { what: "socket", path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn nothing_but_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pool");
        let place = Place::take(&path).expect("nothing is there");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let told = Place::take(&path).expect_err("it is alive").complaint();
        assert!(told.cause.contains("listens"), "{told}");
        drop(place);
        assert!(!path.exists(), "it goes with its pool");

        // As a killed pool leaves it.
        drop(UnixListener::bind(&path).expect("a socket"));
        drop(Place::take(&path).expect("nobody listens"));

        fs::write(&path, "precious").expect("a file");
        Place::take(&path).expect_err("a file");
        let link = dir.path().join("link");
        symlink(&path, &link).expect("a link");
        Place::take(&link).expect_err("a link");
        symlink(dir.path().join("nothing"), dir.path().join("dangling")).expect("a link");
        Place::take(&dir.path().join("dangling")).expect_err("a link to nothing");
        assert_eq!(fs::read_to_string(&path).expect("it stays"), "precious");
    }

    #[test]
    fn another_pools_socket_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pool");
        let first = Place::take(&path).expect("nothing is there");
        fs::remove_file(&path).expect("removed by hand");
        // A name of its own meanwhile, so that the number of the file is another one.
        fs::write(dir.path().join("other"), "").expect("a file");
        let second = Place::take(&path).expect("nothing is there");
        let whose = second.file;
        drop(first);
        assert!(whose.is_none() || whose == identity(&path) || !path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
