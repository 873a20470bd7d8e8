//! Records of a test guest ([`abi::records`]): put together from marks, or taken out of the console's output.

use abi::marks::{Mark, MarkId};
use abi::records::{BYTES_PER_MARK, RECORD_MAX, Record, RecordKind};

/// A record that has arrived whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it is about.
    pub kind: RecordKind,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// How it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Records that arrived whole.
    pub received: u64,
    /// Those, for which there was no room.
    pub dropped: u64,
    /// Pieces that made no record: torn apart, too long, with a wrong check, or without a beginning.
    pub damaged: u64,
}

/// A guest that sends records without end does not take our memory.
const RECORDS_MAX: usize = 1024;

/// Receives records.
#[derive(Debug, Default)]
pub struct Records {
    open: Option<Open>,
    records: Vec<Received>,
    counts: RecordCounts,
}

/// A record that is arriving.
#[derive(Debug)]
struct Open {
    kind: RecordKind,
    len: usize,
    bytes: Vec<u8>,
}

impl Records {
    /// Takes a value of the mark port if it belongs to a record.
    pub fn take(&mut self, value: u32) -> bool {
        let mark = Mark(value);
        match mark.id() {
            MarkId::RECORD_BEGIN => self.begin(mark.number()),
            MarkId::RECORD_DATA => self.data(mark.number()),
            MarkId::RECORD_END => self.end(mark.number()),
            _ => return false,
        }
        true
    }

    fn begin(&mut self, number: u32) {
        // The one before has no end.
        self.counts.damaged += u64::from(self.open.is_some());
        let len = (number & 0xffff) as usize;
        let kind = RecordKind((number >> 16) as u8);
        self.open = (len <= RECORD_MAX).then(|| Open { kind, len, bytes: Vec::with_capacity(len) });
        self.counts.damaged += u64::from(self.open.is_none());
    }

    fn data(&mut self, number: u32) {
        match &mut self.open {
            Some(open) if open.bytes.len() < open.len => {
                let room = (open.len - open.bytes.len()).min(BYTES_PER_MARK);
                open.bytes.extend(&number.to_le_bytes()[..room]);
            }
            _ => {
                self.open = None;
                self.counts.damaged += 1;
            }
        }
    }

    fn end(&mut self, check: u32) {
        match self.open.take() {
            Some(Open { kind, len, bytes }) if bytes.len() == len => {
                self.finish(kind, bytes, check)
            }
            _ => self.counts.damaged += 1,
        }
    }

    /// Takes a record from the console: kind, contents, and three bytes of check.
    pub fn take_from_console(&mut self, bytes: &[u8]) {
        match bytes {
            [kind, contents @ .., a, b, c] if contents.len() <= RECORD_MAX => {
                let check = u32::from_be_bytes([0, *a, *b, *c]);
                self.finish(RecordKind(*kind), contents.to_vec(), check);
            }
            _ => self.counts.damaged += 1,
        }
    }

    fn finish(&mut self, kind: RecordKind, bytes: Vec<u8>, check: u32) {
        if (Record { kind, bytes: &bytes }).check() != check {
            self.counts.damaged += 1;
        } else if self.records.len() < RECORDS_MAX {
            self.counts.received += 1;
            self.records.push(Received { kind, bytes });
        } else {
            self.counts.received += 1;
            self.counts.dropped += 1;
        }
    }

    /// Everything that arrived, in order, and how it went. One that is still arriving has no end any more.
    pub fn finished(&mut self) -> (Vec<Received>, RecordCounts) {
        self.counts.damaged += u64::from(self.open.take().is_some());
        (std::mem::take(&mut self.records), self.counts)
    }
}

#[cfg(test)]
#[path = "records_test.rs"]
mod tests;
