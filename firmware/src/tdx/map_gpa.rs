//! TDVMCALL MapGPA (GHCI for Intel TDX 1.5, 3.2): takes pages back from the host, which may answer
//! anything.

use abi::shim::{PAGE, Termination};
use abi::tdx::vmcall::Status;

use crate::range::Range;

/// How often in a row the host may ask to try again and have done nothing. Linux 7.2 allows as many
/// (arch/x86/coco/tdx/tdx.c `tdx_map_gpa`).
pub const STALLED_MAX: u32 = 3;

/// The host's answer: R10 and R11.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// R10.
    pub status: Status,
    /// R11: with [`Status::RETRY`], where to go on.
    pub next: u64,
}

/// Makes pages private. `call` asks the host to do so with a range.
pub fn set_private(range: Range, mut call: impl FnMut(Range) -> Answer) -> Result<(), Termination> {
    let mut rest = range;
    let mut stalled = 0;
    while !rest.is_empty() {
        let left = remainder(rest, call(rest))?;
        stalled = if left.start == rest.start { stalled + 1 } else { 0 };
        if stalled == STALLED_MAX {
            return Err(Termination::MAP_GPA);
        }
        rest = left;
    }
    Ok(())
}

/// What an answer leaves of the range asked for: all of it, a part up to its end, or nothing.
///
/// That a page became private need not be believed: only acceptance makes it the guest's.
pub fn remainder(asked: Range, answer: Answer) -> Result<Range, Termination> {
    match answer.status {
        Status::SUCCESS => Ok(Range { start: asked.end, end: asked.end }),
        Status::RETRY
            if answer.next.is_multiple_of(PAGE)
                && (asked.start..asked.end).contains(&answer.next) =>
        {
            Ok(Range { start: answer.next, end: asked.end })
        }
        _ => Err(Termination::MAP_GPA),
    }
}
