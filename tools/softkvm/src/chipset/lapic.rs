//! One local APIC, in xAPIC and x2APIC mode (AMD APM vol. 2, chapter 16; behaviour where the
//! manual leaves a choice: Linux arch/x86/kvm/lapic.c). A pure state machine: it is told the time,
//! and answers register accesses with an [`Effect`] that the chipset carries out.
//!
//! As in KVM, no errors are ever recorded in the ESR.

use super::interrupt::{Delivery, Interrupt, Shorthand};
use super::reg;
use super::time::{Now, TimeBase};
use super::timer::Timer;

/// Where an enabled APIC answers after reset.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;
/// Bytes of MMIO space.
pub const MMIO_LEN: u64 = 0x1000;
/// APIC base MSR: this is the boot processor.
pub const BASE_BSP: u64 = 1 << 8;
/// APIC base MSR: x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// APIC base MSR: enabled.
pub const BASE_ENABLE: u64 = 1 << 11;

const LVTS: [u32; 6] = [
    reg::LVT_TIMER,
    reg::LVT_THERMAL,
    reg::LVT_PERF,
    reg::LVT_LINT0,
    reg::LVT_LINT1,
    reg::LVT_ERROR,
];
const LVT_MASKED: u32 = 1 << 16;
const SPIV_ENABLE: u32 = 1 << 8;
const SPIV_NO_BROADCAST: u32 = 1 << 12;
const VERSION_DIRECTED_EOI: u32 = 1 << 24;
/// x2APIC ICR bits that must be zero.
const X2APIC_ICR_RESERVED: u64 = 0xfff0_0000 | 0x3_0000 | 1 << 13;

/// What of the guest's CPUID the APIC depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicFeatures {
    /// CPUID 1 ECX bit 21.
    pub x2apic: bool,
    /// CPUID 1 ECX bit 24.
    pub tsc_deadline: bool,
    /// Physical address bits.
    pub phys_bits: u8,
}

impl Default for ApicFeatures {
    fn default() -> Self {
        Self { x2apic: true, tsc_deadline: true, phys_bits: 48 }
    }
}

/// The access is refused: #GP for an MSR, nothing for MMIO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("local APIC register access refused")]
pub struct Refused;

/// What the machine must do because of a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing outside this APIC.
    None,
    /// Send this IPI.
    Ipi(Interrupt),
    /// An interrupt ended.
    Eoi {
        /// Its vector.
        vector: u8,
        /// It was level-triggered.
        level: bool,
        /// The guest asked not to broadcast the EOI to the IOAPICs.
        directed: bool,
    },
}

/// What an accepted interrupt means for the vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Not taken: the APIC is off, or a de-assert.
    Ignored,
    /// The vector was pending already.
    Coalesced,
    /// A new vector is pending.
    Pending,
    /// An NMI.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI with this vector.
    Sipi(u8),
    /// A remote read: wakes the vCPU, nothing else.
    Kick,
    /// An SMI, which the machine does not model.
    Smi,
}

/// One local APIC.
#[derive(Clone, Debug)]
pub struct Lapic {
    /// KVM's vcpu_id: the x2APIC id.
    id: u32,
    bsp: bool,
    base: u64,
    features: ApicFeatures,
    directed_eoi: bool,
    /// Guest TSC minus machine TSC.
    tsc_offset: u64,
    regs: [u32; 64],
    bus_ns: u64,
    timer: Timer,
}

impl Lapic {
    /// A local APIC after power-up. `directed_eoi` offers EOI broadcast suppression; a cycle of its bus takes `bus_ns`.
    pub fn new(id: u32, bsp: bool, directed_eoi: bool, bus_ns: u64) -> Self {
        let mut apic = Self {
            id,
            bsp,
            base: 0,
            features: ApicFeatures::default(),
            directed_eoi,
            tsc_offset: 0,
            regs: [0; 64],
            bus_ns,
            timer: Timer::new(bus_ns),
        };
        apic.reset();
        apic
    }

    /// Power-up state.
    pub fn reset(&mut self) {
        self.base = DEFAULT_BASE | BASE_ENABLE | if self.bsp { BASE_BSP } else { 0 };
        self.set(reg::ID, self.id << 24);
        self.init();
    }

    /// What INIT does: all but the id and the base register.
    pub fn init(&mut self) {
        for lvt in LVTS {
            self.set(lvt, LVT_MASKED);
        }
        if self.bsp {
            // KVM_X86_QUIRK_LINT0_REENABLED, on by default: the 8259s are wired through.
            self.set(reg::LVT_LINT0, u32::from(Delivery::EXTINT.bits()) << 8);
        }
        self.set_version();
        self.set(reg::DFR, u32::MAX);
        self.set(reg::SPIV, 0xff);
        if self.x2apic() {
            self.set(reg::LDR, x2apic_ldr(self.id));
        } else {
            self.set(reg::LDR, 0);
        }
        for offset in [reg::TPR, reg::ESR, reg::ICR, reg::ICR2, reg::TDCR, reg::TMICT, reg::TMCCT] {
            self.set(offset, 0);
        }
        for i in 0..8 {
            for bank in [reg::ISR, reg::TMR, reg::IRR] {
                self.set(bank + i * 16, 0);
            }
        }
        self.timer = Timer::new(self.bus_ns);
        self.timer.set_divide(0, Now::default());
    }

    fn set_version(&mut self) {
        let directed =
            if self.directed_eoi && self.features.x2apic { VERSION_DIRECTED_EOI } else { 0 };
        self.set(reg::VERSION, 0x14 | (LVTS.len() as u32 - 1) << 16 | directed);
    }

    /// Tells the APIC what CPUID says.
    pub fn set_features(&mut self, features: ApicFeatures) {
        self.features = features;
        self.set_version();
    }

    /// Sets the difference between the guest's and the machine's time stamp counter.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = offset;
    }

    /// Globally enabled.
    pub fn hw_enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    /// Globally and by software enabled.
    pub fn enabled(&self) -> bool {
        self.hw_enabled() && self.sw_enabled()
    }

    /// Enabled by the spurious vector register.
    pub fn sw_enabled(&self) -> bool {
        self.get(reg::SPIV) & SPIV_ENABLE != 0
    }

    /// In x2APIC mode.
    pub fn x2apic(&self) -> bool {
        self.base & (BASE_ENABLE | BASE_X2APIC) == BASE_ENABLE | BASE_X2APIC
    }

    /// APIC base MSR.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Whether the APIC's MMIO page holds `gpa`; returns the offset. KVM keeps answering there when
    /// the APIC is off or in x2APIC mode (KVM_X86_QUIRK_LAPIC_MMIO_HOLE).
    pub fn mmio_offset(&self, gpa: u64) -> Option<u32> {
        let offset = gpa.wrapping_sub(self.base & !0xfff);
        (offset < MMIO_LEN).then_some(offset as u32)
    }

    /// Writes the APIC base MSR. `host` is set for KVM_SET_MSRS and KVM_SET_SREGS, which may make
    /// any transition.
    pub fn set_base(&mut self, value: u64, host: bool) -> Result<(), Refused> {
        check_base(self.base, value, self.features, host)?;
        let old = self.base;
        self.base = value;
        let changed = old ^ value;
        if changed & BASE_ENABLE != 0 && value & BASE_ENABLE != 0 {
            self.set(reg::ID, self.id << 24);
        }
        if changed & (BASE_X2APIC | BASE_ENABLE) != 0 {
            if self.x2apic() {
                self.set(reg::ID, self.id);
                self.set(reg::LDR, x2apic_ldr(self.id));
            } else if value & BASE_ENABLE != 0 && changed & BASE_X2APIC != 0 {
                self.set(reg::ID, self.id << 24);
            }
        }
        Ok(())
    }

    // --- registers -----------------------------------------------------------------------------

    fn get(&self, offset: u32) -> u32 {
        self.regs[(offset >> 4) as usize & 63]
    }

    fn set(&mut self, offset: u32, value: u32) {
        self.regs[(offset >> 4) as usize & 63] = value;
    }

    /// MMIO read at `offset`; accesses within a register's first four bytes are answered.
    pub fn mmio_read(&mut self, offset: u32, len: u8, now: Now) -> u64 {
        if !self.hw_enabled() || self.x2apic() {
            return u64::MAX >> (64 - 8 * u32::from(len.clamp(1, 8)));
        }
        let shift = offset & 0xf;
        if shift + u32::from(len) > 4 {
            return 0;
        }
        let value = self.read(offset & 0xff0, now).unwrap_or(0) >> (8 * shift);
        u64::from(value) & (u64::MAX >> (64 - 8 * u32::from(len.clamp(1, 8))))
    }

    /// MMIO write at `offset`; only aligned 32-bit writes have an effect.
    pub fn mmio_write(&mut self, offset: u32, len: u8, value: u64, now: Now) -> Effect {
        if !self.hw_enabled() || self.x2apic() || len != 4 || offset & 0xf != 0 {
            return Effect::None;
        }
        self.write(offset, value as u32, now).unwrap_or(Effect::None)
    }

    /// RDMSR 0x800..=0x8ff.
    pub fn msr_read(&mut self, index: u32, now: Now) -> Result<u64, Refused> {
        let offset = self.msr_offset(index)?;
        if offset == reg::ICR {
            return Ok(u64::from(self.get(reg::ICR2)) << 32 | u64::from(self.get(reg::ICR)));
        }
        self.read(offset, now).map(u64::from)
    }

    /// WRMSR 0x800..=0x8ff.
    pub fn msr_write(&mut self, index: u32, value: u64, now: Now) -> Result<Effect, Refused> {
        let offset = self.msr_offset(index)?;
        if offset == reg::ICR {
            if value & X2APIC_ICR_RESERVED != 0 {
                return Err(Refused);
            }
            let low = value as u32 & !(1 << 12);
            let high = (value >> 32) as u32;
            self.set(reg::ICR, low);
            self.set(reg::ICR2, high);
            return Ok(Effect::Ipi(Interrupt::from_icr(low, high)));
        }
        if value >> 32 != 0 {
            return Err(Refused);
        }
        self.write(offset, value as u32, now)
    }

    fn msr_offset(&self, index: u32) -> Result<u32, Refused> {
        match index {
            0x800..=0x83f if self.x2apic() => Ok((index - 0x800) << 4),
            _ => Err(Refused),
        }
    }

    fn read(&mut self, offset: u32, now: Now) -> Result<u32, Refused> {
        match offset {
            reg::APR if !self.x2apic() => Ok(0),
            reg::DFR | reg::ICR2 if !self.x2apic() => Ok(self.get(offset)),
            reg::PPR => Ok(u32::from(self.ppr())),
            reg::TMCCT => Ok(self.timer.current(now)),
            reg::ID | reg::VERSION | reg::TPR | reg::LDR | reg::SPIV | reg::ESR | reg::ICR => {
                Ok(self.get(offset))
            }
            reg::ISR..=0x270 => Ok(self.get(offset)),
            reg::LVT_TIMER..=reg::TMICT | reg::TDCR => Ok(self.get(offset)),
            _ => Err(Refused),
        }
    }

    fn write(&mut self, offset: u32, value: u32, now: Now) -> Result<Effect, Refused> {
        match offset {
            reg::ID if !self.x2apic() => self.set(reg::ID, value & 0xff00_0000),
            reg::LDR if !self.x2apic() => self.set(reg::LDR, value & 0xff00_0000),
            reg::DFR if !self.x2apic() => self.set(reg::DFR, value | 0x0fff_ffff),
            reg::ICR2 if !self.x2apic() => self.set(reg::ICR2, value & 0xff00_0000),
            reg::TPR => self.set(reg::TPR, value & 0xff),
            reg::EOI => return Ok(self.end_of_interrupt()),
            reg::SPIV => self.write_spiv(value),
            reg::ICR if !self.x2apic() => {
                let icr = value & !(1 << 12);
                self.set(reg::ICR, icr);
                return Ok(Effect::Ipi(Interrupt::from_icr(icr, self.get(reg::ICR2) >> 24)));
            }
            reg::LVT_TIMER => self.write_lvt_timer(value),
            reg::LVT_THERMAL | reg::LVT_PERF | reg::LVT_LINT0 | reg::LVT_LINT1 | reg::LVT_ERROR => {
                let masked = if self.sw_enabled() { 0 } else { LVT_MASKED };
                self.set(offset, (value | masked) & lvt_mask(offset));
            }
            reg::TMICT => {
                if !self.timer.is_deadline() {
                    self.set(reg::TMICT, value);
                    self.timer.start(value, now);
                }
            }
            reg::TDCR => {
                self.set(reg::TDCR, value & 0xb);
                self.timer.set_divide(value, now);
            }
            reg::ESR => {
                if self.x2apic() && value != 0 {
                    return Err(Refused);
                }
            }
            reg::SELF_IPI if self.x2apic() && value & !0xff == 0 => {
                let mut irq = Interrupt::from_icr(value, self.id);
                irq.shorthand = Shorthand::Myself;
                irq.assert = true;
                return Ok(Effect::Ipi(irq));
            }
            _ => return Err(Refused),
        }
        Ok(Effect::None)
    }

    fn write_spiv(&mut self, value: u32) {
        let mut mask = 0x3ff;
        if self.get(reg::VERSION) & VERSION_DIRECTED_EOI != 0 {
            mask |= SPIV_NO_BROADCAST;
        }
        self.set(reg::SPIV, value & mask);
        if value & SPIV_ENABLE == 0 {
            for lvt in LVTS {
                self.set(lvt, self.get(lvt) | LVT_MASKED);
            }
        }
    }

    // --- priorities and acknowledgement --------------------------------------------------------

    fn highest(&self, bank: u32) -> Option<u8> {
        (0..8u32).rev().find_map(|i| {
            let word = self.get(bank + i * 16);
            (word != 0).then(|| (i * 32 + 31 - word.leading_zeros()) as u8)
        })
    }

    fn bit(&self, bank: u32, vector: u8) -> bool {
        self.get(bank + u32::from(vector >> 5) * 16) & 1 << (vector & 31) != 0
    }

    fn put_bit(&mut self, bank: u32, vector: u8, on: bool) {
        let word = &mut self.regs[(bank >> 4) as usize + usize::from(vector >> 5)];
        let bit = 1u32 << (vector & 31);
        *word = if on { *word | bit } else { *word & !bit };
    }

    fn ppr(&self) -> u8 {
        let tpr = self.get(reg::TPR) as u8;
        let isr = self.highest(reg::ISR).unwrap_or(0);
        if tpr & 0xf0 >= isr & 0xf0 { tpr } else { isr & 0xf0 }
    }

    /// The vector that could be delivered now.
    pub fn pending(&self) -> Option<u8> {
        if !self.enabled() {
            return None;
        }
        self.highest(reg::IRR).filter(|&v| v & 0xf0 > self.ppr() & 0xf0)
    }

    /// Moves the deliverable vector from requested to in service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.put_bit(reg::IRR, vector, false);
        self.put_bit(reg::ISR, vector, true);
        Some(vector)
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.highest(reg::ISR) else { return Effect::None };
        self.put_bit(reg::ISR, vector, false);
        let directed = self.get(reg::SPIV) & SPIV_NO_BROADCAST != 0;
        Effect::Eoi { vector, level: self.bit(reg::TMR, vector), directed }
    }

    /// Task priority as CR8 shows it.
    pub fn cr8(&self) -> u8 {
        self.get(reg::TPR) as u8 >> 4
    }

    /// Writes the task priority through CR8.
    pub fn set_cr8(&mut self, value: u8) {
        self.set(reg::TPR, u32::from(value & 0xf) << 4);
    }

    /// Whether LVT0 passes the 8259s' interrupts on to this processor.
    pub fn accepts_pic(&self) -> bool {
        let lvt = self.get(reg::LVT_LINT0);
        !self.hw_enabled() || (lvt & LVT_MASKED == 0 && lvt >> 8 & 7 == 7)
    }

    /// Whether LVT0 turns timer ticks of the 8254 into NMIs (the old NMI watchdog).
    pub fn lint0_is_nmi(&self) -> bool {
        let lvt = self.get(reg::LVT_LINT0);
        self.hw_enabled() && lvt & LVT_MASKED == 0 && lvt >> 8 & 7 == 4
    }

    // --- messages ------------------------------------------------------------------------------

    /// Whether `irq` is addressed to this APIC. `from_cpu` is the sender of an IPI.
    pub fn matches(&self, irq: &Interrupt, from_cpu: Option<u32>) -> bool {
        match irq.shorthand {
            Shorthand::Myself => return from_cpu == Some(self.id),
            Shorthand::All => return true,
            Shorthand::Others => return from_cpu != Some(self.id),
            Shorthand::None => {}
        }
        let x2 = self.x2apic();
        // An 8-bit broadcast from a device reaches x2APICs too, unless user space disabled that.
        let dest = if from_cpu.is_none() && irq.dest == 0xff && x2 { u32::MAX } else { irq.dest };
        if dest == if x2 { u32::MAX } else { 0xff } {
            return true;
        }
        if !irq.logical {
            return if x2 || dest > 0xff {
                dest == self.id
            } else {
                dest == self.get(reg::ID) >> 24
            };
        }
        let ldr = self.get(reg::LDR);
        if x2 {
            return ldr >> 16 == dest >> 16 && ldr & dest & 0xffff != 0;
        }
        let ldr = ldr >> 24;
        match self.get(reg::DFR) {
            0xffff_ffff => ldr & dest != 0,
            0x0fff_ffff => ldr >> 4 == dest >> 4 && ldr & dest & 0xf != 0,
            _ => false,
        }
    }

    /// Takes a message addressed to this APIC.
    pub fn accept(&mut self, irq: &Interrupt) -> Accepted {
        match irq.delivery {
            Delivery::FIXED | Delivery::LOWEST => {
                if (irq.level && !irq.assert) || !self.enabled() {
                    return Accepted::Ignored;
                }
                let pending = self.bit(reg::IRR, irq.vector);
                self.put_bit(reg::TMR, irq.vector, irq.level);
                self.put_bit(reg::IRR, irq.vector, true);
                if pending { Accepted::Coalesced } else { Accepted::Pending }
            }
            Delivery::NMI => Accepted::Nmi,
            Delivery::INIT if !irq.level || irq.assert => Accepted::Init,
            Delivery::STARTUP => Accepted::Sipi(irq.vector),
            Delivery::REMOTE_READ => Accepted::Kick,
            Delivery::SMI => Accepted::Smi,
            // ExtINT is handled through `accepts_pic`; an INIT de-assert does nothing.
            _ => Accepted::Ignored,
        }
    }

    // --- timer ---------------------------------------------------------------------------------

    fn write_lvt_timer(&mut self, value: u32) {
        let modes = if self.features.tsc_deadline { 3 << 17 } else { 1 << 17 };
        let masked = if self.sw_enabled() { 0 } else { LVT_MASKED };
        let entry = (value | masked) & (lvt_mask(reg::LVT_TIMER) | modes);
        self.set(reg::LVT_TIMER, entry);
        if self.timer.set_mode(entry >> 17) {
            self.set(reg::TMICT, 0);
        }
    }

    /// IA32_TSC_DEADLINE: reads 0 outside deadline mode.
    pub fn tsc_deadline(&self) -> u64 {
        self.timer.deadline()
    }

    /// Writes IA32_TSC_DEADLINE; ignored outside deadline mode.
    pub fn set_tsc_deadline(&mut self, value: u64) {
        if self.hw_enabled() {
            self.timer.set_deadline(value);
        }
    }

    /// When the timer wants to interrupt, in machine TSC cycles. A masked timer wants nothing: its
    /// expiry is accounted when somebody looks.
    pub fn next_event(&self, base: &TimeBase) -> Option<u64> {
        if !self.hw_enabled() || self.get(reg::LVT_TIMER) & LVT_MASKED != 0 {
            return None;
        }
        self.timer.next_event(base, self.tsc_offset)
    }

    /// Lets the timer act up to `now`; returns whether a new interrupt became pending.
    pub fn advance(&mut self, now: Now) -> bool {
        self.timer.expire(now, self.tsc_offset) && self.local(reg::LVT_TIMER)
    }

    /// Delivers a local vector of fixed mode; returns whether it became pending.
    fn local(&mut self, lvt: u32) -> bool {
        let entry = self.get(lvt);
        if !self.hw_enabled() || entry & LVT_MASKED != 0 {
            return false;
        }
        let irq = Interrupt {
            vector: entry as u8,
            delivery: Delivery::FIXED,
            logical: false,
            level: false,
            assert: true,
            dest: self.id,
            shorthand: Shorthand::Myself,
            hint: false,
        };
        self.accept(&irq) == Accepted::Pending
    }

    // --- state image ---------------------------------------------------------------------------

    /// The register page as KVM_GET_LAPIC shows it. `wide` is KVM_X2APIC_API_USE_32BIT_IDS.
    pub fn save(&mut self, wide: bool, now: Now) -> [u8; 1024] {
        let count = self.timer.current(now);
        self.set(reg::TMCCT, count);
        self.set(reg::PPR, u32::from(self.ppr()));
        let mut page = [0; 1024];
        for (slot, value) in page.chunks_exact_mut(16).zip(self.regs) {
            slot[..4].copy_from_slice(&value.to_le_bytes());
        }
        if self.x2apic() && !wide {
            page[0x20..0x24].copy_from_slice(&(self.id << 24).to_le_bytes());
        }
        page
    }

    /// KVM_SET_LAPIC. In x2APIC mode the id must be the vCPU's.
    pub fn restore(&mut self, page: &[u8; 1024], wide: bool, now: Now) -> Result<(), Refused> {
        let mut regs = [0; 64];
        for (value, slot) in regs.iter_mut().zip(page.chunks_exact(16)) {
            *value = u32::from_le_bytes([slot[0], slot[1], slot[2], slot[3]]);
        }
        if self.x2apic() {
            let id = &mut regs[(reg::ID >> 4) as usize];
            if wide && *id != self.id {
                return Err(Refused);
            }
            // It is read-only, whatever an image in the narrow format says.
            *id = self.id;
            regs[(reg::LDR >> 4) as usize] = x2apic_ldr(self.id);
        }
        self.regs = regs;
        self.set_version();
        self.timer = Timer::new(self.bus_ns);
        self.timer.set_mode(self.get(reg::LVT_TIMER) >> 17);
        self.timer.set_divide(self.get(reg::TDCR), now);
        if !self.timer.is_deadline() {
            self.timer.start(self.get(reg::TMICT), now);
            self.timer.resume(self.get(reg::TMCCT), now);
        }
        Ok(())
    }
}

/// Whether the APIC base MSR may go from `old` to `new`.
pub fn check_base(old: u64, new: u64, features: ApicFeatures, host: bool) -> Result<(), Refused> {
    let x2 = if features.x2apic { 0 } else { BASE_X2APIC };
    let reserved = !0u64 << features.phys_bits.clamp(36, 52) | 0x2ff | x2;
    let mode = |v: u64| v & (BASE_ENABLE | BASE_X2APIC);
    if new & reserved != 0 || mode(new) == BASE_X2APIC {
        return Err(Refused);
    }
    let (from, to) = (mode(old), mode(new));
    let both = BASE_ENABLE | BASE_X2APIC;
    if !host && ((from == both && to == BASE_ENABLE) || (from == 0 && to == both)) {
        return Err(Refused);
    }
    Ok(())
}

fn x2apic_ldr(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 0xf)
}

fn lvt_mask(offset: u32) -> u32 {
    let plain = LVT_MASKED | 1 << 12 | 0xff;
    match offset {
        reg::LVT_THERMAL | reg::LVT_PERF => plain | 0x700,
        reg::LVT_LINT0 | reg::LVT_LINT1 => plain | 0x700 | 7 << 13,
        _ => plain,
    }
}

#[cfg(test)]
#[path = "lapic_test.rs"]
mod lapic_test;
