//! What the shim accepts, and which of its marks says so (`abi::shim`, "What the shim accepts").

use abi::boot::E820Type;
use abi::marks::{Mark, MarkId};
use abi::shim::{CPUID_GPA, LARGE_PAGE, PAGE, SECRETS_GPA, SHIM_BASE, SHIM_CODE_GPA, WORK_END};

use crate::plan::layout::Range;
use crate::plan::{Plan, Technology};

/// How a shim has accepted memory, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepting {
    /// Pages accepted in all, 4 KiB each.
    pub pages: u64,
    /// By size, if what the shim has said so far adds up to them.
    pub sizes: Option<AcceptedPages>,
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
    /// A guest without shim, or without protection, has none of either.
    expected: bool,
    steps: Vec<(MarkId, Vec<Range>)>,
    pages: u64,
    told: AcceptedPages,
    /// There were more small pages than a mark can tell.
    many: bool,
}

impl ShimAcceptance {
    pub fn of(plan: &Plan) -> ShimAcceptance {
        let expected = plan.technology != Technology::Plain && plan.firmware.is_none();
        ShimAcceptance {
            expected,
            steps: if expected { steps(plan) } else { Vec::new() },
            pages: 0,
            told: AcceptedPages::default(),
            many: false,
        }
    }

    /// What has been accepted if the shim is to be believed, the first time that it says so.
    pub fn take(&mut self, mark: MarkId) -> Option<Vec<Range>> {
        let step = self.steps.iter().position(|(id, _)| *id == mark)?;
        Some(self.steps.remove(step).1)
    }

    /// Notes how many pages a mark was about, and what it says of their size.
    pub fn note(&mut self, mark: Mark, pages: u64) {
        self.pages += pages;
        let number = u64::from(mark.number());
        match mark.id() {
            // The shim's first instructions know no large pages.
            MarkId::SHIM_ENTRY => self.told.small += pages,
            MarkId::ACCEPT_SMALL => {
                self.many = mark.number() == Mark::NUMBER_MAX;
                self.told.small += number;
            }
            MarkId::STAGING_RECLAIMED => self.told.small += number,
            MarkId::ACCEPT_LARGE | MarkId::STAGING_LARGE => self.told.large += number,
            MarkId::ACCEPT_MISMATCHES | MarkId::STAGING_MISMATCHES => {
                self.told.mismatches += number;
            }
            _ => {}
        }
    }

    pub fn accepting(&self) -> Option<Accepting> {
        let large = self.told.large * (LARGE_PAGE / PAGE);
        let small = match self.many {
            true => self.pages.checked_sub(large),
            false => (self.told.small + large == self.pages).then_some(self.told.small),
        };
        let sizes = small.map(|small| AcceptedPages { small, ..self.told });
        self.expected.then_some(Accepting { pages: self.pages, sizes })
    }
}

/// The marks that tell of acceptance, and of which pages.
fn steps(plan: &Plan) -> Vec<(MarkId, Vec<Range>)> {
    let reserved = Range { gpa: SHIM_BASE, len: WORK_END - SHIM_BASE };
    // Where a guest has no secrets page, its shim works from there on; where it has one, that is a launch page.
    let work = Range { gpa: SECRETS_GPA, len: WORK_END - SECRETS_GPA };
    let mut first = vec![work];
    if !plan.hashed.is_empty() {
        first.push(Range { gpa: SHIM_CODE_GPA, len: CPUID_GPA - SHIM_CODE_GPA });
    }
    let staging = plan.layout.staging;
    let map = plan.layout.e820();
    let ram = map.iter().filter(|entry| entry.kind == E820Type::RAM);
    let ram = ram.map(|entry| Range { gpa: entry.addr, len: entry.size });
    let ram = ram.flat_map(|range| without(range, reserved));
    let ram = ram.flat_map(|range| without(range, staging));
    // A kernel that accepts memory itself accepts staging too.
    let accepted = &plan.layout.accepted;
    let (ram, staging) = match accepted.is_empty() {
        true => (ram.collect(), vec![staging]),
        false => (ram.flat_map(|ram| ram.common(accepted)).collect(), Vec::new()),
    };
    vec![
        (MarkId::SHIM_ENTRY, first),
        (MarkId::ACCEPT_END, ram),
        (MarkId::ACCEPT_MISMATCHES, Vec::new()),
        (MarkId::ACCEPT_SMALL, Vec::new()),
        (MarkId::ACCEPT_LARGE, Vec::new()),
        (MarkId::STAGING_RECLAIMED, staging),
        (MarkId::STAGING_LARGE, Vec::new()),
        (MarkId::STAGING_MISMATCHES, Vec::new()),
    ]
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
