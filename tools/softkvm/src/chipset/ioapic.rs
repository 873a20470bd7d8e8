//! The IOAPIC of KVM: 24 pins, version 0x11 (Intel 82093AA datasheet; Linux
//! arch/x86/kvm/ioapic.c). Polarity bits are stored and ignored, as there.

use super::interrupt::{Delivery, Interrupt, Shorthand};

/// Number of pins.
pub const PINS: usize = 24;
/// Where it answers.
pub const DEFAULT_BASE: u64 = 0xfec0_0000;
/// Bytes of MMIO space that KVM claims.
pub const MMIO_LEN: u64 = 0x100;
/// `sizeof(struct kvm_ioapic_state)`.
pub const IMAGE_LEN: usize = 216;

const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const STATUS: u64 = 1 << 12;

/// What asserting a pin comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinEdge {
    /// Nothing to send: de-asserted.
    Lowered,
    /// An edge that was there already.
    Coalesced,
    /// The entry should be looked at with [`Ioapic::message`].
    Raised,
}

/// One IOAPIC.
#[derive(Clone, Debug)]
pub struct Ioapic {
    base: u64,
    select: u32,
    id: u32,
    irr: u32,
    table: [u64; PINS],
}

impl Default for Ioapic {
    fn default() -> Self {
        Self { base: DEFAULT_BASE, select: 0, id: 0, irr: 0, table: [MASKED; PINS] }
    }
}

impl Ioapic {
    /// Whether the MMIO window holds `gpa`; returns the offset.
    pub fn mmio_offset(&self, gpa: u64) -> Option<u32> {
        let offset = gpa.wrapping_sub(self.base);
        (offset < MMIO_LEN).then_some(offset as u32)
    }

    /// MMIO read.
    pub fn mmio_read(&self, offset: u32) -> u32 {
        match offset & 0xff {
            0x00 => self.select,
            0x10 => self.read_selected(),
            _ => 0,
        }
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            0 | 2 => (self.id & 0xf) << 24,
            1 => (PINS as u32 - 1) << 16 | 0x11,
            select => match self.table.get((select.wrapping_sub(0x10) >> 1) as usize) {
                Some(entry) if select & 1 == 1 => (entry >> 32) as u32,
                Some(entry) => *entry as u32,
                None => u32::MAX,
            },
        }
    }

    /// MMIO write. Returns the pin whose entry changed, which may now have something to send.
    pub fn mmio_write(&mut self, offset: u32, value: u32) -> Option<usize> {
        match offset & 0xff {
            0x00 => {
                self.select = value & 0xff;
                None
            }
            0x10 => self.write_selected(value),
            _ => None,
        }
    }

    fn write_selected(&mut self, value: u32) -> Option<usize> {
        if self.select == 0 {
            self.id = value >> 24 & 0xf;
        }
        let pin = usize::try_from(self.select.checked_sub(0x10)? >> 1).ok()?;
        let entry = self.table.get_mut(pin)?;
        if self.select & 1 == 1 {
            *entry = *entry & 0xffff_ffff | u64::from(value) << 32;
        } else {
            let kept = *entry & (REMOTE_IRR | STATUS);
            let low = u64::from(value) & 0x1_ffff & !(REMOTE_IRR | STATUS);
            *entry = *entry & !0xffff_ffff | low | kept;
        }
        // Software relies on the remote IRR going away when an entry is made edge-triggered.
        if *entry & LEVEL == 0 {
            *entry &= !REMOTE_IRR;
        }
        let waits = self.irr & 1 << pin != 0 && *entry & (LEVEL | MASKED | REMOTE_IRR) == LEVEL;
        waits.then_some(pin)
    }

    /// Changes the level of a pin.
    pub fn set_pin(&mut self, pin: usize, level: bool) -> PinEdge {
        let Some(entry) = self.table.get(pin) else { return PinEdge::Lowered };
        let bit = 1 << pin;
        let before = self.irr;
        if !level {
            self.irr &= !bit;
            return PinEdge::Lowered;
        }
        self.irr |= bit;
        if entry & LEVEL == 0 && before & bit != 0 {
            return PinEdge::Coalesced;
        }
        PinEdge::Raised
    }

    /// The message a raised pin sends now, if its entry lets it.
    pub fn message(&self, pin: usize) -> Option<Interrupt> {
        let entry = *self.table.get(pin)?;
        if entry & MASKED != 0 || entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR {
            return None;
        }
        Some(self.decode(entry))
    }

    fn decode(&self, entry: u64) -> Interrupt {
        Interrupt {
            vector: entry as u8,
            delivery: Delivery::from_bits(entry as u32 >> 8),
            logical: entry & 1 << 11 != 0,
            level: entry & LEVEL != 0,
            assert: true,
            dest: (entry >> 56) as u32,
            shorthand: Shorthand::None,
            hint: false,
        }
    }

    /// Tells that the message of `pin` was accepted by a local APIC.
    pub fn delivered(&mut self, pin: usize) {
        if let Some(entry) = self.table.get_mut(pin)
            && *entry & LEVEL != 0
        {
            *entry |= REMOTE_IRR;
        }
    }

    /// Pins whose entry has this vector.
    pub fn pins_of(&self, vector: u8) -> impl Iterator<Item = usize> + use<> {
        let table = self.table;
        (0..PINS).filter(move |&pin| table[pin] as u8 == vector)
    }

    /// An EOI of a level-triggered vector arrived for `pin`; returns whether the pin still waits.
    pub fn end_of_interrupt(&mut self, pin: usize) -> bool {
        let Some(entry) = self.table.get_mut(pin) else { return false };
        if *entry & LEVEL == 0 {
            return false;
        }
        *entry &= !REMOTE_IRR;
        *entry & MASKED == 0 && self.irr & 1 << pin != 0
    }

    /// `struct kvm_ioapic_state`.
    pub fn save(&self) -> [u8; IMAGE_LEN] {
        let mut image = [0; IMAGE_LEN];
        image[0..8].copy_from_slice(&self.base.to_le_bytes());
        image[8..12].copy_from_slice(&self.select.to_le_bytes());
        image[12..16].copy_from_slice(&self.id.to_le_bytes());
        image[16..20].copy_from_slice(&self.irr.to_le_bytes());
        for (slot, entry) in image[24..].chunks_exact_mut(8).zip(self.table) {
            slot.copy_from_slice(&entry.to_le_bytes());
        }
        image
    }

    /// Takes a `struct kvm_ioapic_state`. Returns the raised pins, to be serviced again.
    pub fn restore(&mut self, image: &[u8; IMAGE_LEN]) -> u32 {
        let word = |at: usize| {
            u32::from_le_bytes([image[at], image[at + 1], image[at + 2], image[at + 3]])
        };
        self.base = u64::from(word(4)) << 32 | u64::from(word(0));
        self.select = word(8);
        self.id = word(12);
        for (pin, entry) in self.table.iter_mut().enumerate() {
            *entry = u64::from(word(28 + pin * 8)) << 32 | u64::from(word(24 + pin * 8));
        }
        self.irr = 0;
        word(16) & 0xff_ffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(io: &mut Ioapic, register: u32, value: u32) -> Option<usize> {
        io.mmio_write(0, register);
        io.mmio_write(0x10, value)
    }

    fn read(io: &mut Ioapic, register: u32) -> u32 {
        io.mmio_write(0, register);
        io.mmio_read(0x10)
    }

    #[test]
    fn registers_read_back_with_their_read_only_bits() {
        let mut io = Ioapic::default();
        assert_eq!(read(&mut io, 1), 0x0017_0011);
        write(&mut io, 0, 0xf500_0000);
        assert_eq!(read(&mut io, 0), 0x0500_0000);
        for pin in 0..PINS as u32 {
            assert_eq!(read(&mut io, 0x10 + 2 * pin), 0x1_0000, "reset value of pin {pin}");
            write(&mut io, 0x11 + 2 * pin, 0x0300_0000);
            write(&mut io, 0x10 + 2 * pin, 0xffff_ffff);
            assert_eq!(read(&mut io, 0x10 + 2 * pin), 0x1_afff);
            assert_eq!(read(&mut io, 0x11 + 2 * pin), 0x0300_0000);
        }
        assert_eq!(read(&mut io, 0x40), u32::MAX);
    }

    #[test]
    fn an_edge_is_sent_once_per_rise() {
        let mut io = Ioapic::default();
        write(&mut io, 0x10 + 8, 0x31);
        assert_eq!(io.set_pin(4, true), PinEdge::Raised);
        assert_eq!(io.message(4).map(|m| m.vector), Some(0x31));
        io.delivered(4);
        assert_eq!(io.set_pin(4, true), PinEdge::Coalesced);
        io.set_pin(4, false);
        assert_eq!(io.set_pin(4, true), PinEdge::Raised);
    }

    #[test]
    fn a_level_waits_for_eoi_and_repeats_while_asserted() {
        let mut io = Ioapic::default();
        write(&mut io, 0x10 + 20, 0x8041);
        assert_eq!(io.set_pin(10, true), PinEdge::Raised);
        io.delivered(10);
        assert!(io.message(10).is_none(), "remote IRR holds it back");
        assert!(io.end_of_interrupt(10));
        assert!(io.message(10).is_some());
        io.delivered(10);
        io.set_pin(10, false);
        assert!(!io.end_of_interrupt(10));
    }

    #[test]
    fn unmasking_a_raised_level_pin_asks_for_service() {
        let mut io = Ioapic::default();
        write(&mut io, 0x10 + 20, 0x1_8041);
        io.set_pin(10, true);
        assert!(io.message(10).is_none());
        assert_eq!(write(&mut io, 0x10 + 20, 0x8041), Some(10));
    }

    #[test]
    fn the_image_round_trips() {
        let mut io = Ioapic::default();
        write(&mut io, 0x11 + 10, 0xab00_0000);
        write(&mut io, 0x10 + 10, 0x8935);
        io.set_pin(5, true);
        let image = io.save();
        let mut other = Ioapic::default();
        assert_eq!(other.restore(&image), 1 << 5);
        other.set_pin(5, true);
        assert_eq!(other.save(), image);
    }
}
