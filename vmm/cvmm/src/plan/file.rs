//! The bytes of a file: read once, and shared from there on. Whoever hashes, places or hands them out sees the same ones.

use std::ops::{Deref, Range};
use std::sync::Arc;

/// Bytes that nobody changes.
#[derive(Clone, Debug, Default)]
pub struct FileBytes {
    file: Arc<Vec<u8>>,
    part: Range<usize>,
}

impl FileBytes {
    /// Some of them; none where there are not as many.
    pub fn part(&self, part: Range<usize>) -> FileBytes {
        let (start, end) = (self.part.start + part.start, self.part.start + part.end);
        let part = if end <= self.part.end { start..end } else { 0..0 };
        FileBytes { file: self.file.clone(), part }
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.file.get(self.part.clone()).unwrap_or_default()
    }
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> FileBytes {
        let part = 0..bytes.len();
        FileBytes { file: Arc::new(bytes), part }
    }
}

impl From<&[u8]> for FileBytes {
    fn from(bytes: &[u8]) -> FileBytes {
        bytes.to_vec().into()
    }
}

impl<const N: usize> From<[u8; N]> for FileBytes {
    fn from(bytes: [u8; N]) -> FileBytes {
        bytes.to_vec().into()
    }
}
