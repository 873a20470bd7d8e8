//! What the shim accepts, and which of its marks says so (`abi::shim`, "What the shim accepts").

use abi::boot::E820Type;
use abi::marks::{Mark, MarkId};
use abi::shim::{LARGE_PAGE, PAGE, SECRETS_GPA, SHIM_BASE, WORK_END};

use crate::plan::layout::Range;
use crate::plan::{Plan, Technology};

/// How a shim has accepted memory, by its own word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepting {
    /// Pages accepted in all, 4 KiB each.
    pub pages: u64,
    /// RAM, in the pass over most of it.
    pub ram: Option<AcceptedPages>,
}

/// Pages by the size they were accepted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcceptedPages {
    /// 4 KiB.
    pub small: u64,
    /// 2 MiB.
    pub large: u64,
    /// Large ones that the machine held as small ones; they are among `small` then, as 512 each.
    pub mismatches: u64,
}

/// What a shim is expected to accept. Each mark counts once: who comes after the shim can write it as well.
#[derive(Debug)]
pub(super) struct ShimAcceptance {
    /// Nothing for a guest without shim, or without protection.
    accepting: Option<Accepting>,
    steps: Vec<(MarkId, Vec<Range>)>,
}

impl ShimAcceptance {
    pub fn of(plan: &Plan) -> ShimAcceptance {
        if plan.technology == Technology::Plain || plan.firmware.is_some() {
            return ShimAcceptance { accepting: None, steps: Vec::new() };
        }
        let reserved = Range { gpa: SHIM_BASE, len: WORK_END - SHIM_BASE };
        // Where a guest has no secrets page, its shim works from there on; where it has one, that is a launch page.
        let work = Range { gpa: SECRETS_GPA, len: WORK_END - SECRETS_GPA };
        let staging = plan.layout.staging;
        let map = plan.layout.e820();
        let ram = map.iter().filter(|entry| entry.kind == E820Type::RAM);
        let ram = ram.map(|entry| Range { gpa: entry.addr, len: entry.size });
        let ram = ram.flat_map(|range| without(range, reserved));
        let ram = ram.flat_map(|range| without(range, staging)).collect();
        ShimAcceptance {
            accepting: Some(Accepting::default()),
            steps: vec![
                (MarkId::SHIM_ENTRY, vec![work]),
                (MarkId::ACCEPT_END, ram),
                (MarkId::ACCEPT_MISMATCHES, Vec::new()),
                (MarkId::STAGING_RECLAIMED, vec![staging]),
            ],
        }
    }

    /// What has been accepted if the shim is to be believed, the first time that it says so.
    pub fn take(&mut self, mark: MarkId) -> Option<Vec<Range>> {
        let step = self.steps.iter().position(|(id, _)| *id == mark)?;
        Some(self.steps.remove(step).1)
    }

    /// Notes how many pages the first mark of its kind was about, and what it says of their size.
    pub fn note(&mut self, mark: Mark, pages: u64) {
        let Some(accepting) = &mut self.accepting else { return };
        accepting.pages += pages;
        let number = u64::from(mark.number());
        match mark.id() {
            MarkId::ACCEPT_END => {
                accepting.ram = small_pages(pages, number).map(|small| AcceptedPages {
                    small,
                    large: (pages - small) * PAGE / LARGE_PAGE,
                    mismatches: 0,
                });
            }
            MarkId::ACCEPT_MISMATCHES => {
                if let Some(ram) = &mut accepting.ram {
                    ram.mismatches = number;
                }
            }
            _ => {}
        }
    }

    pub fn accepting(&self) -> Option<Accepting> {
        self.accepting
    }
}

/// How many of `pages` were accepted as small ones, of which the shim says how often 512, rounded up: the rest are large
/// ones, so that the remainder by 512 is known.
fn small_pages(pages: u64, units: u64) -> Option<u64> {
    const LARGE: u64 = LARGE_PAGE / PAGE;
    let small = match (pages % LARGE, units.checked_sub(1)) {
        (0, _) => units * LARGE,
        (_, None) => return None,
        (rest, Some(whole)) => whole * LARGE + rest,
    };
    (small <= pages).then_some(small)
}

/// What of a range is not in another one.
fn without(range: Range, hole: Range) -> impl Iterator<Item = Range> {
    let before = Range { gpa: range.gpa, len: hole.gpa.min(range.end()).saturating_sub(range.gpa) };
    let begin = hole.end().max(range.gpa);
    let after = Range { gpa: begin, len: range.end().saturating_sub(begin) };
    let parts =
        if range.overlaps(hole) { [Some(before), Some(after)] } else { [Some(range), None] };
    parts.into_iter().flatten().filter(|part| part.len > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_pages_is_told_from_their_number_and_what_the_shim_rounds() {
        // 3 large pages and 700 small ones.
        assert_eq!(small_pages(3 * 512 + 700, 2), Some(700));
        assert_eq!(small_pages(3 * 512, 3), Some(3 * 512));
        assert_eq!(small_pages(3 * 512, 0), Some(0));
        // No number of small pages makes these.
        assert_eq!(small_pages(3 * 512 + 1, 0), None);
        assert_eq!(small_pages(3 * 512, 4), None);
        assert_eq!(small_pages(0, 0xff_ffff), None);
    }

    #[test]
    fn a_hole_leaves_what_is_before_and_after_it() {
        let parts = |hole: (u64, u64)| -> Vec<(u64, u64)> {
            let hole = Range { gpa: hole.0, len: hole.1 };
            without(Range { gpa: 10, len: 10 }, hole).map(|r| (r.gpa, r.len)).collect()
        };
        assert_eq!(parts((12, 3)), [(10, 2), (15, 5)]);
        assert_eq!(parts((5, 10)), [(15, 5)]);
        assert_eq!(parts((15, 10)), [(10, 5)]);
        assert_eq!(parts((0, 40)), []);
        assert_eq!(parts((20, 5)), [(10, 10)]);
        assert_eq!(parts((0, 0)), [(10, 10)]);
    }
}
