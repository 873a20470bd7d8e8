//! Guest memory and a driver's side of a queue, for tests.

use std::cell::RefCell;
use std::ops::Range;

use super::queue::{GuestView, Place, Unreachable};

/// Guest memory from address 0; a range of it may be private.
pub struct Memory {
    bytes: RefCell<Vec<u8>>,
    pub private: Range<u64>,
    /// What the device has read: address and length.
    pub reads: RefCell<Vec<(u64, usize)>>,
}

impl Memory {
    pub fn new() -> Memory {
        Memory { bytes: RefCell::new(vec![0; 1 << 20]), private: 0..0, reads: RefCell::default() }
    }

    fn reach(&self, gpa: u64, len: usize) -> Result<Range<usize>, Unreachable> {
        let end = gpa.checked_add(len as u64).ok_or(Unreachable::NoMemory)?;
        if end > self.bytes.borrow().len() as u64 {
            return Err(Unreachable::NoMemory);
        }
        if gpa < self.private.end && self.private.start < end {
            return Err(Unreachable::Private);
        }
        Ok(gpa as usize..end as usize)
    }

    /// As the guest, which may touch everything.
    pub fn put(&self, gpa: u64, bytes: &[u8]) {
        self.bytes.borrow_mut()[gpa as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    pub fn get<const N: usize>(&self, gpa: u64) -> [u8; N] {
        self.bytes.borrow()[gpa as usize..][..N].try_into().unwrap()
    }
}

impl GuestView for Memory {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), Unreachable> {
        let range = self.reach(gpa, bytes.len())?;
        self.reads.borrow_mut().push((gpa, bytes.len()));
        bytes.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }

    fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), Unreachable> {
        let range = self.reach(gpa, bytes.len())?;
        self.bytes.borrow_mut()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn load(&self, gpa: u64) -> Result<u16, Unreachable> {
        self.reach(gpa, 2).map(|_| u16::from_le_bytes(self.get(gpa)))
    }

    fn publish(&self, gpa: u64, value: u16) -> Result<(), Unreachable> {
        self.write(gpa, &value.to_le_bytes())
    }
}

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A driver's queue.
pub struct Driver {
    pub place: Place,
    pub index: u16,
}

impl Driver {
    pub fn new(base: u64, size: u32) -> Driver {
        let place = Place { size, table: base, available: base + 0x800, used: base + 0xa00 };
        Driver { place, index: 0 }
    }

    pub fn describe(&self, memory: &Memory, index: u16, gpa: u64, len: u32, flags: u16, next: u16) {
        let at = self.place.table + 16 * u64::from(index);
        memory.put(at, &gpa.to_le_bytes());
        memory.put(at + 8, &len.to_le_bytes());
        memory.put(at + 12, &flags.to_le_bytes());
        memory.put(at + 14, &next.to_le_bytes());
    }

    /// Makes the chain at `head` available.
    pub fn offer(&mut self, memory: &Memory, head: u16) {
        let slot = u64::from(self.index) % u64::from(self.place.size);
        memory.put(self.place.available + 4 + 2 * slot, &head.to_le_bytes());
        self.index = self.index.wrapping_add(1);
        memory.put(self.place.available + 2, &self.index.to_le_bytes());
    }

    /// Flags and index of the used ring.
    pub fn used(&self, memory: &Memory) -> (u16, u16) {
        let [a, b, c, d] = memory.get(self.place.used);
        (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
    }

    /// Head and length of an entry of the used ring.
    pub fn entry(&self, memory: &Memory, at: u64) -> (u32, u32) {
        let at = self.place.used + 4 + 8 * at;
        let [head, len] = [at, at + 4].map(|at| u32::from_le_bytes(memory.get(at)));
        (head, len)
    }
}
