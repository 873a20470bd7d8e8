//! The file of KVM_GET_STATS_FD as user space reads it.
#![allow(unsafe_code, dead_code, missing_docs, clippy::unwrap_used)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

/// The call, on a VM or a vCPU.
pub const GET_STATS_FD: u64 = 0xaece;

/// A statistic: its name, flags, decimal exponent and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    pub name: String,
    pub flags: u32,
    pub exponent: i16,
    pub values: Vec<u64>,
}

/// An open file of statistics.
pub struct Stats(std::fs::File);

impl Stats {
    /// Takes over what KVM_GET_STATS_FD has returned.
    pub fn new(fd: RawFd) -> Self {
        // SAFETY: the caller's descriptor, which becomes ours.
        Self(unsafe { OwnedFd::from_raw_fd(fd) }.into())
    }

    fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.0.read_exact_at(&mut out, at as u64).unwrap();
        out
    }

    fn word(&self, at: usize) -> usize {
        u32::from_le_bytes(self.bytes(at, 4).try_into().unwrap()) as usize
    }

    fn text(&self, at: usize, len: usize) -> String {
        let bytes = self.bytes(at, len);
        let end = bytes.iter().position(|byte| *byte == 0).expect("a string that ends");
        String::from_utf8(bytes[..end].to_vec()).unwrap()
    }

    pub fn id(&self) -> String {
        self.text(24, self.word(4))
    }

    /// All of them as they are now.
    pub fn all(&self) -> Vec<Stat> {
        let (name_size, count) = (self.word(4), self.word(8));
        let (descriptors, data) = (self.word(16), self.word(20));
        let read = |index| {
            let at = descriptors + index * (16 + name_size);
            let head = self.bytes(at, 16);
            let size = usize::from(u16::from_le_bytes([head[6], head[7]]));
            let offset = self.word(at + 8);
            let values = self.bytes(data + offset, size * 8);
            Stat {
                name: self.text(at + 16, name_size),
                flags: self.word(at) as u32,
                exponent: i16::from_le_bytes([head[4], head[5]]),
                values: values.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect(),
            }
        };
        (0..count).map(read).collect()
    }

    pub fn get(&self, name: &str) -> u64 {
        let all = self.all();
        let stat = all.iter().find(|stat| stat.name == name);
        stat.unwrap_or_else(|| panic!("no statistic {name}")).values[0]
    }

    pub fn values(&self, names: &[&str]) -> Vec<u64> {
        names.iter().map(|name| self.get(name)).collect()
    }

    /// Whether it can be written to.
    pub fn is_writable(&self) -> bool {
        self.0.write_at(&[0], 0).is_ok()
    }
}
