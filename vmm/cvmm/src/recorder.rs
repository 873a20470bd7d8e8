//! What happened when: events that the ioctl wrappers and the run loop leave behind, in a preallocated buffer.
//!
//! Launch and device code contain no timing statement; phases are derived from these events afterwards (`report`).

use std::sync::OnceLock;
use std::time::Duration;

use crate::phase::Phase;
use crate::sys::clock::monotonic_raw;
use crate::sys::ticks::{Origin, TickClock, TickRate, Ticks};

/// Nanoseconds of the host's CLOCK_MONOTONIC_RAW since the process started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct WallNs(pub u64);

/// Nanoseconds of the guest's clock (KVM_GET_CLOCK). On softkvm this is the modelled time of the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GuestNs(pub u64);

/// The moment the process came up.
#[derive(Clone, Copy, Debug)]
pub struct Started(Origin);

impl Started {
    /// Now, for the first statement of `main`.
    pub fn now() -> Started {
        Started(Origin::now())
    }

    /// How long the process had existed before, as far as the kernel tells (10 ms grain). It takes longer than parsing the
    /// flags, so nobody asks before the guest runs.
    fn before_main(&self) -> Duration {
        let now = Duration::from_nanos(self.elapsed().0);
        process_age().map(|age| age.saturating_sub(now)).unwrap_or_default()
    }

    /// Time since then.
    pub fn elapsed(&self) -> WallNs {
        let elapsed = monotonic_raw().saturating_sub(self.0.raw).as_nanos();
        WallNs(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// Runs `work`, and says when that was.
    pub fn timed<R>(
        &self,
        op: Op,
        tag: &'static str,
        bytes: u64,
        work: impl FnOnce() -> R,
    ) -> (R, Event) {
        let begin = self.elapsed();
        let result = work();
        (result, Event { op, tag, bytes, begin, end: self.elapsed(), guest: None })
    }
}

/// The same clock for who reads it all the time: counted on by the processor's ticks, set anew twice a second.
#[derive(Clone, Copy, Debug)]
pub struct FastClock {
    started: Started,
    clock: TickClock,
    rate: TickRate,
    wall: WallNs,
    ticks: Ticks,
}

impl FastClock {
    /// From `started` on.
    pub fn new(started: Started) -> FastClock {
        let clock = TickClock::since(started.0);
        let (wall, ticks) = (started.elapsed(), clock.now());
        FastClock { started, clock, rate: clock.rate(), wall, ticks }
    }

    /// Now. Never earlier than what it said before.
    #[inline]
    pub fn now(&mut self) -> WallNs {
        const FAR: u64 = 500_000_000;
        let since = self.rate.ns(self.ticks, self.clock.now());
        let now = WallNs(self.wall.0 + since);
        if since < FAR {
            return now;
        }
        *self = FastClock::new(self.started);
        self.wall = self.wall.max(now);
        self.wall
    }
}

/// The age of this process from /proc, in the kernel's clock ticks.
fn process_age() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
    // Field 22 (starttime), counted after the parenthesised command name, in 1/100 s (USER_HZ).
    let ticks: f64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let now: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64((now - ticks / 100.0).max(0.0)).ok()
}

/// Which operation an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Op {
    ReadInputs,
    Plan,
    OpenKvm,
    OpenSev,
    CheckExtension,
    CreateVm,
    EnableCap,
    CreateIrqchip,
    Irqfd,
    MapMemory,
    CreateGuestMemfd,
    SetMemoryRegion,
    SetMemoryAttributes,
    CopyIn,
    Allocate,
    PreFault,
    Discard,
    CountMemory,
    CreateVcpu,
    SetCpuid,
    SetRegs,
    SetMsrs,
    SetMpState,
    SecurityInit,
    EnableCerts,
    LaunchStart,
    LaunchUpdate,
    LaunchFinish,
    OpenStats,
    Hold,
    Teardown,
}

impl Op {
    /// The phase of the boot that this operation belongs to (H0 is added from the process's age).
    pub fn phase(self) -> Phase {
        match self {
            Op::ReadInputs | Op::Plan => Phase::H1,
            Op::OpenKvm
            | Op::OpenSev
            | Op::CheckExtension
            | Op::CreateVm
            | Op::EnableCap
            | Op::CreateIrqchip
            | Op::Irqfd => Phase::H2,
            Op::MapMemory
            | Op::CreateGuestMemfd
            | Op::SetMemoryRegion
            | Op::SetMemoryAttributes
            | Op::CopyIn
            | Op::Allocate
            | Op::PreFault
            | Op::Discard
            | Op::CountMemory => Phase::H3,
            Op::CreateVcpu
            | Op::SetCpuid
            | Op::SetRegs
            | Op::SetMsrs
            | Op::SetMpState
            | Op::OpenStats => Phase::H4,
            Op::SecurityInit | Op::EnableCerts | Op::LaunchStart => Phase::S0,
            Op::LaunchUpdate => Phase::S1,
            Op::LaunchFinish => Phase::S2,
            Op::Hold => Phase::H5,
            Op::Teardown => Phase::T0,
        }
    }
}

/// One thing the monitor did.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// What.
    pub op: Op,
    /// To which part of the guest.
    pub tag: &'static str,
    /// How many bytes it was about; 0 where that has no meaning.
    pub bytes: u64,
    /// When it began.
    pub begin: WallNs,
    /// When it had ended.
    pub end: WallNs,
    /// The guest's clock before and after, where there is one.
    pub guest: Option<(GuestNs, GuestNs)>,
}

/// A value that the guest wrote to the mark port.
#[derive(Clone, Copy, Debug)]
pub struct MarkEvent {
    /// The value.
    pub value: u32,
    /// Which vCPU wrote it.
    pub vcpu: u16,
    /// When, on the host's clock.
    pub wall: WallNs,
    /// When, on the guest's clock.
    pub guest: Option<GuestNs>,
    /// How many exits this vCPU had had.
    pub exits: u64,
}

/// The events of a launch, and the clock they are stamped with.
#[derive(Debug)]
pub struct Recorder {
    started: Started,
    before_main: OnceLock<Duration>,
    events: Vec<Event>,
    beside: Vec<Event>,
    dropped: u64,
    reads_guest_clock: bool,
}

/// Launches leave a few hundred events; what does not fit is counted, never allocated for.
const CAPACITY: usize = 8192;

impl Recorder {
    /// An empty record.
    ///
    /// `reads_guest_clock`: stamp with the guest's clock too, for a host whose time is modelled.
    pub fn new(started: Started, reads_guest_clock: bool) -> Recorder {
        Recorder {
            started,
            before_main: OnceLock::new(),
            events: Vec::with_capacity(CAPACITY),
            beside: Vec::new(),
            dropped: 0,
            reads_guest_clock,
        }
    }

    /// The clock.
    pub fn started(&self) -> Started {
        self.started
    }

    /// Nanoseconds from exec to then: what reports count.
    pub fn since_exec(&self, then: WallNs) -> u64 {
        let before_main = self.before_main.get_or_init(|| self.started.before_main());
        u64::try_from(before_main.as_nanos()).unwrap_or(u64::MAX).saturating_add(then.0)
    }

    /// The time.
    pub fn now(&self) -> WallNs {
        self.started.elapsed()
    }

    /// Runs `work` and leaves one event.
    pub fn record<R>(
        &mut self,
        op: Op,
        tag: &'static str,
        bytes: u64,
        work: impl FnOnce() -> R,
    ) -> R {
        let (result, event) = self.started.timed(op, tag, bytes, work);
        self.push(event);
        result
    }

    /// Like [`Recorder::record`], with `clock` read around the work where the guest's time matters.
    pub fn record_both<R>(
        &mut self,
        op: Op,
        tag: &'static str,
        bytes: u64,
        clock: impl Fn() -> Option<GuestNs>,
        work: impl FnOnce() -> R,
    ) -> R {
        let guest = if self.reads_guest_clock { clock() } else { None };
        let begin = self.now();
        let result = work();
        let end = self.now();
        let guest = guest.and_then(|begin| clock().map(|end| (begin, end)));
        self.push(Event { op, tag, bytes, begin, end, guest });
        result
    }

    /// Is the guest's clock read?
    pub fn reads_guest_clock(&self) -> bool {
        self.reads_guest_clock
    }

    /// Leaves an event that somebody else timed.
    pub fn push(&mut self, event: Event) {
        if self.events.len() < CAPACITY {
            self.events.push(event);
        } else {
            self.dropped += 1;
        }
    }

    /// Leaves an event of another thread, which went on beside the events of this one: work of which there is little.
    pub fn push_beside(&mut self, event: Event) {
        self.beside.push(event);
    }

    /// What other threads did, in the order in which it was waited for.
    pub fn beside(&self) -> &[Event] {
        &self.beside
    }

    /// Everything recorded, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// How many events did not fit.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}
