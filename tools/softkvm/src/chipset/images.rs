//! The chips' states as KVM's ioctls carry them, byte for byte.

use super::routing::Chip;
use super::{Answer, Chipset, Irqchip, Refused, ioapic, pic, pit};

/// `sizeof(struct kvm_lapic_state)`.
pub const LAPIC_LEN: usize = 1024;

impl Chipset {
    /// KVM_GET_LAPIC; refused without a local APIC.
    pub fn save_lapic(&mut self, vcpu: usize, tsc: u64) -> Answer<[u8; LAPIC_LEN]> {
        let (now, wide) = (self.time.at(tsc), self.wide);
        self.tick(vcpu, now);
        Ok(self.lapic_mut(vcpu).ok_or(Refused)?.save(wide, now))
    }

    /// KVM_SET_LAPIC.
    pub fn restore_lapic(&mut self, vcpu: usize, page: &[u8; LAPIC_LEN], tsc: u64) -> Answer<()> {
        let (now, wide) = (self.time.at(tsc), self.wide);
        self.lapic_mut(vcpu).ok_or(Refused)?.restore(page, wide, now)?;
        self.wake(vcpu);
        Ok(())
    }

    /// KVM_GET_IRQCHIP: the bytes of `struct kvm_irqchip.chip` that the chip uses.
    pub fn save_chip(&self, chip: Chip) -> Answer<Vec<u8>> {
        if self.mode != Irqchip::Full {
            return Err(Refused);
        }
        Ok(match chip {
            Chip::PicMaster => self.pic.save(false).to_vec(),
            Chip::PicSlave => self.pic.save(true).to_vec(),
            Chip::Ioapic => self.ioapic.save().to_vec(),
        })
    }

    /// KVM_SET_IRQCHIP, with at least the bytes that the chip uses.
    pub fn restore_chip(&mut self, chip: Chip, image: &[u8]) -> Answer<()> {
        if self.mode != Irqchip::Full {
            return Err(Refused);
        }
        match chip {
            Chip::PicMaster | Chip::PicSlave => {
                let image = image.first_chunk::<{ pic::IMAGE_LEN }>().ok_or(Refused)?;
                self.pic.restore(chip == Chip::PicSlave, image);
                self.wake_pic_listeners();
            }
            Chip::Ioapic => {
                let image = image.first_chunk::<{ ioapic::IMAGE_LEN }>().ok_or(Refused)?;
                let raised = self.ioapic.restore(image);
                for pin in (0..ioapic::PINS).filter(|pin| raised & 1 << pin != 0) {
                    self.ioapic.set_pin(pin, true);
                    self.service(pin);
                }
            }
        }
        Ok(())
    }

    /// KVM_GET_PIT2; refused without an 8254.
    pub fn save_pit(&self) -> Answer<[u8; pit::IMAGE_LEN]> {
        Ok(self.pit.as_ref().ok_or(Refused)?.save())
    }

    /// KVM_SET_PIT2.
    pub fn restore_pit(&mut self, image: &[u8; pit::IMAGE_LEN], tsc: u64) -> Answer<()> {
        let now = self.time.at(tsc);
        self.pit.as_mut().ok_or(Refused)?.restore(image, now);
        Ok(())
    }
}
