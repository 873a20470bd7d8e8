//! A split virtqueue in memory that the guest can change at any time (VIRTIO 1.3, section 2.7).

use thiserror::Error;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// The largest ring. It also bounds the length of a chain.
pub const SIZE_MAX: u16 = 64;
/// The most bytes of one chain: Linux's driver sends a page at a time, and 32 KiB for a program that writes to a port
/// (drivers/char/virtio_console.c port_fops_write).
pub const CHAIN_BYTES_MAX: u64 = 64 << 10;

/// Why the host cannot use guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unreachable {
    /// The guest has not shared it.
    #[error("is private")]
    Private,
    /// There is none.
    #[error("is no memory")]
    NoMemory,
}

/// Guest memory as a device sees it. Nothing that is private can be reached.
pub trait GuestView {
    /// Copies bytes out.
    ///
    /// # Errors
    /// One of them cannot be reached.
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), Unreachable>;
    /// Copies bytes in.
    ///
    /// # Errors
    /// As [`GuestView::read`].
    fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), Unreachable>;
    /// Reads an index before everything that is read after it. The address is even.
    ///
    /// # Errors
    /// As [`GuestView::read`].
    fn load(&self, gpa: u64) -> Result<u16, Unreachable>;
    /// Writes an index after everything that was written before it, and before everything that is read after it. The
    /// address is even.
    ///
    /// # Errors
    /// As [`GuestView::read`].
    fn publish(&self, gpa: u64, value: u16) -> Result<(), Unreachable>;
}

/// What the guest did wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum QueueError {
    #[error("a queue of {size} entries; it may have a power of two up to {SIZE_MAX}")]
    Size { size: u32 },
    #[error("the {part} at {gpa:#x} is not aligned")]
    Alignment { part: &'static str, gpa: u64 },
    #[error("the {part} at {gpa:#x} {why}")]
    Ring { part: &'static str, gpa: u64, why: Unreachable },
    #[error("the available ring went from entry {from} to {to}, past the queue's size")]
    Index { from: u16, to: u16 },
    #[error("descriptor {index} is not in the table")]
    NoDescriptor { index: u16 },
    #[error("the chain that begins with descriptor {head} has no end")]
    Loop { head: u16 },
    #[error("descriptor {index} is indirect, which was not offered")]
    Indirect { index: u16 },
    #[error("descriptor {index} is for the wrong direction")]
    Direction { index: u16 },
    #[error("the buffers of a chain have more than {CHAIN_BYTES_MAX} bytes")]
    TooLong,
    #[error("the buffer at {gpa:#x} of {len} bytes {why}")]
    Buffer { gpa: u64, len: u32, why: Unreachable },
}

/// A descriptor (section 2.7.5), as it was when it was read.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Descriptor {
    gpa: u64,
    len: u32,
    flags: u16,
    next: u16,
}

const _: () = assert!(size_of::<Descriptor>() == 16);

/// The chain goes on.
const NEXT: u16 = 1 << 0;
/// The device writes.
const WRITE: u16 = 1 << 1;
/// The buffer is itself a table.
const INDIRECT: u16 = 1 << 2;

/// Flags of the available ring: no interrupt is wanted.
const NO_INTERRUPT: u16 = 1 << 0;
/// Flags of the used ring: no notification is wanted.
const NO_NOTIFY: u16 = 1 << 0;

/// Both rings begin with flags and an index.
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;

/// Who fills a queue's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest.
    ToHost,
    /// The device.
    ToGuest,
}

/// A buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buffer {
    gpa: u64,
    len: u32,
}

/// A chain of buffers, copied out of the table: nothing that the guest writes there changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    head: u16,
    buffers: Vec<Buffer>,
}

impl Chain {
    /// Bytes in it.
    fn len(&self) -> u64 {
        self.buffers.iter().map(|buffer| u64::from(buffer.len)).sum()
    }

    /// What the guest has put there.
    ///
    /// # Errors
    /// A buffer cannot be reached.
    pub fn read(&self, memory: &impl GuestView) -> Result<Vec<u8>, QueueError> {
        // As many as `CHAIN_BYTES_MAX`.
        let mut bytes = vec![0; self.len() as usize];
        let mut rest = &mut bytes[..];
        for Buffer { gpa, len } in &self.buffers {
            let (part, behind) = rest.split_at_mut(*len as usize);
            memory.read(*gpa, part).map_err(|why| QueueError::Buffer {
                gpa: *gpa,
                len: *len,
                why,
            })?;
            rest = behind;
        }
        Ok(bytes)
    }

    /// Puts as much there as fits; says how much that is.
    ///
    /// # Errors
    /// A buffer cannot be reached.
    pub fn write(&self, memory: &impl GuestView, bytes: &[u8]) -> Result<u32, QueueError> {
        let mut rest = bytes;
        for Buffer { gpa, len } in &self.buffers {
            let (part, behind) = rest.split_at(rest.len().min(*len as usize));
            memory.write(*gpa, part).map_err(|why| QueueError::Buffer {
                gpa: *gpa,
                len: *len,
                why,
            })?;
            rest = behind;
        }
        // At most `CHAIN_BYTES_MAX`.
        Ok((bytes.len() - rest.len()) as u32)
    }
}

/// Where a queue lies, as the guest says before it makes it ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Entries.
    pub size: u32,
    /// The descriptor table.
    pub table: u64,
    /// The available ring, which the guest writes.
    pub available: u64,
    /// The used ring, which the device writes.
    pub used: u64,
}

/// A queue that is ready.
#[derive(Clone, Debug)]
pub struct Queue {
    size: u16,
    table: u64,
    available: u64,
    used: u64,
    direction: Direction,
    next: u16,
    done: u16,
}

impl Queue {
    /// A queue at that place. One that the device fills asks for no notifications: its buffers are looked for when there
    /// is something to put into them.
    ///
    /// # Errors
    /// It cannot be there.
    pub fn open(
        place: Place,
        direction: Direction,
        memory: &impl GuestView,
    ) -> Result<Queue, QueueError> {
        let size = u16::try_from(place.size)
            .ok()
            .filter(|size| size.is_power_of_two() && *size <= SIZE_MAX)
            .ok_or(QueueError::Size { size: place.size })?;
        let Place { table, available, used, .. } = place;
        for (part, gpa, alignment) in
            [(TABLE, table, 16), (AVAILABLE, available, 2), (USED, used, 4)]
        {
            if !gpa.is_multiple_of(alignment) {
                return Err(QueueError::Alignment { part, gpa });
            }
        }
        let queue = Queue { size, table, available, used, direction, next: 0, done: 0 };
        if direction == Direction::ToGuest {
            memory.write(used, &NO_NOTIFY.to_le_bytes()).map_err(queue.ring(USED))?;
        }
        Ok(queue)
    }

    /// Its size: no more chains than this can be waiting.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The next chain that the guest has made available, if there is one.
    ///
    /// # Errors
    /// The ring or the chain is no such thing.
    pub fn take(&mut self, memory: &impl GuestView) -> Result<Option<Chain>, QueueError> {
        let index = at(self.available, INDEX);
        let to = memory.load(index).map_err(self.ring(AVAILABLE))?;
        let waiting = to.wrapping_sub(self.next);
        if waiting > self.size {
            return Err(QueueError::Index { from: self.next, to });
        }
        if waiting == 0 {
            return Ok(None);
        }
        let slot = at(self.available, ENTRIES + 2 * u64::from(self.next % self.size));
        let mut head = [0; 2];
        memory.read(slot, &mut head).map_err(self.ring(AVAILABLE))?;
        let chain = self.chain(u16::from_le_bytes(head), memory)?;
        self.next = self.next.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Copies a chain out of the table.
    fn chain(&self, head: u16, memory: &impl GuestView) -> Result<Chain, QueueError> {
        let mut chain = Chain { head, buffers: Vec::new() };
        let mut index = head;
        // A chain without a loop has no more links than there are descriptors.
        for _ in 0..self.size {
            if index >= self.size {
                return Err(QueueError::NoDescriptor { index });
            }
            let mut descriptor = Descriptor::new_zeroed();
            memory
                .read(at(self.table, 16 * u64::from(index)), descriptor.as_mut_bytes())
                .map_err(self.ring(TABLE))?;
            let Descriptor { gpa, len, flags, next } = descriptor;
            if flags & INDIRECT != 0 {
                return Err(QueueError::Indirect { index });
            }
            if (flags & WRITE != 0) != (self.direction == Direction::ToGuest) {
                return Err(QueueError::Direction { index });
            }
            chain.buffers.push(Buffer { gpa, len });
            if chain.len() > CHAIN_BYTES_MAX {
                return Err(QueueError::TooLong);
            }
            if flags & NEXT == 0 {
                return Ok(chain);
            }
            index = next;
        }
        Err(QueueError::Loop { head })
    }

    /// Gives a chain back, `written` bytes of it filled. Says whether the guest wants an interrupt.
    ///
    /// # Errors
    /// The ring cannot be reached.
    pub fn give_back(
        &mut self,
        chain: &Chain,
        written: u32,
        memory: &impl GuestView,
    ) -> Result<bool, QueueError> {
        let [head, written] = [u32::from(chain.head), written].map(u32::to_le_bytes);
        let mut entry = [0; 8];
        entry[..4].copy_from_slice(&head);
        entry[4..].copy_from_slice(&written);
        let slot = at(self.used, ENTRIES + 8 * u64::from(self.done % self.size));
        memory.write(slot, &entry).map_err(self.ring(USED))?;
        self.done = self.done.wrapping_add(1);
        memory.publish(at(self.used, INDEX), self.done).map_err(self.ring(USED))?;
        let mut flags = [0; 2];
        memory.read(self.available, &mut flags).map_err(self.ring(AVAILABLE))?;
        Ok(u16::from_le_bytes(flags) & NO_INTERRUPT == 0)
    }

    /// Names a part of the queue in an error.
    fn ring(&self, part: &'static str) -> impl Fn(Unreachable) -> QueueError + use<> {
        let gpa = match part {
            TABLE => self.table,
            AVAILABLE => self.available,
            _ => self.used,
        };
        move |why| QueueError::Ring { part, gpa, why }
    }
}

const TABLE: &str = "descriptor table";
const AVAILABLE: &str = "available ring";
const USED: &str = "used ring";

/// Behind an address of the guest's. Where there is no such address, there is no memory either.
fn at(gpa: u64, offset: u64) -> u64 {
    gpa.saturating_add(offset)
}

#[cfg(test)]
#[path = "queue_test.rs"]
mod tests;
