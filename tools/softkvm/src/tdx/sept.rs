//! The secure EPT: the state of every private page of a TD.
//!
//! Leaves are 4 KiB: KVM of Linux 7.2 maps nothing larger. What remains of larger pages is that TDG.MEM.PAGE.ACCEPT of
//! 2 MiB finds a table in its way, which is why it is remembered where tables exist; they live as long as the TD.

use std::collections::HashMap;

use abi::tdx::leaf::level;
use abi::tdx::{TdxStatus, operand};

/// Entries of a table.
const ENTRIES: usize = 512;

/// State of a leaf entry (ABI specification, "SEPT Entry States"; numbers as reported to the host).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum PageState {
    /// Nothing there.
    #[default]
    Free = 0,
    /// Mapped, but the host has blocked new translations.
    Blocked = 1,
    /// Given by the host, not yet accepted by the guest.
    Pending = 2,
    /// [`Self::Pending`], and blocked.
    PendingBlocked = 3,
    /// The guest's own.
    Mapped = 4,
}

/// What TDG.MEM.PAGE.ACCEPT finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// The page was pending, has been cleared and is the guest's now.
    Accepted,
    /// The status to return: nothing has changed.
    Status(TdxStatus),
    /// The host must map something first: a TD exit.
    EptViolation,
}

#[derive(Clone, Copy, Debug, Default)]
struct Leaf {
    state: PageState,
    /// The TD's epoch in which the entry was blocked.
    blocked_in: u64,
}

/// The secure EPT of one TD.
#[derive(Clone, Debug, Default)]
pub struct Sept {
    tables: HashMap<u64, Box<[Leaf; ENTRIES]>>,
    /// TD_EPOCH: translations made in an earlier one are gone from every processor.
    epoch: u64,
}

impl Sept {
    /// The state of a page.
    pub fn state(&self, gfn: u64) -> PageState {
        self.leaf(gfn).map_or(PageState::Free, |leaf| leaf.state)
    }

    /// Whether the page's 2 MiB range has a table of 4 KiB entries.
    pub fn has_table(&self, gfn: u64) -> bool {
        self.tables.contains_key(&(gfn >> 9))
    }

    /// Tables of 4 KiB entries.
    pub fn tables(&self) -> usize {
        self.tables.len()
    }

    /// Pages of the TD: every entry that is not free.
    pub fn pages(&self) -> usize {
        self.tables
            .values()
            .flat_map(|table| table.iter())
            .filter(|leaf| leaf.state != PageState::Free)
            .count()
    }

    /// TDH.MEM.SEPT.ADD of the table that holds the page's entry. `false` if it was there.
    pub fn add_table(&mut self, gfn: u64) -> bool {
        let mut new = false;
        self.tables.entry(gfn >> 9).or_insert_with(|| {
            new = true;
            Box::new([Leaf::default(); ENTRIES])
        });
        new
    }

    /// TDH.MEM.PAGE.ADD: the page is mapped at once.
    pub(super) fn add(&mut self, gfn: u64) -> Result<(), TdxStatus> {
        self.fill(gfn, PageState::Mapped)
    }

    /// TDH.MEM.PAGE.AUG: the page waits for the guest.
    pub(super) fn aug(&mut self, gfn: u64) -> Result<(), TdxStatus> {
        self.fill(gfn, PageState::Pending)
    }

    fn fill(&mut self, gfn: u64, state: PageState) -> Result<(), TdxStatus> {
        let leaf = self.leaf_mut(gfn).ok_or(TdxStatus::EPT_WALK_FAILED.with(operand::RCX))?;
        if leaf.state != PageState::Free {
            return Err(TdxStatus::EPT_ENTRY_STATE_INCORRECT.with(operand::RCX));
        }
        leaf.state = state;
        Ok(())
    }

    /// TDG.MEM.PAGE.ACCEPT, of a page whose address and [`level`] have been checked.
    pub(super) fn accept(&mut self, gfn: u64, size: u64) -> Accept {
        if size == level::LARGE {
            // A table stands where the 2 MiB entry would be, or nothing does.
            return if self.has_table(gfn) {
                Accept::Status(TdxStatus::PAGE_SIZE_MISMATCH.with(1))
            } else {
                Accept::EptViolation
            };
        }
        let Some(leaf) = self.leaf_mut(gfn) else { return Accept::EptViolation };
        match leaf.state {
            PageState::Pending => {
                leaf.state = PageState::Mapped;
                Accept::Accepted
            }
            PageState::Mapped => Accept::Status(TdxStatus::PAGE_ALREADY_ACCEPTED),
            PageState::Free | PageState::Blocked | PageState::PendingBlocked => {
                Accept::EptViolation
            }
        }
    }

    /// TDH.MEM.RANGE.BLOCK of one page.
    pub(super) fn block(&mut self, gfn: u64) -> Result<(), TdxStatus> {
        let epoch = self.epoch;
        let leaf = self.leaf_mut(gfn).ok_or(TdxStatus::EPT_WALK_FAILED.with(operand::RCX))?;
        leaf.state = match leaf.state {
            PageState::Mapped => PageState::Blocked,
            PageState::Pending => PageState::PendingBlocked,
            PageState::Free => {
                return Err(TdxStatus::EPT_ENTRY_STATE_INCORRECT.with(operand::RCX));
            }
            PageState::Blocked | PageState::PendingBlocked => {
                return Err(TdxStatus::GPA_RANGE_ALREADY_BLOCKED.with(operand::RCX));
            }
        };
        leaf.blocked_in = epoch;
        Ok(())
    }

    /// TDH.MEM.TRACK, every processor having left the TD since.
    pub(super) fn track(&mut self) {
        self.epoch += 1;
    }

    /// TDH.MEM.PAGE.REMOVE: the page is the host's, its contents are lost.
    ///
    /// `running` asks for a block and a track before: while a TD is built, no processor knows its translations.
    pub(super) fn remove(&mut self, gfn: u64, running: bool) -> Result<(), TdxStatus> {
        let epoch = self.epoch;
        let leaf = self.leaf_mut(gfn).ok_or(TdxStatus::EPT_WALK_FAILED.with(operand::RCX))?;
        if leaf.state == PageState::Free {
            return Err(TdxStatus::EPT_ENTRY_STATE_INCORRECT.with(operand::RCX));
        }
        if running && !matches!(leaf.state, PageState::Blocked | PageState::PendingBlocked) {
            return Err(TdxStatus::GPA_RANGE_NOT_BLOCKED.with(operand::RCX));
        }
        if running && leaf.blocked_in >= epoch {
            return Err(TdxStatus::TLB_TRACKING_NOT_DONE.with(operand::RCX));
        }
        leaf.state = PageState::Free;
        Ok(())
    }

    fn leaf(&self, gfn: u64) -> Option<&Leaf> {
        self.tables.get(&(gfn >> 9)).map(|table| &table[index(gfn)])
    }

    fn leaf_mut(&mut self, gfn: u64) -> Option<&mut Leaf> {
        self.tables.get_mut(&(gfn >> 9)).map(|table| &mut table[index(gfn)])
    }
}

/// The page's entry in its table.
fn index(gfn: u64) -> usize {
    gfn as usize % ENTRIES
}
