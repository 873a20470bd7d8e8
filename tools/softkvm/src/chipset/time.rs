//! The chipset's view of virtual time: TSC cycles as the machine counts them, and nanoseconds
//! derived from them. Nothing here reads a clock.

/// One moment of virtual time, in both units the chips need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Cycles of the VM's time stamp counter.
    pub tsc: u64,
    /// Nanoseconds since the machine was made.
    pub ns: u64,
}

/// Rate of the VM's time stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeBase {
    tsc_khz: u32,
}

impl TimeBase {
    #[cfg(test)]
    pub(super) const GHZ: Self = Self { tsc_khz: 1_000_000 };

    /// A counter of `tsc_khz` kHz; zero is taken as 1.
    pub fn new(tsc_khz: u32) -> Self {
        Self { tsc_khz: tsc_khz.max(1) }
    }

    /// Rate in kHz.
    pub fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }

    /// The moment at which the counter shows `tsc` (nanoseconds rounded down).
    pub fn at(&self, tsc: u64) -> Now {
        let ns = u128::from(tsc) * 1_000_000 / u128::from(self.tsc_khz);
        Now { tsc, ns: u64::try_from(ns).unwrap_or(u64::MAX) }
    }

    /// The first counter value at which `ns` nanoseconds have passed (rounded up, so that
    /// `at(tsc_of(ns)).ns >= ns`).
    pub fn tsc_of(&self, ns: u64) -> u64 {
        let tsc = (u128::from(ns) * u128::from(self.tsc_khz)).div_ceil(1_000_000);
        u64::try_from(tsc).unwrap_or(u64::MAX)
    }
}

/// KVM's lower limit for the period of a periodic timer (`kvm.min_timer_period_us`, default 200).
pub(super) const MIN_PERIOD_NS: u64 = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_early_and_at_most_one_cycle_late() {
        for khz in [1u32, 999_999, 1_000_000, 2_450_000, 3_999_999] {
            let base = TimeBase::new(khz);
            for ns in [0u64, 1, 2, 3, 999, 1_000_000, 123_456_789, 86_400_000_000_000] {
                let tsc = base.tsc_of(ns);
                assert!(base.at(tsc).ns >= ns, "{khz} kHz, {ns} ns");
                assert!(tsc == 0 || base.at(tsc - 1).ns < ns, "{khz} kHz, {ns} ns");
            }
        }
    }
}
