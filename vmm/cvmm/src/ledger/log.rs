//! What changed, one entry for neighbours that changed together. Bounded: a guest that flips pages without end takes none of
//! our memory; what does not fit is counted.

use super::{By, PageState, Stamp};
use crate::plan::layout::Range;
use crate::recorder::WallNs;

/// A range that went from one state to another.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Where.
    pub range: Range,
    /// What it was.
    pub from: PageState,
    /// What it is.
    pub to: PageState,
    /// Who saw to it.
    pub by: By,
    /// When the first of it changed.
    pub first: Stamp,
    /// When the last of it did.
    pub last: WallNs,
    /// The same by the clock that tells changes apart.
    last_clock: u64,
    /// How many changes this is, one after another at neighbouring addresses.
    pub steps: u64,
}

/// Longer apart than this, changes are told apart.
const TOGETHER_NS: u64 = 1_000_000;
/// Most entries. A boot of Linux makes a few dozen.
const ENTRIES_MAX: usize = 1024;

impl Change {
    pub(super) fn new(range: Range, from: PageState, to: PageState, by: By, at: Stamp) -> Change {
        Change { range, from, to, by, first: at, last: at.wall, last_clock: at.clock(), steps: 1 }
    }

    /// Is `next` this change going on?
    fn goes_on_with(&self, next: &Change) -> bool {
        let touches = self.range.end() == next.range.gpa || next.range.end() == self.range.gpa;
        let alike = (self.from, self.to, self.by, self.first.phase)
            == (next.from, next.to, next.by, next.first.phase);
        touches && alike && next.last_clock.saturating_sub(self.last_clock) <= TOGETHER_NS
    }
}

/// The changes.
#[derive(Debug, Default)]
pub struct ChangeLog {
    entries: Vec<Change>,
    dropped: u64,
    dropped_bytes: u64,
}

impl ChangeLog {
    pub(super) fn push(&mut self, change: Change) {
        // Once something is missing between them, nothing goes on.
        if let Some(last) = self.entries.last_mut()
            && self.dropped == 0
            && last.goes_on_with(&change)
        {
            last.range.gpa = last.range.gpa.min(change.range.gpa);
            last.range.len += change.range.len;
            last.last = change.last;
            last.last_clock = change.last_clock;
            last.steps += 1;
        } else if self.entries.len() < ENTRIES_MAX {
            self.entries.push(change);
        } else {
            self.dropped += 1;
            self.dropped_bytes += change.range.len;
        }
    }

    /// What fitted: the earliest.
    pub fn entries(&self) -> &[Change] {
        &self.entries
    }

    /// How many changes did not fit.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many bytes they were about.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }
}
