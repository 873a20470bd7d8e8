//! The page ledger: whose every page of guest memory is, since when, and who saw to it.
//!
//! It knows what the monitor can know: what the launch did, what the guest asked for, and what the shim says it has
//! accepted. A guest may lie in all it says; the ledger then says what the guest said, and stays consistent and small.

mod log;
mod pages;
mod series;
mod shim;
mod usage;

use abi::marks::Mark;
use abi::shim::PAGE;

use crate::phase::{PHASES, Phase};
use crate::plan::layout::Range;
use crate::plan::{PageKind, Plan};
use crate::recorder::{Event, GuestNs, Op, WallNs};
use crate::sys::vm::Visibility;
pub use log::{Change, ChangeLog};
use pages::{Owned, Pages};
pub use pages::{PageState, STATES};
pub use series::{Point, Series};
use shim::ShimAcceptance;
pub use shim::{AcceptedPages, Accepting};
pub use usage::{Gauge, Meter, Source, Usage};

/// Who changed a page's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The monitor, before the guest ran.
    Launch,
    /// The shim, by its own word.
    Shim,
    /// The guest, by asking.
    Guest,
    /// The guest, by touching: only one that starts in a firmware.
    Touch,
}

impl By {
    /// As reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            By::Launch => "launch",
            By::Shim => "shim",
            By::Guest => "guest",
            By::Touch => "touch",
        }
    }
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// On the host's clock.
    pub wall: WallNs,
    /// On the guest's clock.
    pub guest: Option<GuestNs>,
    /// In which phase.
    pub phase: Phase,
}

impl Stamp {
    /// The clock by which things are taken together: the guest's where it is read, so that equal runs leave equal ledgers.
    fn clock(self) -> u64 {
        self.guest.map_or(self.wall.0, |guest| guest.0)
    }
}

/// Pages that changed, all ever or in one phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Launch pages whose contents are in the digest.
    pub measured: u64,
    /// Other launch pages.
    pub added: u64,
    /// Accepted, as the shim says.
    pub accepted: u64,
    /// Given to the guest.
    pub to_private: u64,
    /// Given to the host.
    pub to_shared: u64,
    /// Of these two, by being touched.
    pub touched: u64,
    /// Asked for by who had them, or no memory at all.
    pub unchanged: u64,
    /// Time that the monitor spent on what the guest asked for.
    pub wall_ns: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.measured += other.measured;
        self.added += other.added;
        self.accepted += other.accepted;
        self.to_private += other.to_private;
        self.to_shared += other.to_shared;
        self.touched += other.touched;
        self.unchanged += other.unchanged;
        self.wall_ns += other.wall_ns;
    }
}

/// The ledger of one guest.
#[derive(Debug)]
pub struct Ledger {
    pages: Pages,
    shim: ShimAcceptance,
    log: ChangeLog,
    series: Series,
    counts: [Counts; PHASES],
    last: Stamp,
}

impl Ledger {
    /// Of memory that nobody has been given yet: all of it is shared.
    pub fn new(plan: &Plan, begin: Stamp) -> Ledger {
        let pages = Pages::new(&plan.slots);
        let series = Series::new(begin, *pages.bytes());
        Ledger {
            pages,
            shim: ShimAcceptance::of(plan),
            log: ChangeLog::default(),
            series,
            counts: [Counts::default(); PHASES],
            last: begin,
        }
    }

    /// What a launch by this plan, which left these events, has made of memory.
    pub fn of_launch(plan: &Plan, events: &[Event]) -> Ledger {
        let stamp = |event: &Event| Stamp {
            wall: event.end,
            guest: event.guest.map(|(_, end)| end),
            phase: event.op.phase(),
        };
        let begin = events.iter().find(|event| event.op == Op::MapMemory).map(stamp);
        let begin =
            begin.unwrap_or(Stamp { wall: WallNs(0), guest: None, phase: Op::MapMemory.phase() });
        let mut ledger = Ledger::new(plan, begin);
        if plan.private.is_empty() {
            return ledger;
        }
        // One event for each range, in their order. The recorder may have run out of room.
        let stamps = |op| events.iter().filter(move |event| event.op == op).map(stamp);
        let last = events.last().map_or(begin, stamp);
        let attributes = stamps(Op::SetMemoryAttributes).chain(std::iter::repeat(last));
        let updates = stamps(Op::LaunchUpdate).chain(std::iter::repeat(last));
        for (range, at) in plan.private.iter().zip(attributes) {
            ledger.launch(*range, PageState::Unaccepted, at);
        }
        for (region, at) in plan.regions.iter().zip(updates) {
            let state = match region.kind {
                PageKind::Measured => PageState::Measured,
                PageKind::Cpuid | PageKind::Secrets | PageKind::Zero | PageKind::Unmeasured => {
                    PageState::Added
                }
            };
            let range = Range { gpa: region.gpa, len: region.bytes.len() as u64 };
            ledger.launch(range, state, at);
        }
        ledger
    }

    fn launch(&mut self, range: Range, state: PageState, at: Stamp) {
        let pages = self.apply(range, By::Launch, at, |page| page.launched(state)).pages;
        let counts = &mut self.counts[at.phase as usize];
        match state {
            PageState::Measured => counts.measured += pages,
            PageState::Added => counts.added += pages,
            _ => {}
        }
    }

    /// The guest asked for a range to be private or shared, or touched it, and so it is now.
    pub fn convert(&mut self, range: Range, visibility: Visibility, by: By, at: Stamp) {
        let moved = self.apply(range, by, at, |page| page.converted(visibility)).moved;
        let counts = &mut self.counts[at.phase as usize];
        match visibility {
            Visibility::Private => counts.to_private += moved,
            Visibility::Shared => counts.to_shared += moved,
        }
        if by == By::Touch {
            counts.touched += moved;
        }
        counts.unchanged = counts.unchanged.saturating_add(range.len / PAGE - moved);
    }

    /// The monitor spent so much time on a request.
    pub fn spent(&mut self, phase: Phase, wall_ns: u64) {
        self.counts[phase as usize].wall_ns += wall_ns;
    }

    /// The guest wrote a mark: of the shim's, some say what it has accepted.
    pub fn mark(&mut self, mark: Mark, at: Stamp) {
        let Some(ranges) = self.shim.take(mark.id()) else { return };
        let mut pages = 0;
        for range in ranges {
            pages += self.apply(range, By::Shim, at, Owned::accepted).pages;
        }
        self.counts[at.phase as usize].accepted += pages;
        self.shim.note(mark, pages);
    }

    /// Is no byte of `[gpa, gpa + len)` private?
    pub fn is_shared(&self, gpa: u64, len: u64) -> bool {
        self.pages.all(gpa, len, |state| !state.is_private())
    }

    /// Changes a range and tells log and series.
    fn apply(
        &mut self,
        range: Range,
        by: By,
        at: Stamp,
        change: impl Fn(Owned) -> Owned,
    ) -> Changed {
        // Two vCPUs may come here in another order than they left the guest.
        let at = Stamp {
            wall: at.wall.max(self.last.wall),
            guest: at.guest.map(|guest| guest.max(self.last.guest.unwrap_or_default())),
            ..at
        };
        let mut changed = Changed::default();
        self.pages.update(range, change, |range, from, to| {
            let pages = range.len / PAGE;
            if from.is_private() != to.is_private() {
                changed.moved += pages;
            }
            if from != to {
                changed.pages += pages;
                self.log.push(Change::new(range, from, to, by, at));
            }
        });
        if changed.pages > 0 {
            self.series.push(at, *self.pages.bytes());
            self.last = Stamp { guest: at.guest.or(self.last.guest), ..at };
        }
        changed
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> u64 {
        self.pages.bytes().iter().sum()
    }

    /// Bytes by state now, in the order of [`PageState::ALL`].
    pub fn bytes(&self) -> &[u64; STATES] {
        self.pages.bytes()
    }

    /// The state of the page at an address; nothing if that is no memory.
    pub fn state(&self, gpa: u64) -> Option<PageState> {
        self.pages.state(gpa)
    }

    /// Bytes of pages that have changed owner more than once while the guest ran.
    pub fn flip_flop_bytes(&self) -> u64 {
        self.pages.flip_flop_bytes()
    }

    /// What changed in a phase.
    pub fn counts(&self, phase: Phase) -> Counts {
        self.counts[phase as usize]
    }

    /// What changed in all.
    pub fn totals(&self) -> Counts {
        let mut sum = Counts::default();
        self.counts.iter().for_each(|counts| sum += *counts);
        sum
    }

    /// Changes, the earliest first.
    pub fn log(&self) -> &ChangeLog {
        &self.log
    }

    /// Bytes by state over time.
    pub fn series(&self) -> &Series {
        &self.series
    }

    /// How the shim has accepted memory; nothing of a guest without one.
    pub fn accepting(&self) -> Option<Accepting> {
        self.shim.accepting()
    }
}

/// What became of a range.
#[derive(Clone, Copy, Debug, Default)]
struct Changed {
    /// Pages in another state.
    pages: u64,
    /// Pages of another owner.
    moved: u64,
}

#[cfg(test)]
#[path = "ledger_test.rs"]
mod tests;
