//! The memory bus: devices that a guest reaches by address. Most guests have none in user space.

use super::ioapic::{self, IoApic, IoApicEffect};
use super::virtio::{self, VirtioConsole};

/// The devices.
#[derive(Debug, Default)]
pub struct MmioBus {
    /// The IOAPIC of a guest that does not have KVM's.
    pub ioapic: Option<IoApic>,
    /// The console of a guest that has no serial line.
    pub console: Option<VirtioConsole>,
}

impl MmioBus {
    /// The guest reads. Where nothing is, the bus floats: all ones.
    pub fn read(&self, gpa: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (Some(ioapic), Some(offset)) = (&self.ioapic, ioapic_offset(gpa)) {
            ioapic.read(offset, data);
        }
        if let (Some(console), Some(offset)) = (&self.console, console_offset(gpa)) {
            console.read(offset, data);
        }
    }

    /// The console, and which of its registers the address is, if it is one.
    pub fn console_at(&mut self, gpa: u64) -> Option<(&mut VirtioConsole, u64)> {
        self.console.as_mut().zip(console_offset(gpa))
    }

    /// The guest writes; not to the console.
    pub fn write(&mut self, gpa: u64, data: &[u8]) -> IoApicEffect {
        match (&mut self.ioapic, ioapic_offset(gpa)) {
            (Some(ioapic), Some(offset)) => ioapic.write(offset, data),
            _ => IoApicEffect::None,
        }
    }
}

fn ioapic_offset(gpa: u64) -> Option<u64> {
    gpa.checked_sub(ioapic::BASE).filter(|offset| *offset < ioapic::LEN)
}

fn console_offset(gpa: u64) -> Option<u64> {
    gpa.checked_sub(virtio::BASE).filter(|offset| *offset < virtio::LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_guest_that_has_an_ioapic_finds_one() {
        let mut with = MmioBus { ioapic: Some(IoApic::default()), console: None };
        let mut without = MmioBus::default();
        let version = |bus: &mut MmioBus, base: u64| {
            bus.write(base, &[1, 0, 0, 0]);
            let mut data = [0; 4];
            bus.read(base + 0x10, &mut data);
            u32::from_le_bytes(data)
        };
        assert_eq!(version(&mut with, ioapic::BASE), 0x0004_0011);
        assert_eq!(version(&mut with, ioapic::BASE - 0x1000), u32::MAX);
        assert_eq!(version(&mut with, ioapic::BASE + 0x1000), u32::MAX);
        assert_eq!(version(&mut without, ioapic::BASE), u32::MAX);
    }
}
