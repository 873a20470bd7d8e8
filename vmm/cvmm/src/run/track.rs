//! Which phase the guest is in, as far as marks, text and exits tell.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use super::lock;
use crate::phase::Phase;
use crate::recorder::{GuestNs, WallNs};
use crate::sys::stats::AllStats;

/// What gave a phase's beginning away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A mark of the guest.
    Mark,
    /// Text on its console.
    Console,
    /// An exit that kernels make at this stage.
    Exit,
    /// softkvm saw a kernel function run for the first time.
    Symbol,
}

impl Source {
    /// As reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Mark => "mark",
            Source::Console => "console",
            Source::Exit => "exit",
            Source::Symbol => "symbol",
        }
    }
}

/// The beginning of a phase.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// What happened.
    pub name: &'static str,
    /// The phase that begins.
    pub phase: Phase,
    /// How it is known.
    pub source: Source,
    /// When it was noticed, on the host's clock.
    pub wall: WallNs,
    /// On the guest's clock.
    pub guest: Option<GuestNs>,
    /// It happened at most this long before it was noticed.
    pub uncertain: Uncertain,
    /// All exits of all vCPUs so far, by KVM's count.
    pub kvm_exits: Option<u64>,
}

/// How long before it was noticed something may have happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uncertain {
    /// On the host's clock.
    pub wall: WallNs,
    /// On the guest's.
    pub guest: Option<GuestNs>,
}

/// A guest that writes marks without end does not take our memory.
const CUTS_MAX: usize = 1024;

/// The phase now, and how it came to it.
#[derive(Debug)]
pub(super) struct Track {
    now: AtomicU8,
    cuts: Mutex<Vec<Cut>>,
}

impl Track {
    pub fn new() -> Track {
        Track { now: AtomicU8::new(Phase::G0 as u8), cuts: Mutex::new(Vec::with_capacity(32)) }
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        Phase::from_index(self.now.load(Ordering::Relaxed))
    }

    /// A phase begins. Of two vCPUs that say so at once, one is second: time does not run backwards.
    pub fn enter(&self, mut cut: Cut, stats: &AllStats) {
        let mut cuts = lock(&self.cuts);
        if cuts.len() >= CUTS_MAX {
            return;
        }
        if let Some(last) = cuts.last() {
            cut.wall = cut.wall.max(last.wall);
            cut.guest = cut.guest.max(last.guest);
        }
        cut.kvm_exits = stats.exits();
        self.now.store(cut.phase as u8, Ordering::Relaxed);
        cuts.push(cut);
    }

    pub fn take(&self) -> Vec<Cut> {
        std::mem::take(&mut lock(&self.cuts))
    }
}
