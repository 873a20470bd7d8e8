//! The bytes of a file: read once, and shared from there on. Whoever hashes, places or hands them out sees the same ones.

use std::ops::Deref;
use std::sync::Arc;

/// Bytes that nobody changes.
#[derive(Clone, Debug, Default)]
pub struct FileBytes(Arc<Vec<u8>>);

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> FileBytes {
        FileBytes(Arc::new(bytes))
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
