//! What a private page holds before anybody has looked.
//!
//! Most of the memory that a guest takes is never touched in a short run. So a page that changes hands is only noted, and
//! gets what it holds on its first use; nobody can tell the difference but by the time and host memory it saves.

use crate::snp::Page;

/// Contents that a page is still to get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owed {
    /// None: the page holds what it holds.
    #[default]
    Nothing,
    /// Noise: what a page of another owner looks like under one's own key.
    Noise,
    /// Zeros.
    Zeros,
}

impl Owed {
    /// Gives a page its contents; the same seed makes the same noise.
    pub fn pay(self, page: &mut Page, seed: u64) {
        match self {
            Owed::Nothing => {}
            Owed::Zeros => page.fill(0),
            Owed::Noise => {
                let (words, _) = page.as_chunks_mut::<8>();
                for (word, at) in words.iter_mut().zip(1u64..) {
                    // A counter through a mixer: every word for itself, so that many are made at once.
                    let mut x = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    *word = (x ^ x >> 27).to_le_bytes();
                }
            }
        }
    }
}
