//! Acceptance: makes RAM private and takes it over, each page exactly once.

use abi::shim::{Flags, LARGE_PAGE, LOAD_END_MAX, LoadMode, PAGE, ParameterPage, Termination};
use abi::shim::{SHIM_BASE, WORK_END};

use crate::paging::WindowView;
use crate::platform::{Platform, Validation};
use crate::range::{self, Range, large_fits};

/// How pages were accepted.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Pages accepted as 4 KiB.
    pub small: u32,
    /// Pages accepted as 2 MiB.
    pub large: u32,
    /// Large pages that the machine holds as small ones.
    pub mismatches: u32,
}

/// Progress of the acceptance.
pub struct Acceptor<'a> {
    params: &'a ParameterPage,
    window: WindowView,
    /// What was accepted since somebody took the counts.
    pub counts: Counts,
}

impl<'a> Acceptor<'a> {
    /// Nothing accepted yet.
    pub fn new<P: Platform>(platform: &P, params: &'a ParameterPage) -> Self {
        let window = WindowView::private(platform.private_mask());
        Self { params, window, counts: Counts::default() }
    }

    /// Accepts every page that is to be accepted and is neither a launch page, nor of the work area, nor staging.
    pub fn accept_ram<P: Platform>(&mut self, platform: &mut P) -> Result<(), Termination> {
        if !platform.protected() {
            return Ok(());
        }
        let params = self.params;
        let change = params.flags & Flags::RAM_PRIVATE.bits() == 0;
        let taken = taken(params);
        for ram in range::ram(params) {
            for extent in range::accepted(params) {
                let mut rest = ram.common(extent);
                while let Some(free) = next_free(&mut rest, &taken) {
                    self.accept(platform, free, change)?;
                }
            }
        }
        Ok(())
    }

    /// Takes the staging ranges back from the host. A kernel that accepts memory itself accepts these pages too.
    pub fn accept_staging<P: Platform>(&mut self, platform: &mut P) -> Result<(), Termination> {
        if !platform.protected() {
            return Ok(());
        }
        let params = self.params;
        for range in range::stagings(params) {
            if !range::is_lazy(params) {
                self.accept(platform, range, true)?;
            } else if !range.is_empty() {
                platform.set_private(range)?;
            }
        }
        Ok(())
    }

    /// Accepts one range, large pages tried first wherever they fit.
    fn accept<P: Platform>(
        &mut self,
        platform: &mut P,
        range: Range,
        change: bool,
    ) -> Result<(), Termination> {
        if range.is_empty() {
            return Ok(());
        }
        if change {
            platform.set_private(range)?;
        }
        let mut rest = range;
        while !rest.is_empty() {
            let mut address = self.address(platform, rest.start)?;
            let mut end = rest.start + PAGE;
            if large_fits(rest) {
                end = rest.start + LARGE_PAGE;
                match platform.validate(address, true) {
                    Validation::SizeMismatch => self.counts.mismatches += 1,
                    other => {
                        outcome(platform, other)?;
                        rest.start = end;
                        self.counts.large += 1;
                        continue;
                    }
                }
            }
            // No large page crosses a window, so the addresses of its parts are consecutive.
            while rest.start < end {
                let validation = platform.validate(address, false);
                outcome(platform, validation)?;
                address += PAGE;
                rest.start += PAGE;
                self.counts.small += 1;
            }
        }
        Ok(())
    }

    /// The address by which the platform accepts a page.
    fn address<P: Platform>(&mut self, platform: &mut P, gpa: u64) -> Result<u64, Termination> {
        if gpa < LOAD_END_MAX || !platform.validates_mapped() {
            return Ok(gpa);
        }
        self.window.show(platform, gpa)
    }
}

/// Anything but a fresh validation ends the guest: a page that was valid already is one that the
/// host put there a second time.
fn outcome<P: Platform>(platform: &P, validation: Validation) -> Result<(), Termination> {
    match validation {
        Validation::Done => Ok(()),
        Validation::Already => Err(Termination::DOUBLE_VALIDATION),
        Validation::SizeMismatch | Validation::Failed => Err(platform.validation_failure()),
    }
}

/// RAM that the first pass leaves alone.
fn taken(params: &ParameterPage) -> [Range; 5] {
    let measured = params.load_mode == LoadMode::MEASURED;
    let own = |blob| {
        if measured { range::destination(blob).pages() } else { range::staging(blob) }
    };
    [
        Range { start: SHIM_BASE, end: WORK_END },
        own(&params.kernel),
        own(&params.initrd),
        own(&params.cmdline),
        range::second_stage(params),
    ]
}

/// Cuts the first part of `rest` that is in no taken range off its front.
fn next_free(rest: &mut Range, taken: &[Range]) -> Option<Range> {
    while let Some(range) = taken.iter().find(|t| t.start <= rest.start && rest.start < t.end) {
        rest.start = range.end;
    }
    if rest.is_empty() {
        return None;
    }
    let end = taken
        .iter()
        .filter(|range| !range.is_empty() && range.start > rest.start)
        .fold(rest.end, |end, range| end.min(range.start));
    let free = Range { start: rest.start, end };
    rest.start = end;
    Some(free)
}
