//! The host's files, as far as `cvmm check` reads them: /proc, /sys, /dev and /boot below a root that tests choose.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use flate2::read::GzDecoder;

/// What there is to know of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// This.
    Is(T),
    /// It does not exist.
    Absent,
    /// It may exist, but this process cannot look: why.
    Hidden(String),
}

impl<T> Seen<T> {
    /// What is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Seen::Is(value) => Some(value),
            Seen::Absent | Seen::Hidden(_) => None,
        }
    }

    /// Of something read, something else; what makes no sense is as good as hidden.
    pub fn parsed<U>(self, parse: impl FnOnce(T) -> Option<U>) -> Seen<U> {
        match self {
            Seen::Is(value) => {
                parse(value).map_or_else(|| Seen::Hidden("not understood".into()), Seen::Is)
            }
            Seen::Absent => Seen::Absent,
            Seen::Hidden(why) => Seen::Hidden(why),
        }
    }

    fn from_io(result: io::Result<T>) -> Seen<T> {
        match result {
            Ok(value) => Seen::Is(value),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Seen::Absent
            }
            Err(e) => Seen::Hidden(e.to_string()),
        }
    }
}

/// The files of a host.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

/// More than any file that is read here has: a wrong one must not take the host's memory.
const MAX: u64 = 4 << 20;

impl Tree {
    /// This host's own.
    pub fn host() -> Tree {
        Tree::at("/")
    }

    /// Those below a directory.
    pub fn at(root: impl Into<PathBuf>) -> Tree {
        Tree { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A text file, without the white space around it.
    pub fn text(&self, path: &str) -> Seen<String> {
        Seen::from_io(File::open(self.path(path)).and_then(text_of))
    }

    /// A compressed text file.
    pub fn gzip(&self, path: &str) -> Seen<String> {
        Seen::from_io(File::open(self.path(path)).and_then(|file| text_of(GzDecoder::new(file))))
    }

    /// A number alone in a file.
    pub fn number(&self, path: &str) -> Seen<u64> {
        self.text(path).parsed(|text| text.parse().ok())
    }

    /// The permissions of a file.
    pub fn mode(&self, path: &str) -> Option<u32> {
        std::fs::metadata(self.path(path)).ok().map(|meta| meta.permissions().mode())
    }

    /// The names in a directory.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// A model-specific register of the first processor.
    pub fn msr(&self, number: u32) -> Seen<u64> {
        let mut value = [0; 8];
        let read = File::open(self.path("/dev/cpu/0/msr"))
            .and_then(|file| file.read_exact_at(&mut value, number.into()));
        Seen::from_io(read.map(|()| u64::from_le_bytes(value)))
    }

    /// The kernel's log, oldest line first, without what stands before the text of a record.
    pub fn kernel_log(&self) -> Seen<Vec<String>> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        Seen::from_io(options.open(self.path("/dev/kmsg")).and_then(log_of))
    }
}

fn text_of(from: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// One read gives one record; EPIPE says that some were overwritten meanwhile (Linux Documentation/ABI/testing/dev-kmsg).
fn log_of(mut file: File) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut record = [0; 8192];
    loop {
        match file.read(&mut record) {
            Ok(0) => return Ok(lines),
            Ok(len) => {
                let text = String::from_utf8_lossy(&record[..len]);
                lines
                    .extend(text.lines().map(|line| {
                        line.split_once(';').map_or(line, |(_, text)| text).to_owned()
                    }));
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(lines),
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
