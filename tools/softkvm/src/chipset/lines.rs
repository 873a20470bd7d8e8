//! Interrupt lines: from a GSI through the routing table to the 8259s and the IOAPIC.

use super::ioapic::{PINS, PinEdge};
use super::routing::{Chip, Route, RoutingError, Target};
use super::{Chipset, Event, Interrupt, Irqchip};

/// Who drives a line. The level of a pin is the logical OR over its sources, as in KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// KVM_IRQ_LINE and irqfds.
    User,
    /// irqfds with resampling.
    Resample,
    /// The in-kernel 8254.
    Pit,
}

/// Levels of all pins, a bit per source.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    pic: [u8; 16],
    ioapic: [u8; PINS],
}

impl Lines {
    fn drive(&mut self, chip: Chip, pin: u32, source: Source, level: bool) -> bool {
        let pin = pin as usize;
        let cell = match chip {
            Chip::PicMaster => self.pic.get_mut(pin & 7),
            Chip::PicSlave => self.pic.get_mut(8 + (pin & 7)),
            Chip::Ioapic => self.ioapic.get_mut(pin),
        };
        let Some(cell) = cell else { return false };
        let bit = 1 << source as u8;
        *cell = if level { *cell | bit } else { *cell & !bit };
        *cell != 0
    }
}

impl Chipset {
    /// KVM_SET_GSI_ROUTING.
    pub fn set_routing(&mut self, routes: &[Route]) -> Result<(), RoutingError> {
        self.routing.set(routes, self.mode == Irqchip::Full, self.wide)
    }

    /// Asks for [`Event::Acked`] whenever the guest ends an interrupt of `gsi`, or no longer.
    pub fn watch_gsi(&mut self, gsi: u32, on: bool) {
        if on {
            self.watched.insert(gsi);
        } else {
            self.watched.remove(&gsi);
        }
    }

    /// Drives a GSI. Returns what KVM_IRQ_LINE_STATUS reports: the number of vCPUs reached, 0 if the
    /// interrupt was merged with one still pending, negative if it was masked or leads nowhere.
    pub fn set_irq(&mut self, gsi: u32, level: bool, source: Source) -> i32 {
        let targets: Vec<Target> = self.routing.targets(gsi).collect();
        let mut result = -1;
        for target in targets {
            let reached = match target {
                Target::Pin { chip, pin } => {
                    let level = self.lines.drive(chip, pin, source, level);
                    self.set_pin(chip, pin, level)
                }
                // Messages are sent on the rising edge only.
                Target::Msi { .. } if !level => -1,
                Target::Msi { address, data } => self.signal_msi(address, data),
            };
            if reached >= 0 {
                result = reached + result.max(0);
            }
        }
        result
    }

    /// KVM_SIGNAL_MSI, or an irqfd's message. Returns the number of vCPUs reached, negative if none
    /// is addressed.
    pub fn signal_msi(&mut self, address: u64, data: u32) -> i32 {
        if self.wide && address >> 32 & 0xff != 0 {
            return -1;
        }
        self.deliver(&Interrupt::from_msi(address, data, self.wide), None)
    }

    fn set_pin(&mut self, chip: Chip, pin: u32, level: bool) -> i32 {
        if chip != Chip::Ioapic {
            let line = (pin & 7) as u8 + if chip == Chip::PicSlave { 8 } else { 0 };
            let result = self.pic.set_line(line, level);
            self.wake_pic_listeners();
            return result;
        }
        match self.ioapic.set_pin(pin as usize, level) {
            PinEdge::Lowered => 1,
            PinEdge::Coalesced => 0,
            PinEdge::Raised => self.service(pin as usize),
        }
    }

    /// Sends what a raised IOAPIC pin has to send.
    pub(super) fn service(&mut self, pin: usize) -> i32 {
        let Some(irq) = self.ioapic.message(pin) else { return -1 };
        let reached = self.deliver(&irq, None);
        if reached != 0 {
            self.ioapic.delivered(pin);
        }
        reached
    }

    /// Wakes the vCPUs whose LVT0 lets the 8259s through, if those ask for service.
    pub(super) fn wake_pic_listeners(&mut self) {
        if self.pic.output() {
            for vcpu in 0..self.vcpus.len() {
                if self.lapic(vcpu).is_some_and(|lapic| lapic.accepts_pic()) {
                    self.push(Event::Wake(vcpu));
                }
            }
        }
    }

    pub(super) fn pic_acked(&mut self, line: Option<u8>) {
        if let Some(line) = line {
            let chip = if line < 8 { Chip::PicMaster } else { Chip::PicSlave };
            self.acked(chip, u32::from(line & 7));
        }
    }

    /// An EOI message from a local APIC.
    pub(super) fn broadcast_eoi(&mut self, vector: u8, level: bool) {
        for pin in self.ioapic.pins_of(vector) {
            self.acked(Chip::Ioapic, pin as u32);
            if level && self.ioapic.end_of_interrupt(pin) {
                self.service(pin);
            }
        }
    }

    fn acked(&mut self, chip: Chip, pin: u32) {
        let Some(gsi) = self.routing.gsi_of(chip, pin) else { return };
        if self.watched.contains(&gsi) {
            self.push(Event::Acked(gsi));
        }
        if gsi == 0 && self.pit.as_mut().is_some_and(|pit| pit.acknowledge()) {
            self.pulse_pit();
        }
    }

    /// One tick of the 8254's channel 0.
    pub(super) fn pulse_pit(&mut self) {
        self.set_irq(0, true, Source::Pit);
        self.set_irq(0, false, Source::Pit);
        for vcpu in 0..self.vcpus.len() {
            if self.lapic(vcpu).is_some_and(|lapic| lapic.lint0_is_nmi()) {
                self.inject_nmi(vcpu);
            }
        }
    }
}
