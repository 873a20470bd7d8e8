//! [`Platform`] on the processor, in a TD.

use abi::marks::{MARK_PORT, Mark};
use abi::shim::tdx::GATE_GPA;
use abi::shim::{PAGE_TABLES_GPA, Termination};
use shim::Platform;
use shim::gate::Gate;
use shim::range::Range;
use shim::round::Round;
use shim::tdx::{accept, map_gpa};

use crate::{exit, processor, tdcall};

/// What is being accepted.
pub static ROUND: Round = Round::new();

/// What another processor does that was let in, on a stack of its own.
pub extern "C" fn help() {
    if let Err(reason) = work(true) {
        exit::terminate(reason);
    }
}

#[inline(never)]
fn work(helper: bool) -> Result<(), Termination> {
    ROUND.work(Termination::PAGE_ACCEPT, helper, |gpa, large| {
        accept::accept(gpa, large, tdcall::page_accept)
    })
}

/// The processor the shim runs on.
pub struct Hardware {
    sha: bool,
    marks: bool,
    parallel: bool,
    shared_mask: u64,
}

impl Hardware {
    /// Describes the processor; touches nothing.
    pub const fn new(sha: bool, marks: bool, parallel: bool, shared_mask: u64) -> Self {
        Self { sha, marks, parallel, shared_mask }
    }
}

impl Platform for Hardware {
    fn protected(&self) -> bool {
        true
    }

    fn private_mask(&self) -> u64 {
        0
    }

    fn shared_mask(&self) -> u64 {
        self.shared_mask
    }

    fn validates_mapped(&self) -> bool {
        false
    }

    fn has_cc_blob(&self) -> bool {
        false
    }

    fn has_sha(&self) -> bool {
        self.sha
    }

    fn bytes(&self, gpa: u64, len: u64) -> &[u8] {
        processor::bytes(gpa, len)
    }

    fn bytes_mut(&mut self, gpa: u64, len: u64) -> &mut [u8] {
        processor::bytes_mut(gpa, len)
    }

    fn copy(&mut self, dest: u64, source: u64, len: u64) {
        processor::copy(dest, source, len);
    }

    fn clear(&mut self, gpa: u64, len: u64) {
        processor::clear(gpa, len);
    }

    fn flush(&mut self) {
        processor::load_cr3(PAGE_TABLES_GPA);
    }

    fn set_private(&mut self, range: Range) -> Result<(), Termination> {
        map_gpa::set_private(range, tdcall::map_gpa)
    }

    fn round(&self) -> &Round {
        &ROUND
    }

    fn work(&mut self) -> Result<(), Termination> {
        work(false)
    }

    fn gate(&self) -> Option<&Gate> {
        self.parallel.then(|| processor::launch_page(GATE_GPA))
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Termination> {
        if self.marks { tdcall::out32(MARK_PORT, mark.0) } else { Ok(()) }
    }
}
