//! Between local APICs: delivery of messages, and what a vCPU takes from its own APIC.

use super::interrupt::Delivery;
use super::lapic::{Accepted, Effect, Lapic};
use super::{Chipset, Event, Interrupt, Irqchip, Now, QueueError};

impl Chipset {
    /// Delivers a message to the local APICs it addresses; `from` is the index of the sending vCPU.
    /// Returns how many took it, negative if none is addressed.
    pub(super) fn deliver(&mut self, irq: &Interrupt, from: Option<usize>) -> i32 {
        let sender = from.and_then(|vcpu| self.vcpus.get(vcpu)).map(|v| v.id);
        let mut irq = *irq;
        if irq.lowest() && !irq.logical && irq.dest == 0xff {
            irq.delivery = Delivery::FIXED;
            irq.hint = false;
        }
        let addressed = |lapic: &Lapic| lapic.hw_enabled() && lapic.matches(&irq, sender);
        if irq.lowest() {
            // KVM's vector hashing: the vector picks among the candidates.
            let able = |lapic: &Lapic| lapic.sw_enabled() && addressed(lapic);
            let count = (0..self.vcpus.len()).filter(|&i| self.lapic(i).is_some_and(able)).count();
            if count == 0 {
                return -1;
            }
            let nth = usize::from(irq.vector) % count;
            let chosen =
                (0..self.vcpus.len()).filter(|&i| self.lapic(i).is_some_and(able)).nth(nth);
            return chosen.map_or(-1, |vcpu| self.accept(vcpu, &irq));
        }
        let mut reached = -1;
        for vcpu in 0..self.vcpus.len() {
            if self.lapic(vcpu).is_some_and(addressed) {
                reached = reached.max(0) + self.accept(vcpu, &irq);
            }
        }
        reached
    }

    fn accept(&mut self, vcpu: usize, irq: &Interrupt) -> i32 {
        let Some(lapic) = self.lapic_mut(vcpu) else { return 0 };
        match lapic.accept(irq) {
            Accepted::Ignored => return 0,
            Accepted::Coalesced => {}
            Accepted::Pending => self.wake(vcpu),
            Accepted::Nmi => self.inject_nmi(vcpu),
            Accepted::Init => self.push(Event::Init(vcpu)),
            Accepted::Sipi(vector) => self.push(Event::Sipi(vcpu, vector)),
            Accepted::Kick => self.push(Event::Wake(vcpu)),
            Accepted::Smi => self.push(Event::Smi(vcpu)),
        }
        1
    }

    /// Carries out what a register write of `vcpu` asks for, and looks whether it can now take an
    /// interrupt.
    pub(super) fn apply(&mut self, vcpu: usize, effect: Effect, now: Now) {
        match effect {
            Effect::None => {}
            Effect::Ipi(irq) => {
                self.deliver(&irq, Some(vcpu));
                return;
            }
            Effect::Eoi { vector, level, directed } => match self.mode {
                Irqchip::Full if !directed => self.broadcast_eoi(vector, level),
                Irqchip::Split(pins) if !directed => self.split_eoi(vcpu, pins, vector),
                _ => {}
            },
        }
        self.tick(vcpu, now);
        self.wake(vcpu);
    }

    fn split_eoi(&mut self, vcpu: usize, pins: u32, vector: u8) {
        let Some(lapic) = self.lapic(vcpu) else { return };
        let handled = self
            .routing
            .level_messages(pins, self.wide)
            .any(|irq| irq.vector == vector && lapic.matches(&irq, None));
        if handled {
            self.push(Event::EoiExit { vcpu, vector });
        }
    }

    /// KVM_HC_SEND_IPI: the vector and mode of `icr` to the vCPUs whose APIC ids, counted from
    /// `min`, are set in `bitmap`. Returns how many took it; negative is an errno for the guest.
    pub fn pv_send_ipi(&mut self, bitmap: u128, min: u32, icr: u32) -> i64 {
        const KVM_EINVAL: i64 = 22;
        // Destination mode and shorthand have no meaning here.
        if icr & (1 << 11 | 3 << 18) != 0 {
            return -KVM_EINVAL;
        }
        let irq = Interrupt::from_icr(icr, 0);
        let mut reached = 0;
        for vcpu in 0..self.vcpus.len() {
            let bit = self.vcpus[vcpu].id.checked_sub(min).filter(|&bit| bit < 128);
            if bit.is_some_and(|bit| bitmap >> bit & 1 != 0) {
                reached += i64::from(self.accept(vcpu, &irq));
            }
        }
        reached
    }

    // --- what a vCPU takes -----------------------------------------------------------------

    /// Whether [`Chipset::take_interrupt`] would return a vector.
    pub fn has_interrupt(&self, vcpu: usize) -> bool {
        let Some(v) = self.vcpus.get(vcpu) else { return false };
        let Some(lapic) = &v.lapic else { return v.external.is_some() };
        self.external_waits(v.external, lapic) || lapic.pending().is_some()
    }

    fn external_waits(&self, external: Option<u8>, lapic: &Lapic) -> bool {
        match self.mode {
            Irqchip::Full => self.pic.output() && lapic.accepts_pic(),
            _ => external.is_some() && lapic.accepts_pic(),
        }
    }

    /// Acknowledges the interrupt to deliver now: those from the 8259s come first, as in KVM.
    pub fn take_interrupt(&mut self, vcpu: usize) -> Option<u8> {
        let v = self.vcpus.get(vcpu)?;
        let Some(lapic) = &v.lapic else { return self.vcpus.get_mut(vcpu)?.external.take() };
        if self.external_waits(v.external, lapic) {
            if self.mode != Irqchip::Full {
                return self.vcpus.get_mut(vcpu)?.external.take();
            }
            let (vector, acked) = self.pic.acknowledge();
            self.pic_acked(acked);
            return Some(vector);
        }
        self.lapic_mut(vcpu)?.acknowledge()
    }

    /// KVM_INTERRUPT.
    pub fn queue_external(&mut self, vcpu: usize, vector: u8) -> Result<(), QueueError> {
        if self.mode == Irqchip::Full {
            return Err(QueueError::InKernel);
        }
        let split = self.mode != Irqchip::None;
        if let Some(v) = self.vcpus.get_mut(vcpu) {
            if split && v.external.is_some() {
                return Err(QueueError::Pending);
            }
            v.external = Some(vector);
            self.wake(vcpu);
        }
        Ok(())
    }

    /// Whether user space may inject an interrupt now (`ready_for_interrupt_injection`), as far as
    /// the chips are concerned.
    pub fn ready_for_external(&self, vcpu: usize) -> bool {
        let Some(v) = self.vcpus.get(vcpu) else { return false };
        v.external.is_none()
            && match self.mode {
                Irqchip::None => true,
                Irqchip::Split(_) => v.lapic.as_ref().is_some_and(Lapic::accepts_pic),
                Irqchip::Full => false,
            }
    }

    /// Makes an NMI pending; at most two wait at a time.
    pub fn inject_nmi(&mut self, vcpu: usize) {
        if let Some(v) = self.vcpus.get_mut(vcpu) {
            v.nmis = (v.nmis + 1).min(2);
            self.push(Event::Wake(vcpu));
        }
    }

    /// How many NMIs wait.
    pub fn nmis(&self, vcpu: usize) -> u8 {
        self.vcpus.get(vcpu).map_or(0, |v| v.nmis)
    }

    /// Sets how many NMIs wait (KVM_SET_VCPU_EVENTS, INIT).
    pub fn set_nmis(&mut self, vcpu: usize, count: u8) {
        if let Some(v) = self.vcpus.get_mut(vcpu) {
            v.nmis = count.min(2);
        }
    }

    /// Takes one waiting NMI.
    pub fn take_nmi(&mut self, vcpu: usize) -> bool {
        match self.vcpus.get_mut(vcpu) {
            Some(v) if v.nmis > 0 => {
                v.nmis -= 1;
                true
            }
            _ => false,
        }
    }
}
