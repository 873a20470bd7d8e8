//! The registers of virtio over MMIO, version 2 (VIRTIO 1.3, section 4.2.2), without the queues' contents.

use super::queue::{Place, SIZE_MAX};

/// Offsets (table 4.1).
mod offset {
    pub const MAGIC: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_SIZE_MAX: u64 = 0x034;
    pub const QUEUE_SIZE: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_TABLE: u64 = 0x080;
    pub const QUEUE_AVAILABLE: u64 = 0x090;
    pub const QUEUE_USED: u64 = 0x0a0;
    pub const SHARED_MEMORY: std::ops::Range<u64> = 0x0b0..0x0c0;
}

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// A console (section 5.3.1).
const DEVICE_ID: u32 = 3;
const VENDOR_ID: u32 = u32::from_le_bytes(*b"CVMM");

/// Features (section 6): not a device of before 1.0; addresses are those that the platform lets a device use, which in a
/// confidential guest is shared memory.
const VERSION_1: u64 = 1 << 32;
const ACCESS_PLATFORM: u64 = 1 << 33;

/// Status (section 2.1).
const FEATURES_OK: u8 = 1 << 3;
const DRIVER_OK: u8 = 1 << 2;

/// Interrupt status: a buffer was used.
const USED_BUFFER: u32 = 1 << 0;

/// How many queues there are.
pub(super) const QUEUES: usize = 2;

/// What the device must do after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// Begin from the beginning.
    Reset,
    /// Take this queue into use, or no longer.
    Ready(usize, Option<Place>),
    /// Look at this queue.
    Notify(usize),
}

/// The registers.
#[derive(Clone, Debug)]
pub(super) struct Registers {
    offered: u64,
    offered_half: u32,
    accepted: u64,
    accepted_half: u32,
    queue: u32,
    places: [Place; QUEUES],
    ready: [bool; QUEUES],
    status: u8,
    interrupts: u32,
}

impl Registers {
    /// As after a reset. `protected`: the guest has memory that a device cannot reach.
    pub fn new(protected: bool) -> Registers {
        Registers {
            offered: VERSION_1 | if protected { ACCESS_PLATFORM } else { 0 },
            offered_half: 0,
            accepted: 0,
            accepted_half: 0,
            queue: 0,
            places: [Place::default(); QUEUES],
            ready: [false; QUEUES],
            status: 0,
            interrupts: 0,
        }
    }

    /// The guest reads. Registers have 32 bits; the configuration, of which no feature gives anything a meaning, is zeros.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let value = match offset {
            offset::MAGIC => MAGIC,
            offset::VERSION => VERSION,
            offset::DEVICE_ID => DEVICE_ID,
            offset::VENDOR_ID => VENDOR_ID,
            offset::DEVICE_FEATURES => half(self.offered, self.offered_half),
            offset::QUEUE_SIZE_MAX => self.selected().map_or(0, |_| SIZE_MAX.into()),
            offset::QUEUE_READY => self.selected().map_or(0, |queue| self.ready[queue].into()),
            offset::INTERRUPT_STATUS => self.interrupts,
            offset::STATUS => self.status.into(),
            // A length of all ones: there is none (section 4.2.2).
            offset if offset::SHARED_MEMORY.contains(&offset) => u32::MAX,
            _ => 0,
        };
        if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            *data = value.to_le_bytes();
        }
    }

    /// The guest writes.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let Ok(data) = <[u8; 4]>::try_from(data) else { return Effect::None };
        let value = u32::from_le_bytes(data);
        match offset {
            offset::DEVICE_FEATURES_SEL => self.offered_half = value,
            offset::DRIVER_FEATURES_SEL => self.accepted_half = value,
            offset::DRIVER_FEATURES if self.status & FEATURES_OK == 0 => {
                set_half(&mut self.accepted, self.accepted_half, value);
            }
            offset::QUEUE_SEL => self.queue = value,
            offset::QUEUE_NOTIFY => return self.notified(value),
            offset::INTERRUPT_ACK => self.interrupts &= !value,
            // The register's upper bytes are reserved.
            offset::STATUS => return self.set_status(value as u8),
            offset => return self.write_queue(offset, value),
        }
        Effect::None
    }

    /// Does the driver say that it is ready?
    pub fn is_running(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    fn selected(&self) -> Option<usize> {
        usize::try_from(self.queue).ok().filter(|queue| *queue < QUEUES)
    }

    fn notified(&self, queue: u32) -> Effect {
        match usize::try_from(queue) {
            Ok(queue) if queue < QUEUES && self.ready[queue] && self.is_running() => {
                Effect::Notify(queue)
            }
            _ => Effect::None,
        }
    }

    fn set_status(&mut self, status: u8) -> Effect {
        if status == 0 {
            *self = Registers::new(self.offered & ACCESS_PLATFORM != 0);
            return Effect::Reset;
        }
        // All that is offered has to be taken: without it a driver would name addresses that the device cannot reach.
        let agreed = self.accepted == self.offered;
        self.status = if agreed { status } else { status & !FEATURES_OK };
        Effect::None
    }

    /// A register of the selected queue. While the queue is in use it stays where it is.
    fn write_queue(&mut self, offset: u64, value: u32) -> Effect {
        let Some(queue) = self.selected() else { return Effect::None };
        let place = &mut self.places[queue];
        if offset == offset::QUEUE_READY {
            let was = std::mem::replace(&mut self.ready[queue], value == 1);
            return match (was, value == 1) {
                (false, true) => Effect::Ready(queue, Some(*place)),
                (true, false) => Effect::Ready(queue, None),
                _ => Effect::None,
            };
        }
        if self.ready[queue] {
            return Effect::None;
        }
        let (word, upper) = (offset & !4, (offset >> 2 & 1) as u32);
        match word {
            _ if offset == offset::QUEUE_SIZE => place.size = value,
            offset::QUEUE_TABLE => set_half(&mut place.table, upper, value),
            offset::QUEUE_AVAILABLE => set_half(&mut place.available, upper, value),
            offset::QUEUE_USED => set_half(&mut place.used, upper, value),
            _ => {}
        }
        Effect::None
    }

    /// A buffer was used. Says whether the interrupt is to be raised: not again before the guest has taken the last one,
    /// for it looks at the queues after that.
    pub fn interrupt(&mut self) -> bool {
        let quiet = self.interrupts & USED_BUFFER == 0;
        self.interrupts |= USED_BUFFER;
        quiet
    }
}

/// A half of a wide register; there are only two.
fn half(value: u64, half: u32) -> u32 {
    match half {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, half: u32, new: u32) {
    match half {
        0 => *value = *value & !0xffff_ffff | u64::from(new),
        1 => *value = *value & 0xffff_ffff | u64::from(new) << 32,
        // A driver that accepts what nobody can offer is refused by its other halves, or loses nothing.
        _ => {}
    }
}
