//! Mutations of byte strings, from a seeded generator.

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform below `end` (which is not zero).
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Values that sit at the edges of integer types and page sizes.
const INTERESTING: [u64; 14] = [
    0,
    1,
    0x7f,
    0xff,
    0x100,
    0xfff,
    0x1000,
    0xffff,
    0x20_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0xffff_ffff_f000,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Changes `input` a little, sometimes by splicing in `other`.
pub fn mutate(random: &mut Random, input: &mut Vec<u8>, other: &[u8], max: usize) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len().max(1));
        match random.below(8) {
            0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            1 if !input.is_empty() => input[at] = random.next() as u8,
            2 if !input.is_empty() => {
                let value = INTERESTING[random.below(INTERESTING.len())].to_le_bytes();
                let len = (1 << random.below(4)).min(input.len() - at);
                input[at..at + len].copy_from_slice(&value[..len]);
            }
            3 if !input.is_empty() => input.truncate(at),
            4 => {
                let count = 1 + random.below(16);
                let bytes: Vec<u8> = (0..count).map(|_| random.next() as u8).collect();
                input.splice(at..at, bytes);
            }
            5 if !other.is_empty() => {
                let from = random.below(other.len());
                let to = from + random.below(other.len() - from) + 1;
                let end = (at + to - from).min(input.len());
                input.splice(at..end.max(at), other[from..to].iter().copied());
            }
            6 if !input.is_empty() => {
                let delta = (1 + random.below(16)) as u8;
                input[at] = input[at].wrapping_add(delta);
            }
            _ => {
                let end = (at + 1 + random.below(32)).min(input.len());
                let copy = input[at.min(end)..end].to_vec();
                input.splice(at..at, copy);
            }
        }
    }
    input.truncate(max);
}
