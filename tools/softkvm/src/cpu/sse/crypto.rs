//! AES, carry-less multiplication and SHA instructions.

use iced_x86::{Instruction, Mnemonic};

use super::lanes::*;
use super::{finish, operands};
use crate::cpu::processor::Processor;
use crate::cpu::world::Step;

/// Executes an instruction of this file; `None` if it is not one.
pub(super) fn execute(p: &mut Processor, insn: &Instruction) -> Option<Step> {
    use Mnemonic as M;
    let f: fn(u128, u128) -> u128 = match insn.mnemonic() {
        M::Aesenc => |a, key| mix_columns(substitute(shift_rows(a))) ^ key,
        M::Aesenclast => |a, key| substitute(shift_rows(a)) ^ key,
        M::Aesdec => |a, key| unmix_columns(unsubstitute(unshift_rows(a))) ^ key,
        M::Aesdeclast => |a, key| unsubstitute(unshift_rows(a)) ^ key,
        M::Aesimc => |_, b| unmix_columns(b),
        M::Sha1nexte => sha1_next,
        M::Sha1msg1 => |a, b| a ^ (a << 64 | b >> 64),
        M::Sha1msg2 => sha1_message,
        M::Sha256msg1 => sha256_message1,
        M::Sha256msg2 => sha256_message2,
        M::Aeskeygenassist | M::Pclmulqdq | M::Sha1rnds4 | M::Sha256rnds2 => {
            return Some(with_third(p, insn));
        }
        _ => return None,
    };
    Some(operands(p, insn).and_then(|(a, b)| finish(p, insn, f(a, b))))
}

/// Instructions with an immediate or an implied XMM0.
fn with_third(p: &mut Processor, insn: &Instruction) -> Step {
    use Mnemonic as M;
    let (a, b) = operands(p, insn)?;
    let value = match insn.mnemonic() {
        M::Aeskeygenassist => key_assist(b, insn.immediate8()),
        M::Pclmulqdq => {
            let imm = insn.immediate8();
            let (x, y) = (qwords(a)[usize::from(imm & 1)], qwords(b)[usize::from(imm >> 4 & 1)]);
            carryless(x, y)
        }
        M::Sha1rnds4 => sha1_rounds(a, b, insn.immediate8() & 3),
        _ => sha256_rounds(a, b, p.core.fpu.xmm[0]),
    };
    finish(p, insn, value)
}

fn carryless(x: u64, y: u64) -> u128 {
    (0..64).filter(|i| y >> i & 1 != 0).fold(0, |product, i| product ^ u128::from(x) << i)
}

/// Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197, 4.2).
const fn gmul(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    product
}

/// The S-box and its inverse, from their definition (FIPS 197, 5.1.1).
const TABLES: ([u8; 256], [u8; 256]) = {
    let (mut forward, mut backward) = ([0; 256], [0; 256]);
    let mut i = 0;
    while i < 256 {
        // x^254 is the inverse of x, and 0 for 0.
        let (mut inverse, mut n) = (1, 0);
        while n < 254 {
            inverse = gmul(inverse, i as u8);
            n += 1;
        }
        let s = inverse
            ^ inverse.rotate_left(1)
            ^ inverse.rotate_left(2)
            ^ inverse.rotate_left(3)
            ^ inverse.rotate_left(4)
            ^ 0x63;
        forward[i] = s;
        backward[s as usize] = i as u8;
        i += 1;
    }
    (forward, backward)
};

fn substitute(v: u128) -> u128 {
    map8(v, 0, |x, _| TABLES.0[usize::from(x)])
}
fn unsubstitute(v: u128) -> u128 {
    map8(v, 0, |x, _| TABLES.1[usize::from(x)])
}
fn shift_rows(v: u128) -> u128 {
    let v = bytes(v);
    from_bytes(std::array::from_fn(|i| v[(i + 4 * (i % 4)) % 16]))
}
fn unshift_rows(v: u128) -> u128 {
    let v = bytes(v);
    from_bytes(std::array::from_fn(|i| v[(i + 12 * (i % 4)) % 16]))
}

fn columns(v: u128, factors: [u8; 4]) -> u128 {
    let v = bytes(v);
    from_bytes(std::array::from_fn(|i| {
        let (column, row) = (i / 4 * 4, i % 4);
        (0..4).fold(0, |sum, j| sum ^ gmul(v[column + (row + j) % 4], factors[j]))
    }))
}
fn mix_columns(v: u128) -> u128 {
    columns(v, [2, 3, 1, 1])
}
fn unmix_columns(v: u128) -> u128 {
    columns(v, [14, 11, 13, 9])
}

fn key_assist(b: u128, rcon: u8) -> u128 {
    let s = dwords(substitute(b));
    let rcon = u32::from(rcon);
    from_dwords([s[1], s[1].rotate_right(8) ^ rcon, s[3], s[3].rotate_right(8) ^ rcon])
}

fn sha1_next(a: u128, b: u128) -> u128 {
    let mut w = dwords(b);
    w[3] = w[3].wrapping_add(dwords(a)[3].rotate_left(30));
    from_dwords(w)
}

fn sha1_message(a: u128, b: u128) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    let w16 = (a[3] ^ b[2]).rotate_left(1);
    let w17 = (a[2] ^ b[1]).rotate_left(1);
    let w18 = (a[1] ^ b[0]).rotate_left(1);
    let w19 = (a[0] ^ w16).rotate_left(1);
    from_dwords([w19, w18, w17, w16])
}

/// Four rounds (FIPS 180-4, 6.1.2); E is already added into the first message word.
fn sha1_rounds(abcd: u128, words: u128, function: u8) -> u128 {
    let [mut d, mut c, mut b, mut a] = dwords(abcd);
    let w = dwords(words);
    let k = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6][usize::from(function)];
    let mut e = 0u32;
    for i in 0..4 {
        let f = match function {
            0 => b & c ^ !b & d,
            2 => b & c ^ b & d ^ c & d,
            _ => b ^ c ^ d,
        };
        let next =
            f.wrapping_add(a.rotate_left(5)).wrapping_add(w[3 - i]).wrapping_add(e).wrapping_add(k);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    from_dwords([d, c, b, a])
}

fn small_sigma0(x: u32) -> u32 {
    x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3
}
fn small_sigma1(x: u32) -> u32 {
    x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10
}

/// SHA256MSG1.
pub(super) fn sha256_message1(a: u128, b: u128) -> u128 {
    let (w, w4) = (dwords(a), dwords(b)[0]);
    from_dwords(std::array::from_fn(|i| {
        w[i].wrapping_add(small_sigma0(if i < 3 { w[i + 1] } else { w4 }))
    }))
}

/// SHA256MSG2.
pub(super) fn sha256_message2(a: u128, b: u128) -> u128 {
    let (a, b) = (dwords(a), dwords(b));
    let w16 = a[0].wrapping_add(small_sigma1(b[2]));
    let w17 = a[1].wrapping_add(small_sigma1(b[3]));
    let w18 = a[2].wrapping_add(small_sigma1(w16));
    let w19 = a[3].wrapping_add(small_sigma1(w17));
    from_dwords([w16, w17, w18, w19])
}

/// Two rounds (FIPS 180-4, 6.2.2); the low two words of XMM0 are message plus constant.
pub(super) fn sha256_rounds(cdgh: u128, abef: u128, wk: u128) -> u128 {
    let [mut h, mut g, mut d, mut c] = dwords(cdgh);
    let [mut f, mut e, mut b, mut a] = dwords(abef);
    for wk in &dwords(wk)[..2] {
        let big1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let big0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let t1 = (e & f ^ !e & g).wrapping_add(big1).wrapping_add(*wk).wrapping_add(h);
        let t2 = (a & b ^ a & c ^ b & c).wrapping_add(big0);
        (h, g, f, e) = (g, f, e, d.wrapping_add(t1));
        (d, c, b, a) = (c, b, a, t1.wrapping_add(t2));
    }
    from_dwords([f, e, b, a])
}
