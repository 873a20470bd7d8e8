//! QEMU's firmware configuration device: a selector, a data port, and transfers by direct memory access (QEMU 11.1
//! docs/specs/fw_cfg.rst). It only hands out what the plan holds; writes to items are refused.

use zerocopy::{FromBytes, IntoBytes};

use crate::plan::fw_cfg::FwCfg as Items;

/// Which item, from its first byte.
pub const SELECTOR_PORT: u16 = 0x510;
/// The item's next byte.
pub const DATA_PORT: u16 = 0x511;
/// The address of a transfer, big-endian: its high half here, its low half in the next four ports.
pub const DMA_PORT: u16 = 0x514;
const DMA_LOW_PORT: u16 = DMA_PORT + 4;

/// What reading the address says: the interface is there.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// Memory that the guest shares with its host.
pub trait SharedMemory {
    /// Reads it; false where there is none.
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool;
    /// Writes it; false where there is none.
    fn write(&self, gpa: u64, bytes: &[u8]) -> bool;
}

/// A transfer, as the guest writes it: big-endian.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, zerocopy::Immutable)]
#[repr(C)]
struct Transfer {
    control: [u8; 4],
    len: [u8; 4],
    gpa: [u8; 8],
}

const ERROR: u32 = 1 << 0;
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
const WRITE: u32 = 1 << 4;

/// How far the fetch of the kernel got by a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// The transfer was its first.
    pub first: bool,
    /// Nothing is left of it.
    pub last: bool,
}

/// The device.
#[derive(Clone, Debug)]
pub struct FwCfg {
    items: Items,
    selected: u16,
    offset: usize,
    dma_high: u32,
    /// What has been told of the kernel.
    told: Fetched,
}

impl FwCfg {
    /// With the items of a plan.
    pub fn new(items: Items) -> FwCfg {
        FwCfg { items, selected: 0, offset: 0, dma_high: 0, told: Fetched::default() }
    }

    /// The guest reads a port.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        match port {
            DATA_PORT => {
                for byte in data {
                    *byte = self.rest().first().copied().unwrap_or(0);
                    self.offset = self.offset.saturating_add(1);
                }
            }
            _ => {
                let from = DMA_SIGNATURE.get(usize::from(port.wrapping_sub(DMA_PORT))..);
                for (to, from) in data.iter_mut().zip(from.unwrap_or(&[])) {
                    *to = *from;
                }
            }
        }
    }

    /// The guest writes a port; what is returned is the address of a transfer that it asks for.
    pub fn write(&mut self, port: u16, data: &[u8]) -> Option<u64> {
        match (port, data) {
            (SELECTOR_PORT, [low, high]) => self.select(u16::from_le_bytes([*low, *high])),
            (DMA_PORT, [a, b, c, d]) => self.dma_high = u32::from_be_bytes([*a, *b, *c, *d]),
            (DMA_LOW_PORT, [a, b, c, d]) => {
                let low = u32::from_be_bytes([*a, *b, *c, *d]);
                let high = std::mem::take(&mut self.dma_high);
                return Some(u64::from(high) << 32 | u64::from(low));
            }
            _ => {}
        }
        None
    }

    fn select(&mut self, key: u16) {
        (self.selected, self.offset) = (key, 0);
    }

    fn rest(&self) -> &[u8] {
        self.items.item(self.selected).get(self.offset..).unwrap_or(&[])
    }

    /// Carries out the transfer at `gpa`. What lies beyond an item's end reads as zeros.
    pub fn transfer(&mut self, gpa: u64, memory: &impl SharedMemory) -> Fetched {
        let mut transfer = Transfer::default();
        if !memory.read(gpa, transfer.as_mut_bytes()) {
            return Fetched::default();
        }
        let control = u32::from_be_bytes(transfer.control);
        let len = u32::from_be_bytes(transfer.len);
        if control & SELECT != 0 {
            // The key is in the upper half.
            self.select((control >> 16) as u16);
        }
        let done = if control & READ != 0 {
            self.copy_to(u64::from_be_bytes(transfer.gpa), len as usize, memory)
        } else {
            control & WRITE == 0 || len == 0
        };
        if done && control & (READ | SKIP) != 0 {
            self.offset = self.offset.saturating_add(len as usize);
        }
        let status = if done { 0 } else { ERROR };
        memory.write(gpa, &status.to_be_bytes());
        if done && control & READ != 0 { self.tell() } else { Fetched::default() }
    }

    /// What the last transfer has changed.
    fn tell(&mut self) -> Fetched {
        if !self.items.is_kernel(self.selected) {
            return Fetched::default();
        }
        let now =
            Fetched { first: !self.told.first, last: !self.told.last && self.rest().is_empty() };
        self.told = Fetched { first: true, last: self.told.last || now.last };
        now
    }

    /// The next `len` bytes, a piece at a time: the guest chooses `len`.
    fn copy_to(&mut self, gpa: u64, len: usize, memory: &impl SharedMemory) -> bool {
        const ZEROS: [u8; 4096] = [0; 4096];
        let known = &self.rest()[..len.min(self.rest().len())];
        if !known.is_empty() && !memory.write(gpa, known) {
            return false;
        }
        let mut at = known.len();
        while at < len {
            let piece = &ZEROS[..(len - at).min(ZEROS.len())];
            let Some(gpa) = gpa.checked_add(at as u64) else { return false };
            if !memory.write(gpa, piece) {
                return false;
            }
            at += piece.len();
        }
        true
    }
}

#[cfg(test)]
#[path = "fw_cfg_test.rs"]
mod tests;
