//! Which pages of a guest are private at this moment: KVM takes such attributes and does not give them back.

use std::collections::BTreeMap;

use crate::plan::layout::Range;
use crate::sys::vm::Visibility;

/// Private ranges by first address, with their ends: disjoint, and never touching one another. There are at most as many
/// as the guest has pages.
#[derive(Clone, Debug, Default)]
pub(super) struct Ownership {
    private: BTreeMap<u64, u64>,
}

impl Ownership {
    /// What a launch leaves.
    pub fn new(private: &[Range]) -> Ownership {
        let mut ownership = Ownership::default();
        for range in private {
            ownership.set(range.gpa, range.len, Visibility::Private);
        }
        ownership
    }

    /// Is no byte of `[gpa, gpa + len)` private?
    pub fn is_shared(&self, gpa: u64, len: u64) -> bool {
        let before = self.private.range(..gpa.saturating_add(len)).next_back();
        before.is_none_or(|(_, end)| *end <= gpa)
    }

    /// Makes `[gpa, gpa + len)` private or shared.
    pub fn set(&mut self, gpa: u64, len: u64, visibility: Visibility) {
        let (mut begin, mut end) = (gpa, gpa.saturating_add(len));
        // Whatever overlaps or touches is taken out, and what of it lies outside is put back or joined.
        let touched: Vec<(u64, u64)> = self
            .private
            .range(..=end)
            .rev()
            .take_while(|(_, e)| **e >= begin)
            .map(|(b, e)| (*b, *e))
            .collect();
        for (b, e) in touched {
            self.private.remove(&b);
            match visibility {
                Visibility::Private => (begin, end) = (begin.min(b), end.max(e)),
                Visibility::Shared => {
                    if b < begin {
                        self.private.insert(b, begin);
                    }
                    if e > end {
                        self.private.insert(end, e);
                    }
                }
            }
        }
        if visibility == Visibility::Private && begin < end {
            self.private.insert(begin, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hole_in_the_middle_is_shared() {
        let mut pages = Ownership::new(&[Range { gpa: 0, len: 100 }, Range { gpa: 100, len: 100 }]);
        assert_eq!(pages.private.len(), 1);
        pages.set(40, 20, Visibility::Shared);
        assert!(pages.is_shared(40, 20));
        assert!(!pages.is_shared(39, 2) && !pages.is_shared(59, 2) && !pages.is_shared(0, 200));
        assert!(pages.is_shared(200, 50));
        pages.set(40, 20, Visibility::Private);
        assert_eq!(pages.private.len(), 1);
    }

    proptest! {
        #[test]
        fn it_says_what_a_table_of_pages_says(
            changes in proptest::collection::vec((0u64..40, 1u64..12, any::<bool>()), 0..40),
            asked in 0u64..50,
            len in 1u64..12,
        ) {
            let mut pages = Ownership::default();
            let mut table = [false; 64];
            for (gpa, len, private) in changes {
                let visibility = if private { Visibility::Private } else { Visibility::Shared };
                pages.set(gpa, len, visibility);
                table[gpa as usize..(gpa + len) as usize].fill(private);
            }
            let shared = table[asked as usize..(asked + len) as usize].iter().all(|p| !p);
            prop_assert_eq!(pages.is_shared(asked, len), shared);
            for (a, b) in pages.private.iter().zip(pages.private.iter().skip(1)) {
                prop_assert!(a.1 < b.0, "ranges touch");
            }
        }
    }
}
