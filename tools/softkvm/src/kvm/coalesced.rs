//! Coalesced MMIO and port writes: they wait in a ring that all vCPUs' mappings share until user space comes by
//! (Linux virt/kvm/coalesced_mmio.c).
//!
//! UNSAFETY: the ring is shared with the program that runs the VM, which may write to it at any time; it is only accessed by
//! volatile reads and writes within its bounds.
#![allow(unsafe_code)]

use std::os::fd::RawFd;

use kvm_bindings::kvm_coalesced_mmio_zone;

use super::errno::{Answer, Errno};
use super::fd::{Mapping, Owned, memory_file};

/// Page of a vCPU's mapping where the ring is to be seen.
pub const RING_PAGE: usize = 2;

const PAGE: usize = 4096;
/// `first` and `last`.
const HEADER: usize = 8;
/// `struct kvm_coalesced_mmio`: address, length, whether it is a port, data.
const ENTRY: usize = 24;
/// KVM_COALESCED_MMIO_MAX.
const ENTRIES: u32 = ((PAGE - HEADER) / ENTRY) as u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Zone {
    pio: bool,
    addr: u64,
    size: u64,
}

impl Zone {
    fn parse(zone: &kvm_coalesced_mmio_zone) -> Answer<Self> {
        let bytes = super::user::bytes_of(zone);
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let pio = word(12);
        Errno::require(pio <= 1)?;
        Ok(Self { pio: pio == 1, addr: zone.addr, size: u64::from(word(8)) })
    }

    fn holds(&self, pio: bool, addr: u64, len: u64) -> bool {
        let end = addr.checked_add(len);
        self.pio == pio
            && addr >= self.addr
            && end.is_some_and(|end| end <= self.addr.saturating_add(self.size))
    }
}

#[derive(Debug)]
struct Ring {
    file: Owned,
    map: Mapping,
}

impl Ring {
    fn new() -> Answer<Self> {
        let file = Owned::from_new(memory_file(c"kvm-coalesced", PAGE as u64)?);
        let map = Mapping::of(file.number(), PAGE)?;
        Ok(Self { file, map })
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            assert!(at + i < PAGE, "entries end before the page does");
            // SAFETY: inside the mapping, as just checked.
            unsafe { self.map.base().add(at + i).write_volatile(*byte) };
        }
    }

    fn get(&self, at: usize) -> u32 {
        assert!(at + 4 <= HEADER, "only the header is read");
        // SAFETY: inside the mapping, as just checked.
        u32::from_le_bytes(std::array::from_fn(|i| unsafe {
            self.map.base().add(at + i).read_volatile()
        }))
    }

    /// Adds a write; `false` if there is no room.
    fn push(&self, pio: bool, addr: u64, len: u8, value: u64) -> bool {
        let (first, last) = (self.get(0), self.get(4));
        let next = (last.wrapping_add(1)) % ENTRIES;
        if last >= ENTRIES || next == first {
            return false;
        }
        let at = HEADER + last as usize * ENTRY;
        self.put(at, &addr.to_le_bytes());
        self.put(at + 8, &u32::from(len).to_le_bytes());
        self.put(at + 12, &u32::from(pio).to_le_bytes());
        self.put(at + 16, &value.to_le_bytes()[..usize::from(len.min(8))]);
        self.put(4, &next.to_le_bytes());
        true
    }
}

/// The zones of a VM and its ring.
#[derive(Debug, Default)]
pub struct Coalesced {
    zones: Vec<Zone>,
    ring: Option<Ring>,
}

impl Coalesced {
    /// Makes the ring, before the first vCPU can be mapped.
    pub fn prepare(&mut self) -> Answer {
        if self.ring.is_none() {
            self.ring = Some(Ring::new()?);
        }
        Ok(())
    }

    /// The file to be mapped as page [`RING_PAGE`] of a vCPU.
    pub fn file(&self) -> Option<RawFd> {
        self.ring.as_ref().map(|ring| ring.file.number())
    }

    /// KVM_REGISTER_COALESCED_MMIO.
    pub fn register(&mut self, zone: &kvm_coalesced_mmio_zone) -> Answer {
        self.zones.push(Zone::parse(zone)?);
        Ok(())
    }

    /// KVM_UNREGISTER_COALESCED_MMIO: every zone that holds all of the range goes.
    pub fn unregister(&mut self, zone: &kvm_coalesced_mmio_zone) -> Answer {
        let gone = Zone::parse(zone)?;
        self.zones.retain(|zone| !zone.holds(gone.pio, gone.addr, gone.size));
        Ok(())
    }

    /// A write by the guest: `true` if it waits in the ring.
    pub fn write(&self, pio: bool, addr: u64, len: u8, value: u64) -> bool {
        self.zones.iter().any(|zone| zone.holds(pio, addr, len.into()))
            && self.ring.as_ref().is_some_and(|ring| ring.push(pio, addr, len, value))
    }
}
