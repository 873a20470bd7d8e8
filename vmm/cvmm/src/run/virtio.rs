//! The virtio console's side of the run: guest memory as it may see it, and what becomes of a guest that misuses it.

use std::sync::MutexGuard;

use super::{Shared, lock};
use crate::device::virtio::{GuestView, QueueError, Unreachable};
use crate::ledger::Ledger;
use crate::outcome::Outcome;
use crate::sys::memory::GuestRam;

/// The memory that the guest shares. While this exists no page changes owner: a conversion needs the ledger, too.
pub(super) struct SharedPages<'a> {
    ram: &'a GuestRam,
    ledger: MutexGuard<'a, Ledger>,
}

impl<'a> SharedPages<'a> {
    pub fn of(shared: &'a Shared) -> SharedPages<'a> {
        SharedPages { ram: &shared.memory.ram, ledger: lock(&shared.ledger) }
    }

    fn check(&self, gpa: u64, len: u64) -> Result<(), Unreachable> {
        if gpa.checked_add(len).is_none() || !self.ram.covers(gpa, len) {
            Err(Unreachable::NoMemory)
        } else if !self.ledger.is_shared(gpa, len) {
            Err(Unreachable::Private)
        } else {
            Ok(())
        }
    }
}

impl GuestView for SharedPages<'_> {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), Unreachable> {
        self.check(gpa, bytes.len() as u64)?;
        self.ram.read(gpa, bytes).map_err(|_| Unreachable::NoMemory)
    }

    fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), Unreachable> {
        self.check(gpa, bytes.len() as u64)?;
        self.ram.write(gpa, bytes).map_err(|_| Unreachable::NoMemory)
    }

    fn load(&self, gpa: u64) -> Result<u16, Unreachable> {
        self.check(gpa, 2)?;
        self.ram.load_index(gpa).map_err(|_| Unreachable::NoMemory)
    }

    fn publish(&self, gpa: u64, value: u16) -> Result<(), Unreachable> {
        self.check(gpa, 2)?;
        self.ram.publish_index(gpa, value).map_err(|_| Unreachable::NoMemory)
    }
}

/// Hands what was typed to the guest; says how much it took.
pub(super) fn receive(shared: &Shared, bytes: &[u8]) -> usize {
    let mut bus = lock(&shared.mmio);
    let Some(console) = &mut bus.console else { return 0 };
    console.receive(bytes, &SharedPages::of(shared)).unwrap_or_else(|problem| {
        end(shared, &problem);
        0
    })
}

/// Ends a run whose guest misused the device.
pub(super) fn end(shared: &Shared, problem: &QueueError) {
    let device = "virtio console";
    shared.stop(Outcome::DeviceMisused { device, problem: problem.to_string() });
}
