//! Records: results that a test guest sends to the monitor as data, not as text for people.
//!
//! A record has a kind and at most [`RECORD_MAX`] bytes, and goes the way of the marks. Over the mark port it is one
//! [`MarkId::RECORD_BEGIN`], a [`MarkId::RECORD_DATA`] for every three bytes, and a [`MarkId::RECORD_END`] with their
//! check, so every write says by itself what it is: marks of another processor may come in between, and a reader that
//! knows no records sees marks it does not know. Over the console it is one sequence ([`Record::on_console`]).
//!
//! A guest sends one record at a time. The check tells records from what a kernel's message or another sender has torn
//! apart; it is no defence against a guest that lies, whose records say what it likes.

use crate::marks::{Mark, MarkId};

/// Most bytes of a record.
pub const RECORD_MAX: usize = 192;

/// What a record is about, and so how its bytes are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordKind(pub u8);

impl RecordKind {
    /// What a probe has measured: [`crate::probes::Measured`].
    pub const PROBE_MEASURED: Self = Self(1);
    /// Why a probe has measured nothing: [`crate::probes::Unavailable`].
    pub const PROBE_UNAVAILABLE: Self = Self(2);
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is about.
    pub kind: RecordKind,
    /// Its contents; what is beyond [`RECORD_MAX`] is not sent.
    pub bytes: &'a [u8],
}

/// Bytes in one [`MarkId::RECORD_DATA`], the first in bits 7:0.
pub const BYTES_PER_MARK: usize = 3;

/// Bytes of a record on the console: prefix, kind, contents and check in hexadecimal, end.
pub const CONSOLE_MAX: usize = Record::CONSOLE_PREFIX.len() + 2 * (1 + RECORD_MAX + 3) + 1;

impl<'a> Record<'a> {
    /// What starts a record on the console: an operating system command (ECMA-48, 8.3.89), as [`Mark::CONSOLE_PREFIX`].
    pub const CONSOLE_PREFIX: [u8; 7] = *b"\x1b]cvmr;";
    /// What ends it.
    pub const CONSOLE_END: u8 = Mark::CONSOLE_END;

    /// The contents as they are sent.
    fn contents(self) -> &'a [u8] {
        &self.bytes[..self.bytes.len().min(RECORD_MAX)]
    }

    /// 24 bits over kind and contents: FNV-1a of 32 bits, its upper byte folded in.
    pub fn check(self) -> u32 {
        let bytes = core::iter::once(&self.kind.0).chain(self.contents());
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        (hash ^ hash >> 24) & Mark::NUMBER_MAX
    }

    /// The record as it is written to the mark port.
    pub fn as_marks(self) -> impl Iterator<Item = Mark> + 'a {
        let contents = self.contents();
        let begin = u32::from(self.kind.0) << 16 | contents.len() as u32;
        let data = contents.chunks(BYTES_PER_MARK).map(|bytes| {
            let word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
            Mark::new(MarkId::RECORD_DATA, word)
        });
        core::iter::once(Mark::new(MarkId::RECORD_BEGIN, begin))
            .chain(data)
            .chain(core::iter::once(Mark::new(MarkId::RECORD_END, self.check())))
    }

    /// The record as it is written to the console, and how long it is.
    pub fn on_console(self) -> ([u8; CONSOLE_MAX], usize) {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let mut text = [Self::CONSOLE_END; CONSOLE_MAX];
        let mut len = Self::CONSOLE_PREFIX.len();
        text[..len].copy_from_slice(&Self::CONSOLE_PREFIX);
        let check = self.check().to_be_bytes();
        let bytes = core::iter::once(&self.kind.0).chain(self.contents()).chain(&check[1..]);
        for byte in bytes {
            text[len] = DIGITS[usize::from(byte >> 4)];
            text[len + 1] = DIGITS[usize::from(byte & 15)];
            len += 2;
        }
        (text, len + 1)
    }
}
