//! What KVM's halt polling would have done with a vCPU's sleeps (Linux 7.2 virt/kvm/kvm_main.c `kvm_vcpu_halt`).
//!
//! A sleep lasts from HLT to the turn that ends it, in the VM's time. Polling changes nothing about that: a wake-up is
//! modelled at one cost, whether the host had kept the processor or not, and what polling burns is nobody's time here. What
//! it decides, and what it says of itself, is KVM's algorithm on those lengths, each vCPU having a host processor of its own.
//! A signal in the middle does not cut a sleep in two, for when it comes is the host's chance.

/// Module parameter `halt_poll_ns` of x86.
pub const DEFAULT_LIMIT_NS: u32 = 200_000;
/// Module parameter `halt_poll_ns_grow_start`.
const START_NS: u32 = 10_000;
/// Module parameters `halt_poll_ns_grow` and `halt_poll_ns_shrink`.
const FACTOR: u32 = 2;

/// Buckets of a histogram (HALT_POLL_HIST_COUNT).
pub const BUCKETS: usize = 32;

/// A logarithmic histogram: 0, then by the number's bits; the last one has all that is longer.
pub type Histogram = [u64; BUCKETS];

/// The sleeps of a vCPU.
#[derive(Clone, Debug, Default)]
pub struct Halts {
    /// When the present one began, in nanoseconds.
    since: Option<u64>,
    /// How long KVM polls next time.
    window: u32,
    /// Sleeps that began with polling.
    pub attempted: u64,
    /// Sleeps that ended while it polled.
    pub successful: u64,
    /// Sleeps that did not.
    pub waits: u64,
    /// Time polled with success.
    pub success_ns: u64,
    /// Time polled in vain.
    pub fail_ns: u64,
    /// Time asleep after that.
    pub wait_ns: u64,
    /// Of the times polled with success.
    pub success: Histogram,
    /// Of those polled in vain.
    pub fail: Histogram,
    /// Of those asleep.
    pub wait: Histogram,
}

impl Halts {
    /// HLT.
    pub fn begin(&mut self, now_ns: u64) {
        self.since = Some(now_ns);
    }

    /// Whether it sleeps.
    pub fn asleep(&self) -> bool {
        self.since.is_some()
    }

    /// The vCPU goes on, if it has slept. KVM polls `limit` at most; `allowed` is what the guest says of it.
    pub fn end(&mut self, now_ns: u64, limit: u32, allowed: bool) {
        let Some(since) = self.since.take() else { return };
        let slept = now_ns.saturating_sub(since);
        if slept == 0 {
            // What it waited for was there before KVM looked.
            return;
        }
        self.window = self.window.min(limit);
        let polls = allowed && self.window != 0;
        let polled = if polls { slept.min(self.window.into()) } else { 0 };
        let waited = slept > polled;
        if waited {
            self.waits += 1;
            self.wait_ns += slept - polled;
            add(&mut self.wait, slept - polled);
        }
        if polls {
            self.attempted += 1;
            let (sum, histogram) = match waited {
                false => (&mut self.success_ns, &mut self.success),
                true => (&mut self.fail_ns, &mut self.fail),
            };
            *sum += polled;
            add(histogram, polled);
            self.successful += u64::from(!waited);
        }
        if allowed {
            self.adapt(slept, limit);
        }
    }

    /// How long to poll next time.
    fn adapt(&mut self, slept: u64, limit: u32) {
        let window = self.window;
        if limit == 0 {
            self.window = 0;
        } else if slept <= window.into() {
        } else if window != 0 && slept > limit.into() {
            let less = window / FACTOR;
            self.window = if less < START_NS { 0 } else { less };
        } else if window < limit && slept < limit.into() {
            self.window = window.saturating_mul(FACTOR).max(START_NS);
        }
    }
}

/// KVM_STATS_LOG_HIST_UPDATE.
fn add(histogram: &mut Histogram, value: u64) {
    let bits = (u64::BITS - value.leading_zeros()) as usize;
    histogram[bits.min(BUCKETS - 1)] += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sleeps in a row, each from now on.
    fn slept(lengths: &[u64]) -> Halts {
        let mut halts = Halts::default();
        for length in lengths {
            halts.begin(1000);
            halts.end(1000 + length, DEFAULT_LIMIT_NS, true);
        }
        halts
    }

    #[test]
    fn the_window_grows_until_a_sleep_fits_into_it() {
        // Windows: none, 10 us, 20 us, 40 us.
        let halts = slept(&[30_000; 4]);
        assert_eq!((halts.attempted, halts.successful, halts.waits), (3, 1, 3));
        assert_eq!((halts.success_ns, halts.fail_ns), (30_000, 30_000));
        assert_eq!(halts.wait_ns, 30_000 + 20_000 + 10_000);
        assert_eq!((halts.success[15], halts.fail[14], halts.fail[15]), (1, 1, 1));
    }

    #[test]
    fn a_long_sleep_ends_the_polling() {
        let mut halts = slept(&[30_000, 5_000_000]);
        assert_eq!((halts.attempted, halts.successful), (1, 0));
        halts.begin(0);
        halts.end(5_000, DEFAULT_LIMIT_NS, true);
        assert_eq!((halts.attempted, halts.waits), (1, 3), "half of 10 us is less than the least");
    }

    #[test]
    fn neither_the_host_nor_the_guest_need_want_it() {
        for (limit, allowed) in [(0, true), (DEFAULT_LIMIT_NS, false)] {
            let mut halts = Halts::default();
            for _ in 0..5 {
                halts.begin(0);
                halts.end(100, limit, allowed);
            }
            assert_eq!((halts.attempted, halts.waits, halts.wait_ns), (0, 5, 500));
        }
    }
}
