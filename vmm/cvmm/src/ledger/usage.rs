//! Host memory that the two halves of a guest's memory take up: looked at from time to time by the supervising thread, never
//! by a vCPU's.

use crate::launch::GuestMemory;
use crate::recorder::{Started, WallNs};
use crate::sys::resident;
pub use crate::sys::resident::Source;

/// Bytes of one half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// How they were counted.
    pub source: Source,
    /// Just before the guest ran: what the launch has populated.
    pub begin: u64,
    /// The most that was seen.
    pub peak: u64,
    /// After the guest had stopped.
    pub end: u64,
}

impl Gauge {
    fn see(gauge: &mut Option<Gauge>, seen: Option<(u64, Source)>) {
        let Some((bytes, source)) = seen else { return };
        let gauge = gauge.get_or_insert(Gauge { source, begin: bytes, peak: 0, end: 0 });
        gauge.peak = gauge.peak.max(bytes);
        gauge.end = bytes;
    }
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The half that the host can see; nothing if the kernel does not tell.
    pub shared: Option<Gauge>,
    /// The other half; nothing of a guest that has none, too.
    pub private: Option<Gauge>,
    /// How often it was looked.
    pub samples: u64,
    /// The longest time between two looks.
    pub interval: WallNs,
    /// Time spent looking.
    pub spent: WallNs,
}

/// Looks at most this often.
const INTERVAL_NS: u64 = 20_000_000;
/// The kernel counts pages one by one. So that large guests do not have a processor counting all the time, a look that
/// took long is followed by a pause this many times as long.
const PAUSE: u64 = 100;

/// Looks.
#[derive(Debug)]
pub struct Meter {
    started: Started,
    usage: Usage,
    last: Option<WallNs>,
    due: WallNs,
}

impl Meter {
    /// Nothing seen yet.
    pub fn new(started: Started) -> Meter {
        Meter { started, usage: Usage::default(), last: None, due: WallNs(0) }
    }

    /// Looks if it is time to.
    pub fn tick(&mut self, memory: &GuestMemory) {
        if self.started.elapsed() >= self.due {
            self.look(memory);
        }
    }

    /// Looks for the first time: the launch has touched what it has written, and nobody anything else.
    pub fn look_at_launch(&mut self, memory: &GuestMemory) {
        self.see(memory, |memory| memory.ram.resident_around(&memory.written));
    }

    /// Looks.
    fn look(&mut self, memory: &GuestMemory) {
        self.see(memory, |memory| memory.ram.resident());
    }

    fn see(
        &mut self,
        memory: &GuestMemory,
        shared: impl Fn(&GuestMemory) -> Option<(u64, Source)>,
    ) {
        let begin = self.started.elapsed();
        Gauge::see(&mut self.usage.shared, shared(memory));
        if !memory.private.is_empty() {
            Gauge::see(&mut self.usage.private, resident::of_files(&memory.private));
        }
        let end = self.started.elapsed();
        let spent = end.0 - begin.0;
        self.usage.samples += 1;
        self.usage.spent.0 += spent;
        if let Some(last) = self.last.replace(begin) {
            self.usage.interval = self.usage.interval.max(WallNs(begin.0 - last.0));
        }
        self.due = WallNs(end.0 + INTERVAL_NS.max(spent.saturating_mul(PAUSE)));
    }

    /// What was seen, the last time now.
    pub fn finish(mut self, memory: &GuestMemory) -> Usage {
        self.look(memory);
        self.usage
    }
}
