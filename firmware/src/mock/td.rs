//! The TDX module and the host, as far as a TD that accepts memory meets them.

use std::collections::BTreeSet;

use abi::shim::{LARGE_PAGE, PAGE};
use abi::tdx::vmcall::Status;
use abi::tdx::{TdxStatus, leaf, operand};

use crate::range::Range;
use crate::tdx::map_gpa::Answer;

/// What it answers for a page, and how often.
pub struct Fault {
    pub gpa: u64,
    pub status: TdxStatus,
    pub times: u32,
}

/// Module and host.
pub struct Td {
    /// Pages (addresses) that are the host's.
    shared: BTreeSet<u64>,
    /// Bytes after which the host asks to go on.
    pub chunk: u64,
    /// A host that lies.
    pub host: Option<fn(Range) -> Answer>,
    /// A module that is busy, or worse.
    pub fault: Option<Fault>,
    /// Calls of the host.
    pub calls: usize,
}

impl Default for Td {
    fn default() -> Self {
        Self { shared: BTreeSet::new(), chunk: u64::MAX, host: None, fault: None, calls: 0 }
    }
}

impl Td {
    /// Gives pages to the host.
    pub fn share(&mut self, range: Range) {
        self.shared.extend((range.start..range.end).step_by(PAGE as usize));
    }

    /// Whether a page is the host's.
    pub fn is_shared(&self, page: u64) -> bool {
        self.shared.contains(&page)
    }

    /// MapGPA as Linux 7.2 answers it: in part, and where to go on.
    pub fn map_gpa(&mut self, asked: Range) -> Answer {
        self.calls += 1;
        assert_eq!(asked.pages(), asked, "a range of whole pages");
        if let Some(host) = self.host {
            return host(asked);
        }
        let end = asked.end.min(asked.start.saturating_add(self.chunk));
        self.shared.retain(|page| !(asked.start..end).contains(page));
        let status = if end == asked.end { Status::SUCCESS } else { Status::RETRY };
        Answer { status, next: end }
    }

    /// TDG.MEM.PAGE.ACCEPT: RCX and RAX.
    pub fn page_accept(
        &mut self,
        rcx: u64,
        small_pages: bool,
        accepted: &mut BTreeSet<u64>,
    ) -> TdxStatus {
        let (gpa, level) = (rcx & !(PAGE - 1), rcx & (PAGE - 1));
        let size = if level == leaf::level::LARGE { LARGE_PAGE } else { PAGE };
        if level > leaf::level::LARGE || gpa % size != 0 {
            return TdxStatus::OPERAND_INVALID.with(operand::RCX);
        }
        if let Some(fault) = &mut self.fault
            && fault.gpa == gpa
            && fault.times != 0
        {
            fault.times -= 1;
            return fault.status;
        }
        if size == LARGE_PAGE && small_pages {
            return TdxStatus::PAGE_SIZE_MISMATCH.with(1);
        }
        let mut fresh = true;
        for page in (gpa..gpa + size).step_by(PAGE as usize) {
            assert!(!self.is_shared(page), "{page:#x} is the host's: the guest would not go on");
            fresh &= accepted.insert(page);
        }
        if fresh { TdxStatus::SUCCESS } else { TdxStatus::PAGE_ALREADY_ACCEPTED }
    }
}
