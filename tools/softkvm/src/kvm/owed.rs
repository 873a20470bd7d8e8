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

/// A page of noise, that of every other page but for a key: making each anew would take as long as all else about it.
static NOISE: [u64; 512] = {
    let mut words = [0; 512];
    let mut at = 0;
    while at < words.len() {
        words[at] = mix(at as u64);
        at += 1;
    }
    words
};

/// Sebastiano Vigna's splitmix64.
const fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

impl Owed {
    /// Gives a page its contents; the same seed makes the same noise.
    pub fn pay(self, page: &mut Page, seed: u64) {
        match self {
            Owed::Nothing => {}
            Owed::Zeros => page.fill(0),
            Owed::Noise => {
                let key = mix(seed);
                for (word, noise) in page.as_chunks_mut::<8>().0.iter_mut().zip(NOISE) {
                    *word = (noise ^ key).to_le_bytes();
                }
            }
        }
    }
}
