//! SHA-256 (FIPS 180-4): portable, and with the processor's SHA instructions.
//!
//! Written here rather than taken from a crate: the usual ones ask CPUID at run time, which an SNP
//! guest must not do, and all of it is measured code that should be short.
//!
//! UNSAFETY: the SHA instructions need a target feature; the maker of a [`Sha256`] says whether
//! the processor has it. Vector loads and stores take pointers, all derived from references here.
#![allow(unsafe_code)]

use core::arch::x86_64::*;

/// Bytes of a block.
pub const BLOCK: usize = 64;

const INITIAL: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

static K: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];

/// A hash in progress, on a processor that may lack the instructions.
pub type Sha256 = Hash<false>;

/// A hash in progress. `ALWAYS`: there is no code for a processor without the instructions.
pub struct Hash<const ALWAYS: bool> {
    state: [u32; 8],
    len: u64,
    instructions: bool,
}

impl<const ALWAYS: bool> Hash<ALWAYS> {
    /// An empty hash. `instructions`: the processor has SHA, SSSE3 and SSE4.1.
    pub const fn new(instructions: bool) -> Self {
        Self { state: INITIAL, len: 0, instructions }
    }

    /// Adds whole blocks; a rest shorter than a block is left for [`Self::finish`].
    pub fn update(&mut self, bytes: &[u8]) {
        let (blocks, _) = bytes.as_chunks::<BLOCK>();
        self.len += (blocks.len() * BLOCK) as u64;
        self.compress(blocks);
    }

    /// Adds the last bytes, fewer than a block, and pads.
    pub fn finish(mut self, tail: &[u8]) -> [u8; 32] {
        let bits = (self.len + tail.len() as u64) * 8;
        let mut last = [0u8; 2 * BLOCK];
        if let Some((message, [end, ..])) = last.split_at_mut_checked(tail.len()) {
            message.copy_from_slice(tail);
            *end = 0x80;
        }
        let used = if tail.len() < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
        if let Some(len) = last.get_mut(used - 8..used) {
            len.copy_from_slice(&bits.to_be_bytes());
        }
        self.compress(last.get(..used).unwrap_or(&[]).as_chunks::<BLOCK>().0);
        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        digest
    }

    fn compress(&mut self, blocks: &[[u8; BLOCK]]) {
        if ALWAYS || self.instructions {
            // SAFETY: the maker of this hash vouched for the instructions.
            unsafe { compress_sha(&mut self.state, blocks) };
        } else {
            for block in blocks {
                compress_portable(&mut self.state, block);
            }
        }
    }
}

/// The digest of a piece of private memory.
pub fn digest(bytes: &[u8], instructions: bool) -> [u8; 32] {
    let mut hash = Sha256::new(instructions);
    hash.update(bytes);
    hash.finish(bytes.as_chunks::<BLOCK>().1)
}

/// One block, FIPS 180-4 section 6.2.2, with a schedule of sixteen words that turns.
fn compress_portable(state: &mut [u32; 8], block: &[u8; BLOCK]) {
    let mut w = [0u32; 16];
    for (word, bytes) in w.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (i, k) in K.iter().enumerate() {
        if i >= 16 {
            let w15 = w[(i + 1) & 15];
            let w2 = w[(i + 14) & 15];
            let s0 = w15.rotate_right(7) ^ w15.rotate_right(18) ^ (w15 >> 3);
            let s1 = w2.rotate_right(17) ^ w2.rotate_right(19) ^ (w2 >> 10);
            let sum = w[i & 15].wrapping_add(s0).wrapping_add(w[(i + 9) & 15]);
            w[i & 15] = sum.wrapping_add(s1);
        }
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = g ^ (e & (f ^ g));
        let t1 = h.wrapping_add(s1).wrapping_add(choice).wrapping_add(*k).wrapping_add(w[i & 15]);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = (a & b) | (c & (a | b));
        let t2 = s0.wrapping_add(majority);
        (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(t1), c, b, a, t1.wrapping_add(t2));
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(add);
    }
}

/// Blocks by SHA256RNDS2, SHA256MSG1 and SHA256MSG2 (AMD APM vol. 4): two rounds each, the state
/// kept as ABEF and CDGH.
#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress_sha(state: &mut [u32; 8], blocks: &[[u8; BLOCK]]) {
    let big_endian = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let words = state.as_mut_ptr().cast::<__m128i>();
    // SAFETY: `state` is two vectors long; the loads need no alignment.
    let (dcba, hgfe) = unsafe { (_mm_loadu_si128(words), _mm_loadu_si128(words.add(1))) };
    let cdab = _mm_shuffle_epi32(dcba, 0xB1);
    let efgh = _mm_shuffle_epi32(hgfe, 0x1B);
    let mut abef = _mm_alignr_epi8(cdab, efgh, 8);
    let mut cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);
    for block in blocks {
        let (abef_before, cdgh_before) = (abef, cdgh);
        let bytes = block.as_ptr().cast::<__m128i>();
        // Not by a closure: it would not have the features, and so be called.
        macro_rules! word {
            ($i:literal) => {{
                // SAFETY: a block is four vectors long; the load needs no alignment.
                let bytes = unsafe { _mm_loadu_si128(bytes.wrapping_add($i)) };
                _mm_shuffle_epi8(bytes, big_endian)
            }};
        }
        let (mut m0, mut m1, mut m2, mut m3) = (word!(0), word!(1), word!(2), word!(3));
        // Four rounds with four words of the message: the second half of each vector goes with a
        // second instruction.
        macro_rules! rounds {
            ($w:ident, $k:expr) => {
                // SAFETY: the caller's constants are four vectors long; the load needs no alignment.
                let k = unsafe { _mm_loadu_si128($k) };
                let sum = _mm_add_epi32($w, k);
                cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
                abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0E));
            };
        }
        // The same, and the four words that come sixteen later take their place.
        macro_rules! rounds_and_schedule {
            ($w:ident, $w1:ident, $w2:ident, $w3:ident, $k:expr) => {
                rounds!($w, $k);
                let next =
                    _mm_add_epi32(_mm_sha256msg1_epu32($w, $w1), _mm_alignr_epi8($w3, $w2, 4));
                $w = _mm_sha256msg2_epu32(next, $w3);
            };
        }
        // Sixteen rounds at a time: the words are back in their places then, and nothing is moved.
        let [first @ .., last] = K.as_chunks::<16>().0 else { return };
        for constants in first {
            let k = constants.as_ptr().cast::<__m128i>();
            rounds_and_schedule!(m0, m1, m2, m3, k);
            rounds_and_schedule!(m1, m2, m3, m0, k.wrapping_add(1));
            rounds_and_schedule!(m2, m3, m0, m1, k.wrapping_add(2));
            rounds_and_schedule!(m3, m0, m1, m2, k.wrapping_add(3));
        }
        let k = last.as_ptr().cast::<__m128i>();
        rounds!(m0, k);
        rounds!(m1, k.wrapping_add(1));
        rounds!(m2, k.wrapping_add(2));
        rounds!(m3, k.wrapping_add(3));
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    let feba = _mm_shuffle_epi32(abef, 0x1B);
    let dchg = _mm_shuffle_epi32(cdgh, 0xB1);
    // SAFETY: as for the loads above.
    unsafe {
        _mm_storeu_si128(words, _mm_blend_epi16(feba, dchg, 0xF0));
        _mm_storeu_si128(words.add(1), _mm_alignr_epi8(dchg, feba, 8));
    }
}
