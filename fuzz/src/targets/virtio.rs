//! A guest that programs the virtio console at random, with rings and buffers that it changes as it likes and some of which
//! are private.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use cvmm::device::virtio::queue::{CHAIN_BYTES_MAX, SIZE_MAX};
use cvmm::device::virtio::{GuestView, Unreachable, VirtioConsole};
use vmm_sys_util::eventfd::EventFd;

use super::Target;

/// Makes accesses, to the device and to memory, until the device has had enough of them.
pub const TARGET: Target = Target { name: "virtio", seeds, max_len: 256 * RECORD, run };

/// Bytes of one step: what it does, where, and four bytes of data.
const RECORD: usize = 7;
/// Guest memory, from address 0; its last quarter is private.
const MEMORY: usize = 0x1_0000;
const PRIVATE: Range<usize> = 0xc000..MEMORY;
/// The most accesses to memory that one step may need: chains of as many descriptors as there are, in a full queue.
const ACCESSES: usize = (SIZE_MAX as usize + 1) * (2 * SIZE_MAX as usize + 8);

const READ: u8 = 0;
const WRITE: u8 = 1;
const POKE: u8 = 2;
const TYPE: u8 = 3;
const KINDS: u8 = 4;

/// What a driver does up to the point where it prints.
fn seeds() -> Vec<Vec<u8>> {
    let step = |kind: u8, at: u16, value: u32| {
        let [low, high] = at.to_le_bytes();
        [&[kind, low, high][..], &value.to_le_bytes()].concat()
    };
    let mut start = vec![step(WRITE, 0x70, 1), step(WRITE, 0x24, 1), step(WRITE, 0x20, 3)];
    start.extend([step(WRITE, 0x70, 0xb), step(READ, 0x70, 0)]);
    for (queue, base) in [(0, 0x1000), (1, 0x2000)] {
        start.extend([step(WRITE, 0x30, queue), step(WRITE, 0x38, 8)]);
        let parts = [(0x80, base), (0x90, base + 0x800), (0xa0, base + 0xa00)];
        start.extend(parts.map(|(offset, gpa)| step(WRITE, offset, gpa)));
        start.push(step(WRITE, 0x44, 1));
    }
    start.push(step(WRITE, 0x70, 0xf));
    let descriptor = |table: u16, gpa: u32, len: u32, flags: u32| {
        [step(POKE, table, gpa), step(POKE, table + 8, len), step(POKE, table + 12, flags)]
    };
    let print = |gpa, len, flags| {
        let mut steps = descriptor(0x2000, gpa, len, flags).to_vec();
        steps.extend([step(POKE, 0x2800, 1 << 16), step(WRITE, 0x50, 1), step(WRITE, 0x64, 1)]);
        steps
    };
    let mut input = descriptor(0x1000, 0x3000, 16, 2).to_vec();
    input.extend([step(POKE, 0x1800, 1 << 16), step(TYPE, 5, 0)]);
    let ends = [print(0x4000, 80, 0), print(0xc000, 1, 0), print(0x4000, 1, 1), input];
    ends.into_iter().map(|end| [start.concat(), end.concat()].concat()).collect()
}

struct Memory {
    bytes: RefCell<Vec<u8>>,
    accesses: Cell<usize>,
}

impl Memory {
    fn reach(&self, gpa: u64, len: usize) -> Result<Range<usize>, Unreachable> {
        self.accesses.set(self.accesses.get() + 1);
        assert!(self.accesses.get() <= ACCESSES, "one step makes work without end");
        let begin = usize::try_from(gpa).map_err(|_| Unreachable::NoMemory)?;
        let end = begin.checked_add(len).filter(|end| *end <= MEMORY);
        let end = end.ok_or(Unreachable::NoMemory)?;
        if end > PRIVATE.start { Err(Unreachable::Private) } else { Ok(begin..end) }
    }
}

impl GuestView for Memory {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), Unreachable> {
        let range = self.reach(gpa, bytes.len())?;
        bytes.copy_from_slice(&self.bytes.borrow()[range]);
        Ok(())
    }

    fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), Unreachable> {
        let range = self.reach(gpa, bytes.len())?;
        self.bytes.borrow_mut()[range].copy_from_slice(bytes);
        Ok(())
    }

    fn load(&self, gpa: u64) -> Result<u16, Unreachable> {
        assert!(gpa.is_multiple_of(2), "{gpa:#x}");
        let mut bytes = [0; 2];
        self.read(gpa, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn publish(&self, gpa: u64, value: u16) -> Result<(), Unreachable> {
        assert!(gpa.is_multiple_of(2), "{gpa:#x}");
        self.write(gpa, &value.to_le_bytes())
    }
}

fn run(input: &[u8]) {
    let Ok(line) = EventFd::new(0) else { return };
    let mut device = VirtioConsole::new(line, true);
    let mut bytes = vec![0x55; MEMORY];
    bytes[..PRIVATE.start].fill(0);
    let memory = Memory { bytes: RefCell::new(bytes), accesses: Cell::new(0) };
    for record in input.chunks_exact(RECORD) {
        let [kind, low, high, ref value @ ..] = *record else { return };
        let at = u16::from_le_bytes([low, high]);
        memory.accesses.set(0);
        let width = usize::from(kind / KINDS % 9).min(value.len());
        match kind % KINDS {
            READ => {
                let mut data = [0xff; 8];
                device.read(at.into(), &mut data[..width.max(1)]);
            }
            WRITE => {
                let data = if width == 0 { value } else { &value[..width] };
                match device.write(at.into(), data, &memory) {
                    Ok(text) => {
                        assert!(text.len() as u64 <= u64::from(SIZE_MAX) * CHAIN_BYTES_MAX);
                    }
                    // The run would end here.
                    Err(error) => return assert!(!error.to_string().is_empty()),
                }
            }
            POKE => {
                let at = usize::from(at).min(PRIVATE.start - value.len());
                memory.bytes.borrow_mut()[at..at + value.len()].copy_from_slice(value);
            }
            _ => {
                let typed = vec![b'x'; usize::from(at) % 8192];
                match device.receive(&typed, &memory) {
                    Ok(taken) => assert!(taken <= typed.len()),
                    Err(_) => return,
                }
            }
        }
        let private = memory.bytes.borrow()[PRIVATE].iter().all(|byte| *byte == 0x55);
        assert!(private, "the device has written to private memory");
    }
}
