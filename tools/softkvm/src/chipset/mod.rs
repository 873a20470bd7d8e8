//! The interrupt chips and the paravirtual clock that KVM keeps in the kernel for a VM.
//!
//! Each chip is a pure state machine in its own file; [`Chipset`] is the wiring between them and
//! the face towards the ioctl front end. Time is the VM's TSC in cycles, passed in by the caller;
//! what concerns others (a vCPU to wake, bytes for guest memory …) is left in a queue of
//! [`Event`]s. Same calls, same events.
//!
//! Not modelled: AVIC, posted interrupts, ESR errors, SMM (an SMI becomes [`Event::Smi`]), RTC
//! coalescing, Hyper-V and Xen routing, BCD counting of the 8254.

mod apics;
mod images;
mod interrupt;
mod ioapic;
pub mod kvmclock;
mod lapic;
mod lines;
mod pic;
mod pit;
pub mod reg;
mod routing;
mod time;
mod timer;

pub use interrupt::{Delivery, Interrupt, Shorthand};
pub use kvmclock::{GuestWrite, msr};
pub use lapic::{ApicFeatures, BASE_BSP, BASE_ENABLE, BASE_X2APIC, DEFAULT_BASE, Refused};
pub use lines::Source;
pub use pit::SPEAKER as PIT_SPEAKER;
pub use routing::{Chip, MAX_ROUTES, Route, RoutingError, Target};
pub use time::{Now, TimeBase};

use std::collections::BTreeSet;

use ioapic::Ioapic;
use kvmclock::{VcpuClock, VmClock};
use lapic::Lapic;
use lines::Lines;
use pic::Pic;
use pit::Pit;
use routing::Routing;

/// IA32_APIC_BASE.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// Which chips are in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irqchip {
    /// None: user space injects by KVM_INTERRUPT.
    None,
    /// Local APICs only (KVM_CAP_SPLIT_IRQCHIP), with this many pins of a user-space IOAPIC.
    Split(u32),
    /// Local APICs, IOAPIC and the 8259s (KVM_CREATE_IRQCHIP).
    Full,
}

/// What the chips want done. vCPUs are given by index in the order of [`Chipset::add_vcpu`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The vCPU has an interrupt or an NMI to look at.
    Wake(usize),
    /// INIT was sent to the vCPU. After resetting it, call [`Chipset::init_vcpu`].
    Init(usize),
    /// A start-up IPI was sent to the vCPU.
    Sipi(usize, u8),
    /// An SMI was sent to the vCPU: not modelled, the run should end.
    Smi(usize),
    /// KVM_EXIT_IOAPIC_EOI on this vCPU.
    EoiExit {
        /// The vCPU.
        vcpu: usize,
        /// The vector that ended.
        vector: u8,
    },
    /// The guest ended the interrupt of a watched GSI (irqfd with resampling).
    Acked(u32),
    /// Put these bytes into guest memory.
    Write(GuestWrite),
}

/// The operation is refused: a #GP(0) for an MSR access, EINVAL for an ioctl.
pub type Answer<T> = Result<T, Refused>;

/// KVM_INTERRUPT found an interrupt that still waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// ENXIO: the 8259s are in the kernel.
    #[error("the interrupt controller is in the kernel")]
    InKernel,
    /// EEXIST: one waits already.
    #[error("an external interrupt is pending")]
    Pending,
}

/// Per-vCPU state.
#[derive(Clone, Debug)]
struct Vcpu {
    id: u32,
    lapic: Option<Lapic>,
    features: ApicFeatures,
    /// APIC base and task priority while there is no local APIC.
    base: u64,
    cr8: u8,
    clock: VcpuClock,
    tsc_offset: u64,
    nmis: u8,
    external: Option<u8>,
}

/// The chips of one VM.
#[derive(Clone, Debug)]
pub struct Chipset {
    time: TimeBase,
    clock: VmClock,
    mode: Irqchip,
    wide: bool,
    bus_ns: u64,
    vcpus: Vec<Vcpu>,
    ioapic: Ioapic,
    pic: Pic,
    pit: Option<Pit>,
    routing: Routing,
    lines: Lines,
    watched: BTreeSet<u32>,
    events: Vec<Event>,
}

impl Chipset {
    /// No chips yet; a TSC of `tsc_khz`, and a wall clock that shows `epoch_ns` (since 1970) when the
    /// TSC is 0.
    pub fn new(tsc_khz: u32, epoch_ns: u64) -> Self {
        Self {
            time: TimeBase::new(tsc_khz),
            clock: VmClock::new(epoch_ns),
            mode: Irqchip::None,
            wide: false,
            bus_ns: timer::BUS_CYCLE_NS,
            vcpus: Vec::new(),
            ioapic: Ioapic::default(),
            pic: Pic::default(),
            pit: None,
            routing: Routing::default(),
            lines: Lines::default(),
            watched: BTreeSet::new(),
            events: Vec::new(),
        }
    }

    /// Conversion between TSC cycles and nanoseconds.
    pub fn time(&self) -> &TimeBase {
        &self.time
    }

    /// KVM_SET_TSC_KHZ on the VM; only sensible before anything runs.
    pub fn set_tsc_khz(&mut self, khz: u32) {
        self.time = TimeBase::new(khz);
    }

    /// Which chips there are.
    pub fn mode(&self) -> Irqchip {
        self.mode
    }

    /// KVM_CREATE_IRQCHIP. Refused if there are chips or vCPUs (the caller tells EEXIST from EINVAL
    /// by [`Chipset::mode`]).
    pub fn create_irqchip(&mut self) -> Answer<()> {
        self.create(Irqchip::Full)?;
        self.routing = Routing::with_chips();
        Ok(())
    }

    /// KVM_CAP_SPLIT_IRQCHIP with this many reserved routes for IOAPIC pins.
    pub fn create_split_irqchip(&mut self, pins: u32) -> Answer<()> {
        if pins > MAX_ROUTES {
            return Err(Refused);
        }
        self.create(Irqchip::Split(pins))
    }

    fn create(&mut self, mode: Irqchip) -> Answer<()> {
        if self.mode != Irqchip::None || !self.vcpus.is_empty() {
            return Err(Refused);
        }
        self.mode = mode;
        Ok(())
    }

    /// KVM_CREATE_PIT2. Refused without the other chips, or twice.
    pub fn create_pit(&mut self, flags: u32, tsc: u64) -> Answer<()> {
        if self.mode != Irqchip::Full || self.pit.is_some() {
            return Err(Refused);
        }
        self.pit = Some(Pit::new(flags, self.time.at(tsc)));
        Ok(())
    }

    /// Whether there is an in-kernel 8254.
    pub fn has_pit(&self) -> bool {
        self.pit.is_some()
    }

    /// KVM_REINJECT_CONTROL; refused without an 8254.
    pub fn set_pit_reinject(&mut self, on: bool) -> Answer<()> {
        self.pit.as_mut().ok_or(Refused)?.set_reinject(on);
        Ok(())
    }

    /// KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS.
    pub fn set_wide_ids(&mut self, on: bool) {
        self.wide = on;
    }

    /// Nanoseconds per cycle of the APIC bus.
    pub fn bus_ns(&self) -> u64 {
        self.bus_ns
    }

    /// KVM_CAP_X86_APIC_BUS_CYCLES_NS, for the vCPUs that are added afterwards.
    pub fn set_bus_ns(&mut self, ns: u64) {
        self.bus_ns = ns;
    }

    /// Adds a vCPU with KVM's vcpu_id as its APIC id. Returns its index.
    pub fn add_vcpu(&mut self, id: u32, bsp: bool) -> usize {
        let directed = matches!(self.mode, Irqchip::Split(_));
        let lapic =
            (self.mode != Irqchip::None).then(|| Lapic::new(id, bsp, directed, self.bus_ns));
        self.vcpus.push(Vcpu {
            id,
            lapic,
            features: ApicFeatures::default(),
            base: DEFAULT_BASE | BASE_ENABLE | if bsp { BASE_BSP } else { 0 },
            cr8: 0,
            clock: VcpuClock::default(),
            tsc_offset: 0,
            nmis: 0,
            external: None,
        });
        self.vcpus.len() - 1
    }

    /// What the vCPU's CPUID says about its APIC.
    pub fn set_features(&mut self, vcpu: usize, features: ApicFeatures) {
        let Some(v) = self.vcpus.get_mut(vcpu) else { return };
        v.features = features;
        if let Some(lapic) = &mut v.lapic {
            lapic.set_features(features);
        }
    }

    /// The vCPU's TSC minus the machine's.
    pub fn tsc_offset(&self, vcpu: usize) -> u64 {
        self.vcpus.get(vcpu).map_or(0, |v| v.tsc_offset)
    }

    /// Changes the difference between the vCPU's and the machine's TSC.
    pub fn set_tsc_offset(&mut self, vcpu: usize, offset: u64) {
        let Some(v) = self.vcpus.get_mut(vcpu) else { return };
        v.tsc_offset = offset;
        if let Some(lapic) = &mut v.lapic {
            lapic.set_tsc_offset(offset);
        }
        let write = v.clock.refresh(&self.clock, &self.time, offset);
        self.events.extend(write.map(Event::Write));
    }

    /// The local APIC's part of an INIT that the vCPU has carried out.
    pub fn init_vcpu(&mut self, vcpu: usize) {
        if let Some(lapic) = self.lapic_mut(vcpu) {
            lapic.init();
        }
    }

    /// Takes what is to be done, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether something is to be done.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    fn push(&mut self, event: Event) {
        // A burst of interrupts needs one wake-up.
        if !(matches!(event, Event::Wake(_)) && self.events.contains(&event)) {
            self.events.push(event);
        }
    }

    fn lapic(&self, vcpu: usize) -> Option<&Lapic> {
        self.vcpus.get(vcpu)?.lapic.as_ref()
    }

    fn lapic_mut(&mut self, vcpu: usize) -> Option<&mut Lapic> {
        self.vcpus.get_mut(vcpu)?.lapic.as_mut()
    }

    // --- time ----------------------------------------------------------------------------------

    /// TSC value of the next timer interrupt, if any timer runs.
    pub fn next_event(&self) -> Option<u64> {
        let lapics = self.vcpus.iter().filter_map(|v| v.lapic.as_ref()?.next_event(&self.time));
        let pit = self.pit.as_ref().and_then(Pit::next_event).map(|ns| self.time.tsc_of(ns));
        lapics.chain(pit).min()
    }

    /// Lets all timers act up to `tsc`.
    pub fn advance(&mut self, tsc: u64) {
        let now = self.time.at(tsc);
        for vcpu in 0..self.vcpus.len() {
            self.tick(vcpu, now);
        }
        if self.pit.as_mut().is_some_and(|pit| pit.advance(now)) {
            self.pulse_pit();
        }
    }

    fn tick(&mut self, vcpu: usize, now: Now) {
        if self.lapic_mut(vcpu).is_some_and(|lapic| lapic.advance(now)) {
            self.wake(vcpu);
        }
    }

    fn wake(&mut self, vcpu: usize) {
        if self.has_interrupt(vcpu) {
            self.push(Event::Wake(vcpu));
        }
    }

    /// KVM_GET_CLOCK: kvmclock and real time in nanoseconds.
    pub fn clock(&self, tsc: u64) -> (u64, u64) {
        let now = self.time.at(tsc);
        (self.clock.get(now), self.clock.realtime(now))
    }

    /// KVM_SET_CLOCK.
    pub fn set_clock(&mut self, ns: u64, tsc: u64) {
        self.clock.set(ns, self.time.at(tsc));
        for v in &mut self.vcpus {
            let write = v.clock.refresh(&self.clock, &self.time, v.tsc_offset);
            self.events.extend(write.map(Event::Write));
        }
    }

    // --- accesses by a vCPU --------------------------------------------------------------------

    /// MMIO read by a vCPU; `None` if no chip answers there.
    pub fn mmio_read(&mut self, vcpu: usize, gpa: u64, len: u8, tsc: u64) -> Option<u64> {
        let now = self.time.at(tsc);
        if let Some(offset) = self.lapic(vcpu).and_then(|lapic| lapic.mmio_offset(gpa)) {
            self.tick(vcpu, now);
            return Some(self.lapic_mut(vcpu)?.mmio_read(offset, len, now));
        }
        let offset = self.ioapic_offset(gpa)?;
        Some(u64::from(self.ioapic.mmio_read(offset)) & u64::MAX >> (64 - 8 * len.clamp(1, 8)))
    }

    /// MMIO write by a vCPU; `None` if no chip answers there.
    pub fn mmio_write(
        &mut self,
        vcpu: usize,
        gpa: u64,
        len: u8,
        value: u64,
        tsc: u64,
    ) -> Option<()> {
        let now = self.time.at(tsc);
        if let Some(offset) = self.lapic(vcpu).and_then(|lapic| lapic.mmio_offset(gpa)) {
            self.tick(vcpu, now);
            let effect = self.lapic_mut(vcpu)?.mmio_write(offset, len, value, now);
            self.apply(vcpu, effect, now);
            return Some(());
        }
        let offset = self.ioapic_offset(gpa)?;
        if let Some(pin) = self.ioapic.mmio_write(offset, value as u32) {
            self.service(pin);
        }
        Some(())
    }

    fn ioapic_offset(&self, gpa: u64) -> Option<u32> {
        (self.mode == Irqchip::Full).then(|| self.ioapic.mmio_offset(gpa))?
    }

    /// IN by a vCPU; `None` if no chip answers there.
    pub fn port_in(&mut self, port: u16, len: u8, tsc: u64) -> Option<u32> {
        if self.mode != Irqchip::Full {
            return None;
        }
        let now = self.time.at(tsc);
        let value = match self.pic.port_in(port) {
            Some(value) => value,
            None => self.pit.as_mut()?.port_in(port, now)?,
        };
        // The chips are byte devices: KVM answers anything wider with zero.
        Some(if len == 1 { value.into() } else { 0 })
    }

    /// OUT by a vCPU; `None` if no chip answers there.
    pub fn port_out(&mut self, port: u16, len: u8, value: u32, tsc: u64) -> Option<()> {
        if self.mode != Irqchip::Full {
            return None;
        }
        if matches!(port, 0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1) {
            if len == 1 {
                let acked = self.pic.port_out(port, value as u8).flatten();
                self.pic_acked(acked);
                self.wake_pic_listeners();
            }
            return Some(());
        }
        let now = self.time.at(tsc);
        self.pit.as_mut()?.port_out(port, value as u8, now).then_some(())
    }

    /// RDMSR (or KVM_GET_MSRS); `None` if the MSR is not the chipset's.
    pub fn msr_read(&mut self, vcpu: usize, index: u32, tsc: u64) -> Option<Answer<u64>> {
        let now = self.time.at(tsc);
        match index {
            MSR_APIC_BASE => Some(Ok(self.apic_base(vcpu))),
            MSR_TSC_DEADLINE => {
                self.tick(vcpu, now);
                Some(Ok(self.lapic(vcpu).map_or(0, Lapic::tsc_deadline)))
            }
            0x800..=0x8ff => {
                self.tick(vcpu, now);
                Some(self.lapic_mut(vcpu).ok_or(Refused).and_then(|l| l.msr_read(index, now)))
            }
            _ => self.vcpus.get(vcpu)?.clock.read(&self.clock, index).map(Ok),
        }
    }

    /// WRMSR (or, with `host`, KVM_SET_MSRS); `None` if the MSR is not the chipset's.
    pub fn msr_write(
        &mut self,
        vcpu: usize,
        index: u32,
        value: u64,
        host: bool,
        tsc: u64,
    ) -> Option<Answer<()>> {
        let now = self.time.at(tsc);
        match index {
            MSR_APIC_BASE => Some(self.set_apic_base(vcpu, value, host)),
            MSR_TSC_DEADLINE => {
                self.tick(vcpu, now);
                if let Some(lapic) = self.lapic_mut(vcpu) {
                    lapic.set_tsc_deadline(value);
                }
                self.tick(vcpu, now);
                Some(Ok(()))
            }
            0x800..=0x8ff => Some(self.x2apic_write(vcpu, index, value, now)),
            _ => {
                let v = self.vcpus.get_mut(vcpu)?;
                let clock = &mut self.clock;
                let answer = v.clock.write(clock, index, value, &self.time, v.tsc_offset, now)?;
                Some(answer.map_err(|()| Refused).map(|write| {
                    self.events.extend(write.map(Event::Write));
                }))
            }
        }
    }

    fn x2apic_write(&mut self, vcpu: usize, index: u32, value: u64, now: Now) -> Answer<()> {
        self.tick(vcpu, now);
        let effect = self.lapic_mut(vcpu).ok_or(Refused)?.msr_write(index, value, now)?;
        self.apply(vcpu, effect, now);
        Ok(())
    }

    /// The APIC base MSR.
    pub fn apic_base(&self, vcpu: usize) -> u64 {
        let v = self.vcpus.get(vcpu);
        v.map_or(0, |v| v.lapic.as_ref().map_or(v.base, Lapic::base))
    }

    /// Writes the APIC base MSR; `host` for KVM_SET_SREGS and KVM_SET_MSRS.
    pub fn set_apic_base(&mut self, vcpu: usize, value: u64, host: bool) -> Answer<()> {
        let v = self.vcpus.get_mut(vcpu).ok_or(Refused)?;
        match &mut v.lapic {
            Some(lapic) => lapic.set_base(value, host),
            None => {
                lapic::check_base(v.base, value, v.features, host)?;
                v.base = value;
                Ok(())
            }
        }
    }

    /// CR8.
    pub fn cr8(&self, vcpu: usize) -> u64 {
        let v = self.vcpus.get(vcpu);
        v.map_or(0, |v| v.lapic.as_ref().map_or(v.cr8, Lapic::cr8)).into()
    }

    /// Writes CR8; a lower priority may let an interrupt through.
    pub fn set_cr8(&mut self, vcpu: usize, value: u64) {
        let Some(v) = self.vcpus.get_mut(vcpu) else { return };
        match &mut v.lapic {
            Some(lapic) => lapic.set_cr8(value as u8),
            None => v.cr8 = value as u8 & 0xf,
        }
        self.wake(vcpu);
    }
}

#[cfg(test)]
#[path = "chipset_test.rs"]
mod chipset_test;
