//! [`Platform`] on the processor, with and without SNP.

use abi::marks::{MARK_PORT, Mark};
use abi::shim::{GHCB_GPA, LARGE_PAGE, PAGE, PAGE_TABLES_GPA, Termination};
use shim::gate::Gate;
use shim::paging::{self, PageTables};
use shim::platform::object_mut;
use shim::range::Range;
use shim::round::Round;
use shim::{Platform, Validation};

use crate::{ghcb, instructions, processor};

static ROUND: Round = Round::new();

/// The processor the shim runs on.
pub struct Hardware {
    protected: bool,
    sha: bool,
    marks: bool,
    /// Pages must be touched after validation.
    evict: bool,
    c_mask: u64,
}

impl Hardware {
    /// Describes the processor; touches nothing.
    pub const fn new(protected: bool, sha: bool, marks: bool, evict: bool, c_mask: u64) -> Self {
        Self { protected, sha, marks, evict, c_mask }
    }

    /// Makes the GHCB page shared, clears and registers it.
    pub fn share_ghcb(&mut self) -> Result<(), Termination> {
        validated(instructions::pvalidate(GHCB_GPA, false, false))?;
        ghcb::share()?;
        self.map_ghcb(0)?;
        self.clear(GHCB_GPA, PAGE);
        ghcb::register()
    }

    /// Takes the GHCB page back and wipes it. From here on only the MSR protocol speaks.
    pub fn unshare_ghcb(&mut self) -> Result<(), Termination> {
        ghcb::unshare()?;
        self.map_ghcb(self.c_mask)?;
        validated(self.validate(GHCB_GPA, false))?;
        self.clear(GHCB_GPA, PAGE);
        Ok(())
    }

    fn validate(&mut self, address: u64, large: bool) -> Validation {
        let outcome = instructions::pvalidate(address, large, true);
        if self.evict && outcome == Validation::Done {
            instructions::evict(address, if large { LARGE_PAGE } else { PAGE });
        }
        outcome
    }

    fn map_ghcb(&mut self, c_mask: u64) -> Result<(), Termination> {
        let tables: &mut PageTables = object_mut(self, PAGE_TABLES_GPA)?;
        paging::set_page(tables, GHCB_GPA, c_mask);
        self.flush();
        Ok(())
    }
}

/// The GHCB page changes state exactly when asked to.
fn validated(outcome: Validation) -> Result<(), Termination> {
    match outcome {
        Validation::Done => Ok(()),
        Validation::Already => Err(Termination::DOUBLE_VALIDATION),
        Validation::SizeMismatch | Validation::Failed => Err(Termination::PVALIDATE),
    }
}

impl Platform for Hardware {
    fn protected(&self) -> bool {
        self.protected
    }

    fn private_mask(&self) -> u64 {
        self.c_mask
    }

    fn shared_mask(&self) -> u64 {
        0
    }

    fn validates_mapped(&self) -> bool {
        true
    }

    fn has_cc_blob(&self) -> bool {
        self.protected
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
        processor::load_cr3(PAGE_TABLES_GPA | self.c_mask);
    }

    fn set_private(&mut self, range: Range) -> Result<(), Termination> {
        ghcb::set_private(range)
    }

    fn round(&self) -> &Round {
        &ROUND
    }

    fn work(&mut self) -> Result<(), Termination> {
        ROUND.work(Termination::PVALIDATE, false, |address, large| self.validate(address, large))
    }

    fn gate(&self) -> Option<&Gate> {
        None
    }

    fn mark(&mut self, mark: Mark) -> Result<(), Termination> {
        if !self.marks {
            return Ok(());
        }
        if self.protected {
            return ghcb::out32(MARK_PORT, mark.0);
        }
        instructions::out32(MARK_PORT, mark.0);
        Ok(())
    }
}
