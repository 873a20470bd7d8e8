//! Acceptance: makes RAM private and takes it over, each page exactly once.

use abi::shim::{Flags, LOAD_END_MAX, LoadMode, ParameterPage, SHIM_BASE, Termination, WORK_END};

use crate::paging::{GIB, WindowView};
use crate::platform::Platform;
use crate::range::{self, Range};

/// How pages were accepted.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    /// Pages accepted as 4 KiB.
    pub small: u32,
    /// Pages accepted as 2 MiB.
    pub large: u32,
    /// Large pages that the machine holds as small ones.
    pub mismatches: u32,
    /// Units of 2 MiB, or parts of one, that other processors accepted.
    pub helped: u32,
}

/// Progress of the acceptance.
pub struct Acceptor<'a> {
    params: &'a ParameterPage,
    window: WindowView,
}

impl<'a> Acceptor<'a> {
    /// Nothing accepted yet.
    pub fn new<P: Platform>(platform: &P, params: &'a ParameterPage) -> Self {
        let window = WindowView::private(platform.private_mask());
        Self { params, window }
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

    /// Accepts one range, large pages tried first wherever they fit, with the help of other processors where the platform
    /// has them.
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
            // No more than the window shows.
            let part = Range { start: rest.start, end: rest.end.min((rest.start | (GIB - 1)) + 1) };
            let address = self.address(platform, part.start)?;
            platform.round().begin(part, address.wrapping_sub(part.start));
            if let Some(gate) = platform.gate() {
                gate.open();
            }
            platform.work()?;
            if let Some(gate) = platform.gate() {
                gate.close();
            }
            rest.start = part.end;
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
