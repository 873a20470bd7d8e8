//! An IOAPIC in user space, for guests that cannot have KVM's (Intel 82093AA data sheet, 290566, section 3).
//!
//! A TD's local interrupt controllers live in the processor and tell nobody of an EOI, so KVM offers them no IOAPIC. This one
//! is no more than a table: it turns redirection entries into message-signalled interrupts, which KVM delivers when a
//! line's eventfd is written. A level-triggered entry works like an edge-triggered one: the line's device must raise it
//! once per cause, as all of ours do; remote IRR is always 0.

use super::serial;
use crate::sys::vm::Msi;

/// Where it is.
pub const BASE: u64 = 0xfec0_0000;
/// Bytes of address space.
pub const LEN: u64 = 0x1000;
/// Interrupt lines: as many as lead to a device, and those below. A kernel writes to every entry when it starts and when it
/// ends, and each access costs a TD an exit.
pub const PINS: u32 = serial::IRQ + 1;

/// Which register the window shows.
const SELECT: u64 = 0x00;
/// The window.
const WINDOW: u64 = 0x10;

const ID: u8 = 0x00;
const VERSION: u8 = 0x01;
const ARBITRATION: u8 = 0x02;
const TABLE: u8 = 0x10;
const TABLE_END: u8 = TABLE + 2 * PINS as u8;

/// Version 0x11: no EOI register.
const VERSION_VALUE: u32 = (PINS - 1) << 16 | 0x11;
const ID_BITS: u32 = 0x0f00_0000;

/// Redirection entry: vector, delivery mode, destination mode, delivery status, polarity, remote IRR, trigger, mask;
/// destination in the last byte.
mod entry {
    pub const VECTOR: u64 = 0xff;
    pub const DELIVERY_MODE: u64 = 0x700;
    pub const LOGICAL: u64 = 1 << 11;
    pub const MASKED: u64 = 1 << 16;
    pub const DESTINATION_SHIFT: u32 = 56;
    /// What software can set: not delivery status (12), not remote IRR (14).
    pub const WRITABLE: u64 = 0xff00_0000_0001_afff;
}

/// Destination and mode bits of a message's address (Intel SDM volume 3, section 12.11.1).
mod message {
    pub const BASE: u32 = 0xfee0_0000;
    pub const DESTINATION_SHIFT: u32 = 12;
    pub const LOGICAL: u32 = 1 << 2;
    /// Data: the level is asserted, as edges want it.
    pub const ASSERT: u32 = 1 << 14;
}

/// What the run loop must do after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoApicEffect {
    /// Go on.
    None,
    /// Tell KVM the new routes.
    Reroute,
}

/// The IOAPIC.
#[derive(Debug)]
pub struct IoApic {
    id: u32,
    select: u8,
    table: [u64; PINS as usize],
}

impl Default for IoApic {
    /// As after a reset: all lines masked.
    fn default() -> IoApic {
        IoApic { id: 0, select: 0, table: [entry::MASKED; PINS as usize] }
    }
}

impl IoApic {
    /// The guest reads. Registers have 32 bits; what is narrower or elsewhere floats.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let value = match offset {
            SELECT => u32::from(self.select),
            WINDOW => self.register(),
            _ => return,
        };
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = value.to_le_bytes();
        }
    }

    fn register(&self) -> u32 {
        match self.select {
            ID | ARBITRATION => self.id,
            VERSION => VERSION_VALUE,
            select => self.entry_half(select).map_or(u32::MAX, |(pin, high)| {
                let value = self.table[pin];
                if high { (value >> 32) as u32 } else { value as u32 }
            }),
        }
    }

    /// The pin, and whether it is the entry's upper half, of a table register.
    fn entry_half(&self, select: u8) -> Option<(usize, bool)> {
        (TABLE..TABLE_END)
            .contains(&select)
            .then(|| (usize::from((select - TABLE) / 2), select & 1 != 0))
    }

    /// The guest writes.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> IoApicEffect {
        let Ok(data) = <[u8; 4]>::try_from(data) else { return IoApicEffect::None };
        let value = u32::from_le_bytes(data);
        match offset {
            SELECT => self.select = data[0],
            WINDOW => return self.write_register(value),
            _ => {}
        }
        IoApicEffect::None
    }

    fn write_register(&mut self, value: u32) -> IoApicEffect {
        if self.select == ID {
            self.id = value & ID_BITS;
        }
        let Some((pin, high)) = self.entry_half(self.select) else { return IoApicEffect::None };
        let old = self.table[pin];
        let new = if high {
            old & 0xffff_ffff | u64::from(value) << 32
        } else {
            old & !0xffff_ffff | u64::from(value)
        };
        self.table[pin] = new & entry::WRITABLE;
        // A guest that writes the same again, or prepares a masked entry, costs KVM nothing.
        if route(old) == route(self.table[pin]) {
            IoApicEffect::None
        } else {
            IoApicEffect::Reroute
        }
    }

    /// Where each line leads that is not masked.
    pub fn routes(&self) -> Vec<(u32, Msi)> {
        (0..PINS).zip(self.table).filter_map(|(pin, entry)| Some((pin, route(entry)?))).collect()
    }
}

/// The message of an entry; none while it is masked, and none for what no message can be.
fn route(value: u64) -> Option<Msi> {
    // Fixed and lowest priority. SMI, NMI, INIT and ExtINT are not a device's to send into a TD.
    if value & entry::MASKED != 0 || value & entry::DELIVERY_MODE > 0x100 {
        return None;
    }
    // Vectors below 16 are not interrupts.
    let vector = (value & entry::VECTOR) as u32;
    if vector < 16 {
        return None;
    }
    let destination = (value >> entry::DESTINATION_SHIFT) as u32;
    let logical = if value & entry::LOGICAL != 0 { message::LOGICAL } else { 0 };
    Some(Msi {
        address: message::BASE | destination << message::DESTINATION_SHIFT | logical,
        data: vector | (value & entry::DELIVERY_MODE) as u32 | message::ASSERT,
    })
}

#[cfg(test)]
#[path = "ioapic_test.rs"]
mod tests;
