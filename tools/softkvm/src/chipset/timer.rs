//! The timer of a local APIC: one-shot, periodic and TSC-deadline (AMD APM vol. 2, 16.4.1; Linux
//! arch/x86/kvm/lapic.c). It knows when it expires, not whom that interrupts.

use super::time::{MIN_PERIOD_NS, Now, TimeBase};

/// Nanoseconds per cycle of the APIC bus, as KVM has it by default (1 GHz).
pub const BUS_CYCLE_NS: u64 = 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    OneShot,
    Periodic,
    TscDeadline,
}

/// The timer.
#[derive(Clone, Debug)]
pub(super) struct Timer {
    /// Nanoseconds per cycle of the APIC bus (KVM_CAP_X86_APIC_BUS_CYCLES_NS).
    bus_ns: u64,
    mode: Mode,
    /// Initial count, and log2 of its divisor.
    initial: u32,
    divide_shift: u32,
    /// Period in nanoseconds; 0 when stopped.
    period: u64,
    /// When it expires next, in nanoseconds.
    expires: Option<u64>,
    /// IA32_TSC_DEADLINE, in guest TSC; 0 when not armed.
    deadline: u64,
}

impl Timer {
    /// A stopped one.
    pub fn new(bus_ns: u64) -> Self {
        Self {
            bus_ns,
            mode: Mode::OneShot,
            initial: 0,
            divide_shift: 0,
            period: 0,
            expires: None,
            deadline: 0,
        }
    }

    /// In TSC-deadline mode.
    pub fn is_deadline(&self) -> bool {
        self.mode == Mode::TscDeadline
    }

    /// Takes the mode from bits 18:17 of the timer's vector entry. Returns whether that stopped the
    /// timer, as entering and leaving deadline mode does.
    pub fn set_mode(&mut self, bits: u32) -> bool {
        let mode = match bits & 3 {
            1 => Mode::Periodic,
            2 => Mode::TscDeadline,
            // 3 is reserved; like KVM, neither repeat nor follow the TSC.
            _ => Mode::OneShot,
        };
        let stops = (mode == Mode::TscDeadline) != self.is_deadline();
        if stops {
            *self = Self { divide_shift: self.divide_shift, ..Self::new(self.bus_ns) };
        }
        self.mode = mode;
        self.limit_period();
        stops
    }

    /// Takes the divide configuration register.
    pub fn set_divide(&mut self, register: u32, now: Now) {
        let shift = ((register & 3 | register >> 1 & 4) + 1) & 7;
        let left = self.expires.map(|at| u128::from(at.saturating_sub(now.ns)));
        let old = std::mem::replace(&mut self.divide_shift, shift);
        if old == shift {
            return;
        }
        self.set_period();
        self.expires = left.map(|ns| now.ns.saturating_add((ns << shift >> old) as u64));
    }

    fn cycle_ns(&self) -> u64 {
        self.bus_ns << self.divide_shift
    }

    fn set_period(&mut self) {
        self.period = u64::from(self.initial).saturating_mul(self.cycle_ns());
        self.limit_period();
    }

    fn limit_period(&mut self) {
        if self.mode == Mode::Periodic && self.period != 0 {
            self.period = self.period.max(MIN_PERIOD_NS);
        }
    }

    /// Starts counting down from `initial`; 0 stops.
    pub fn start(&mut self, initial: u32, now: Now) {
        self.initial = initial;
        self.set_period();
        self.expires = (self.period != 0).then(|| now.ns.saturating_add(self.period));
    }

    /// Goes on with `current` counts left of the first round, after [`Timer::start`]; 0 means that a
    /// one-shot is over.
    pub fn resume(&mut self, current: u32, now: Now) {
        let left = u64::from(current).saturating_mul(self.cycle_ns()).min(self.period);
        self.expires = match (self.expires, current, self.mode) {
            (Some(full), 0, Mode::Periodic) => Some(full),
            (Some(_), 1.., _) => Some(now.ns.saturating_add(left)),
            _ => None,
        };
    }

    /// The current count.
    pub fn current(&self, now: Now) -> u32 {
        if self.period == 0 {
            return 0;
        }
        let left = self.expires.map_or(0, |at| at.saturating_sub(now.ns));
        let left = if left > self.period { left % self.period } else { left };
        u32::try_from(left / self.cycle_ns()).unwrap_or(u32::MAX)
    }

    /// IA32_TSC_DEADLINE: 0 outside deadline mode.
    pub fn deadline(&self) -> u64 {
        if self.is_deadline() { self.deadline } else { 0 }
    }

    /// Writes IA32_TSC_DEADLINE; ignored outside deadline mode.
    pub fn set_deadline(&mut self, value: u64) {
        if self.is_deadline() {
            self.deadline = value;
        }
    }

    /// When the timer expires, in machine TSC; `offset` is the guest's TSC minus the machine's.
    pub fn next_event(&self, base: &TimeBase, offset: u64) -> Option<u64> {
        if !self.is_deadline() {
            return self.expires.map(|ns| base.tsc_of(ns));
        }
        let offset = i128::from(offset.cast_signed());
        let machine = (i128::from(self.deadline) - offset).clamp(0, u64::MAX.into());
        (self.deadline != 0).then_some(machine as u64)
    }

    /// Lets time pass; returns whether the timer expired (once, however often it did).
    pub fn expire(&mut self, now: Now, offset: u64) -> bool {
        if self.is_deadline() {
            let due = self.deadline != 0 && now.tsc.wrapping_add(offset) >= self.deadline;
            if due {
                self.deadline = 0;
            }
            return due;
        }
        let Some(at) = self.expires.filter(|&at| at <= now.ns) else { return false };
        self.expires = (self.mode == Mode::Periodic).then(|| {
            let periods = (now.ns - at) / self.period + 1;
            at.saturating_add(periods.saturating_mul(self.period))
        });
        true
    }
}
