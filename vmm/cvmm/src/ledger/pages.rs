//! The state of every page: ranges of equal ones, which cover memory without gap or overlap.

use std::collections::BTreeMap;

use crate::plan::layout::Range;
use crate::sys::vm::Visibility;

/// What a page is. Each has exactly one state at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum PageState {
    /// The host's and the guest's from the start.
    Shared,
    /// Private, and nobody is known to have accepted it.
    Unaccepted,
    /// A launch page whose contents are in the launch digest.
    Measured,
    /// Another launch page.
    Added,
    /// Accepted by the shim.
    Accepted,
    /// The guest asked for it and accepts it itself, which nobody outside sees.
    Converted,
    /// Given to the host by the guest.
    SharedBack,
}

/// How many states there are.
pub const STATES: usize = PageState::ALL.len();

impl PageState {
    /// Every state.
    pub const ALL: [PageState; 7] = [
        PageState::Shared,
        PageState::Unaccepted,
        PageState::Measured,
        PageState::Added,
        PageState::Accepted,
        PageState::Converted,
        PageState::SharedBack,
    ];

    /// As reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            PageState::Shared => "shared",
            PageState::Unaccepted => "unaccepted",
            PageState::Measured => "measured",
            PageState::Added => "added",
            PageState::Accepted => "accepted",
            PageState::Converted => "converted",
            PageState::SharedBack => "shared_back",
        }
    }

    /// Can the host not read it?
    pub fn is_private(self) -> bool {
        !matches!(self, PageState::Shared | PageState::SharedBack)
    }
}

/// A page's state, and how often its owner has changed since the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub state: PageState,
    moves: Moves,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moves {
    None,
    One,
    More,
}

impl Owned {
    const FRESH: Owned = Owned { state: PageState::Shared, moves: Moves::None };

    /// After a step of the launch, which is no change of owner.
    pub fn launched(self, state: PageState) -> Owned {
        Owned { state, ..self }
    }

    /// After a conversion.
    pub fn converted(self, visibility: Visibility) -> Owned {
        let state = match (visibility, self.state) {
            (Visibility::Shared, state) if state.is_private() => PageState::SharedBack,
            (Visibility::Private, PageState::Unaccepted) => PageState::Converted,
            (Visibility::Private, state) if !state.is_private() => PageState::Converted,
            (_, state) => state,
        };
        let moves = match self.moves {
            moves if state.is_private() == self.state.is_private() => moves,
            Moves::None => Moves::One,
            Moves::One | Moves::More => Moves::More,
        };
        Owned { state, moves }
    }

    /// After the shim said that it has accepted the page. What is shared, nobody can accept.
    pub fn accepted(self) -> Owned {
        match self.state {
            PageState::Unaccepted | PageState::Converted => {
                Owned { state: PageState::Accepted, ..self }
            }
            _ => self,
        }
    }
}

/// Equal pages.
#[derive(Clone, Copy, Debug)]
struct Piece {
    end: u64,
    page: Owned,
}

/// The pages of a guest. Pieces by first address: disjoint, and no two that touch are equal, so there are at most as many as
/// there are pages, whatever a guest does.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    pieces: BTreeMap<u64, Piece>,
    bytes: [u64; STATES],
}

impl Pages {
    /// Memory that is all shared.
    pub fn new(slots: &[Range]) -> Pages {
        let mut pages = Pages { pieces: BTreeMap::new(), bytes: [0; STATES] };
        for slot in slots {
            pages.pieces.insert(slot.gpa, Piece { end: slot.end(), page: Owned::FRESH });
            pages.bytes[PageState::Shared as usize] += slot.len;
        }
        if let (Some(first), Some(last)) = (slots.first(), slots.last()) {
            pages.join(first.gpa, last.end());
        }
        pages
    }

    /// Bytes by state, in the order of [`PageState::ALL`].
    pub fn bytes(&self) -> &[u64; STATES] {
        &self.bytes
    }

    /// The state of the page at an address.
    pub fn state(&self, gpa: u64) -> Option<PageState> {
        let (_, piece) = self.pieces.range(..=gpa).next_back()?;
        (gpa < piece.end).then_some(piece.page.state)
    }

    /// Is this true of all memory in `[gpa, gpa + len)`?
    pub fn all(&self, gpa: u64, len: u64, is: impl Fn(PageState) -> bool) -> bool {
        let end = gpa.saturating_add(len);
        let inside = self.pieces.range(..end).rev().take_while(|(_, piece)| piece.end > gpa);
        inside.into_iter().all(|(_, piece)| is(piece.page.state))
    }

    /// Bytes of pages that have changed owner more than once.
    pub fn flip_flop_bytes(&self) -> u64 {
        let flipped = self.pieces.iter().filter(|(_, piece)| piece.page.moves == Moves::More);
        flipped.map(|(begin, piece)| piece.end - begin).sum()
    }

    /// Changes what of a range is memory, and shows every part of it that is not as before.
    pub fn update(
        &mut self,
        range: Range,
        change: impl Fn(Owned) -> Owned,
        mut seen: impl FnMut(Range, PageState, PageState),
    ) {
        let (begin, end) = (range.gpa, range.gpa.saturating_add(range.len));
        self.split(begin);
        self.split(end);
        for (gpa, piece) in self.pieces.range_mut(begin..end) {
            let from = piece.page;
            piece.page = change(from);
            if piece.page != from {
                let len = piece.end - gpa;
                self.bytes[from.state as usize] -= len;
                self.bytes[piece.page.state as usize] += len;
                seen(Range { gpa: *gpa, len }, from.state, piece.page.state);
            }
        }
        self.join(begin, end);
    }

    /// Makes an address inside a piece the beginning of one.
    fn split(&mut self, at: u64) {
        let Some((_, piece)) = self.pieces.range_mut(..at).next_back() else { return };
        if piece.end > at {
            let rest = Piece { ..*piece };
            piece.end = at;
            self.pieces.insert(at, rest);
        }
    }

    /// Makes one of equal pieces that touch in `[begin, end]` or at its ends.
    fn join(&mut self, begin: u64, end: u64) {
        let mut at = self.pieces.range(..begin).next_back().map_or(begin, |(gpa, _)| *gpa);
        loop {
            let mut two = self.pieces.range_mut(at..=end);
            let (Some((_, left)), Some((next, right))) = (two.next(), two.next()) else { return };
            at = *next;
            if left.end == at && left.page == right.page {
                left.end = right.end;
                self.pieces.remove(&at);
                at = self.pieces.range(..at).next_back().map_or(begin, |(gpa, _)| *gpa);
            }
        }
    }

    /// How many pieces there are.
    #[cfg(test)]
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }
}
