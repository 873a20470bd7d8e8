//! Packs, unpacks, shuffles, horizontal operations and blends: lanes change places.
//!
//! `len` is the vector's length in bytes, 8 (MMX) or 16; bits above it are ignored by the caller.

use iced_x86::Mnemonic;

use super::lanes::*;

fn pack_words(a: u128, b: u128, len: usize, f: fn(i32) -> u8) -> u128 {
    let half = len / 2;
    let (a, b) = (words(a), words(b));
    from_bytes(std::array::from_fn(|i| match i {
        i if i < half => f(i32::from(a[i] as i16)),
        i if i < len => f(i32::from(b[i - half] as i16)),
        _ => 0,
    }))
}

fn pack_dwords(a: u128, b: u128, len: usize, f: fn(i32) -> u16) -> u128 {
    let half = len / 4;
    let (a, b) = (dwords(a), dwords(b));
    from_words(std::array::from_fn(|i| match i {
        i if i < half => f(a[i] as i32),
        i if i < 2 * half => f(b[i - half] as i32),
        _ => 0,
    }))
}

/// Interleaves elements of `size` bytes from the low or high halves.
fn unpack(a: u128, b: u128, len: usize, size: usize, high: bool) -> u128 {
    let start = if high { len / 2 } else { 0 };
    let (a, b) = (bytes(a), bytes(b));
    from_bytes(std::array::from_fn(|i| {
        if i >= len {
            return 0;
        }
        let element = i / size;
        let from = start + element / 2 * size + i % size;
        if element.is_multiple_of(2) { a[from] } else { b[from] }
    }))
}

/// Applies `f` to neighbouring words of `a` then `b`.
fn horizontal16(a: u128, b: u128, len: usize, f: fn(u16, u16) -> u16) -> u128 {
    let half = len / 4;
    let (a, b) = (words(a), words(b));
    from_words(std::array::from_fn(|i| match i {
        i if i < half => f(a[2 * i], a[2 * i + 1]),
        i if i < 2 * half => f(b[2 * (i - half)], b[2 * (i - half) + 1]),
        _ => 0,
    }))
}

fn horizontal32(a: u128, b: u128, len: usize, f: fn(u32, u32) -> u32) -> u128 {
    let half = len / 8;
    let (a, b) = (dwords(a), dwords(b));
    from_dwords(std::array::from_fn(|i| match i {
        i if i < half => f(a[2 * i], a[2 * i + 1]),
        i if i < 2 * half => f(b[2 * (i - half)], b[2 * (i - half) + 1]),
        _ => 0,
    }))
}

/// PSHUFB.
pub fn bytes_by(a: u128, b: u128, len: usize) -> u128 {
    let (a, b) = (bytes(a), bytes(b));
    from_bytes(std::array::from_fn(|i| {
        if i >= len || b[i] & 0x80 != 0 { 0 } else { a[usize::from(b[i]) & (len - 1)] }
    }))
}

/// Instructions without an immediate.
pub fn binary(mnemonic: Mnemonic, a: u128, b: u128, len: usize) -> Option<u128> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Packsswb => pack_words(a, b, len, sat_i8),
        M::Packuswb => pack_words(a, b, len, sat_u8),
        M::Packssdw => pack_dwords(a, b, len, sat_i16),
        M::Packusdw => pack_dwords(a, b, len, sat_u16),
        M::Punpcklbw => unpack(a, b, len, 1, false),
        M::Punpcklwd => unpack(a, b, len, 2, false),
        M::Punpckldq | M::Unpcklps => unpack(a, b, len, 4, false),
        M::Punpcklqdq | M::Unpcklpd => unpack(a, b, len, 8, false),
        M::Punpckhbw => unpack(a, b, len, 1, true),
        M::Punpckhwd => unpack(a, b, len, 2, true),
        M::Punpckhdq | M::Unpckhps => unpack(a, b, len, 4, true),
        M::Punpckhqdq | M::Unpckhpd => unpack(a, b, len, 8, true),
        M::Pshufb => bytes_by(a, b, len),
        M::Phaddw => horizontal16(a, b, len, u16::wrapping_add),
        M::Phsubw => horizontal16(a, b, len, u16::wrapping_sub),
        M::Phaddsw => horizontal16(a, b, len, |x, y| (x as i16).saturating_add(y as i16) as u16),
        M::Phsubsw => horizontal16(a, b, len, |x, y| (x as i16).saturating_sub(y as i16) as u16),
        M::Phaddd => horizontal32(a, b, len, u32::wrapping_add),
        M::Phsubd => horizontal32(a, b, len, u32::wrapping_sub),
        M::Movsldup => {
            let b = dwords(b);
            from_dwords([b[0], b[0], b[2], b[2]])
        }
        M::Movshdup => {
            let b = dwords(b);
            from_dwords([b[1], b[1], b[3], b[3]])
        }
        M::Movddup => b & LOW64 | b << 64,
        M::Phminposuw => {
            let words = words(b);
            let mut best = 0;
            for (i, word) in words.iter().enumerate() {
                if *word < words[best] {
                    best = i;
                }
            }
            u128::from(words[best]) | (best as u128) << 16
        }
        _ => return extend(mnemonic, b),
    })
}

/// PMOVSX and PMOVZX.
fn extend(mnemonic: Mnemonic, b: u128) -> Option<u128> {
    use Mnemonic as M;
    let (b8, b16, b32) = (bytes(b), words(b), dwords(b));
    Some(match mnemonic {
        M::Pmovzxbw => from_words(std::array::from_fn(|i| u16::from(b8[i]))),
        M::Pmovzxbd => from_dwords(std::array::from_fn(|i| u32::from(b8[i]))),
        M::Pmovzxbq => from_qwords(std::array::from_fn(|i| u64::from(b8[i]))),
        M::Pmovzxwd => from_dwords(std::array::from_fn(|i| u32::from(b16[i]))),
        M::Pmovzxwq => from_qwords(std::array::from_fn(|i| u64::from(b16[i]))),
        M::Pmovzxdq => from_qwords(std::array::from_fn(|i| u64::from(b32[i]))),
        M::Pmovsxbw => from_words(std::array::from_fn(|i| b8[i] as i8 as u16)),
        M::Pmovsxbd => from_dwords(std::array::from_fn(|i| b8[i] as i8 as u32)),
        M::Pmovsxbq => from_qwords(std::array::from_fn(|i| b8[i] as i8 as u64)),
        M::Pmovsxwd => from_dwords(std::array::from_fn(|i| b16[i] as i16 as u32)),
        M::Pmovsxwq => from_qwords(std::array::from_fn(|i| b16[i] as i16 as u64)),
        M::Pmovsxdq => from_qwords(std::array::from_fn(|i| b32[i] as i32 as u64)),
        _ => return None,
    })
}

/// Lane selected by two bits of an immediate.
fn pick(imm: u8, i: usize) -> usize {
    usize::from(imm >> (2 * i)) & 3
}

/// PSHUFD.
pub fn dwords_by(b: u128, imm: u8) -> u128 {
    let b = dwords(b);
    from_dwords(std::array::from_fn(|i| b[pick(imm, i)]))
}

/// PALIGNR: `len` bytes of the two vectors side by side, from byte `imm` on.
pub fn align(a: u128, b: u128, imm: u8, len: usize) -> u128 {
    let (by, width) = (8 * u32::from(imm), 8 * len as u32);
    let low = b.checked_shr(by).unwrap_or(0);
    let high = if by < width {
        a.checked_shl(width - by).unwrap_or(0)
    } else {
        a.checked_shr(by - width).unwrap_or(0)
    };
    low | high
}

/// PBLENDW.
pub fn blend_words(a: u128, b: u128, imm: u8) -> u128 {
    merge(a, b, blend_mask(imm, 16))
}

/// Full-width mask from one immediate bit per element of `bits` bits.
fn blend_mask(imm: u8, bits: usize) -> u128 {
    let element = u128::MAX >> (128 - bits);
    (0..128 / bits).filter(|i| imm >> i & 1 != 0).fold(0, |mask, i| mask | element << (i * bits))
}

fn insert_float(a: u128, lane: u32, imm: u8) -> u128 {
    let mut lanes = dwords(a);
    lanes[usize::from(imm >> 4 & 3)] = lane;
    from_dwords(std::array::from_fn(|i| if imm >> i & 1 != 0 { 0 } else { lanes[i] }))
}

fn sums_of_differences(a: u128, b: u128, imm: u8) -> u128 {
    let (a, b) = (bytes(a), bytes(b));
    let from_a = usize::from(imm >> 2 & 1) * 4;
    let from_b = usize::from(imm & 3) * 4;
    from_words(std::array::from_fn(|i| {
        (0..4).map(|j| u16::from(a[from_a + i + j].abs_diff(b[from_b + j]))).sum()
    }))
}

/// Instructions with an immediate.
pub fn immediate(mnemonic: Mnemonic, a: u128, b: u128, imm: u8, len: usize) -> Option<u128> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Pshufd => dwords_by(b, imm),
        M::Pshuflw | M::Pshufw => {
            let b = words(b);
            from_words(std::array::from_fn(|i| if i < 4 { b[pick(imm, i)] } else { b[i] }))
        }
        M::Pshufhw => {
            let b = words(b);
            from_words(std::array::from_fn(|i| if i < 4 { b[i] } else { b[4 + pick(imm, i - 4)] }))
        }
        M::Shufps => {
            let (a, b) = (dwords(a), dwords(b));
            from_dwords(std::array::from_fn(
                |i| {
                    if i < 2 { a[pick(imm, i)] } else { b[pick(imm, i)] }
                },
            ))
        }
        M::Shufpd => {
            let (a, b) = (qwords(a), qwords(b));
            from_qwords([a[usize::from(imm & 1)], b[usize::from(imm >> 1 & 1)]])
        }
        M::Palignr => align(a, b, imm, len),
        M::Pblendw => blend_words(a, b, imm),
        M::Blendps => merge(a, b, blend_mask(imm, 32)),
        M::Blendpd => merge(a, b, blend_mask(imm, 64)),
        M::Insertps => insert_float(a, dwords(b)[0], imm),
        M::Mpsadbw => sums_of_differences(a, b, imm),
        _ => return None,
    })
}

/// Blends steered by the sign bits of XMM0.
pub fn variable_blend(mnemonic: Mnemonic, a: u128, b: u128, mask: u128) -> Option<u128> {
    use Mnemonic as M;
    let full = match mnemonic {
        M::Pblendvb => map8(mask, 0, |x, _| (x as i8 >> 7) as u8),
        M::Blendvps => map32(mask, 0, |x, _| (x as i32 >> 31) as u32),
        M::Blendvpd => map64(mask, 0, |x, _| (x as i64 >> 63) as u64),
        _ => return None,
    };
    Some(merge(a, b, full))
}
