//! Packed integer and bitwise arithmetic whose lanes do not depend on the vector's length, so
//! that the same functions serve MMX and SSE.

use iced_x86::Mnemonic;

use super::lanes::*;

/// A function of destination and source.
pub type Binary = fn(u128, u128) -> u128;

fn all(condition: bool) -> u64 {
    if condition { u64::MAX } else { 0 }
}

fn sum_of_differences(a: u64, b: u64) -> u64 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    (0..8).map(|i| u64::from(a[i].abs_diff(b[i]))).sum()
}

fn multiply_add(a: u128, b: u128) -> u128 {
    let (a, b) = (words(a), words(b));
    let product = |i: usize| i32::from(a[i] as i16) * i32::from(b[i] as i16);
    from_dwords(std::array::from_fn(|i| product(2 * i).wrapping_add(product(2 * i + 1)) as u32))
}

fn multiply_add_bytes(a: u128, b: u128) -> u128 {
    let (a, b) = (bytes(a), bytes(b));
    let product = |i: usize| i32::from(a[i]) * i32::from(b[i] as i8);
    from_words(std::array::from_fn(|i| sat_i16(product(2 * i) + product(2 * i + 1))))
}

fn sign<T: PartialOrd + Default>(x: T, y: T, negate: impl Fn(T) -> T) -> T {
    let zero = T::default();
    if y < zero {
        negate(x)
    } else if y == zero {
        zero
    } else {
        x
    }
}

/// Bitwise operations, including those named for floating-point operands.
fn logical(mnemonic: Mnemonic) -> Option<Binary> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Pand | M::Andps | M::Andpd => |a, b| a & b,
        M::Pandn | M::Andnps | M::Andnpd => |a, b| !a & b,
        M::Por | M::Orps | M::Orpd => |a, b| a | b,
        M::Pxor | M::Xorps | M::Xorpd => |a, b| a ^ b,
        _ => return None,
    })
}

fn add_subtract(mnemonic: Mnemonic) -> Option<Binary> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Paddb => |a, b| map8(a, b, u8::wrapping_add),
        M::Paddw => |a, b| map16(a, b, u16::wrapping_add),
        M::Paddd => |a, b| map32(a, b, u32::wrapping_add),
        M::Paddq => |a, b| map64(a, b, u64::wrapping_add),
        M::Psubb => |a, b| map8(a, b, u8::wrapping_sub),
        M::Psubw => |a, b| map16(a, b, u16::wrapping_sub),
        M::Psubd => |a, b| map32(a, b, u32::wrapping_sub),
        M::Psubq => |a, b| map64(a, b, u64::wrapping_sub),
        M::Paddusb => |a, b| map8(a, b, u8::saturating_add),
        M::Paddusw => |a, b| map16(a, b, u16::saturating_add),
        M::Psubusb => |a, b| map8(a, b, u8::saturating_sub),
        M::Psubusw => |a, b| map16(a, b, u16::saturating_sub),
        M::Paddsb => |a, b| map8(a, b, |x, y| (x as i8).saturating_add(y as i8) as u8),
        M::Paddsw => |a, b| map16(a, b, |x, y| (x as i16).saturating_add(y as i16) as u16),
        M::Psubsb => |a, b| map8(a, b, |x, y| (x as i8).saturating_sub(y as i8) as u8),
        M::Psubsw => |a, b| map16(a, b, |x, y| (x as i16).saturating_sub(y as i16) as u16),
        M::Pavgb => |a, b| map8(a, b, |x, y| ((u16::from(x) + u16::from(y) + 1) >> 1) as u8),
        M::Pavgw => |a, b| map16(a, b, |x, y| ((u32::from(x) + u32::from(y) + 1) >> 1) as u16),
        M::Psadbw => |a, b| map64(a, b, sum_of_differences),
        _ => return None,
    })
}

fn multiply(mnemonic: Mnemonic) -> Option<Binary> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Pmullw => |a, b| map16(a, b, u16::wrapping_mul),
        M::Pmulld => |a, b| map32(a, b, u32::wrapping_mul),
        M::Pmulhw => {
            |a, b| map16(a, b, |x, y| ((i32::from(x as i16) * i32::from(y as i16)) >> 16) as u16)
        }
        M::Pmulhuw => |a, b| map16(a, b, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16),
        M::Pmulhrsw => |a, b| {
            map16(a, b, |x, y| {
                let product = i32::from(x as i16) * i32::from(y as i16);
                (((product >> 14) + 1) >> 1) as u16
            })
        },
        M::Pmuludq => {
            |a, b| map64(a, b, |x, y| u64::from(x as u32).wrapping_mul(u64::from(y as u32)))
        }
        M::Pmuldq => {
            |a, b| map64(a, b, |x, y| i64::from(x as i32).wrapping_mul(i64::from(y as i32)) as u64)
        }
        M::Pmaddwd => multiply_add,
        M::Pmaddubsw => multiply_add_bytes,
        _ => return None,
    })
}

fn compare(mnemonic: Mnemonic) -> Option<Binary> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Pcmpeqb => |a, b| map8(a, b, |x, y| all(x == y) as u8),
        M::Pcmpeqw => |a, b| map16(a, b, |x, y| all(x == y) as u16),
        M::Pcmpeqd => |a, b| map32(a, b, |x, y| all(x == y) as u32),
        M::Pcmpeqq => |a, b| map64(a, b, |x, y| all(x == y)),
        M::Pcmpgtb => |a, b| map8(a, b, |x, y| all(x as i8 > y as i8) as u8),
        M::Pcmpgtw => |a, b| map16(a, b, |x, y| all(x as i16 > y as i16) as u16),
        M::Pcmpgtd => |a, b| map32(a, b, |x, y| all(x as i32 > y as i32) as u32),
        M::Pcmpgtq => |a, b| map64(a, b, |x, y| all(x as i64 > y as i64)),
        M::Pminub => |a, b| map8(a, b, u8::min),
        M::Pmaxub => |a, b| map8(a, b, u8::max),
        M::Pminuw => |a, b| map16(a, b, u16::min),
        M::Pmaxuw => |a, b| map16(a, b, u16::max),
        M::Pminud => |a, b| map32(a, b, u32::min),
        M::Pmaxud => |a, b| map32(a, b, u32::max),
        M::Pminsb => |a, b| map8(a, b, |x, y| (x as i8).min(y as i8) as u8),
        M::Pmaxsb => |a, b| map8(a, b, |x, y| (x as i8).max(y as i8) as u8),
        M::Pminsw => |a, b| map16(a, b, |x, y| (x as i16).min(y as i16) as u16),
        M::Pmaxsw => |a, b| map16(a, b, |x, y| (x as i16).max(y as i16) as u16),
        M::Pminsd => |a, b| map32(a, b, |x, y| (x as i32).min(y as i32) as u32),
        M::Pmaxsd => |a, b| map32(a, b, |x, y| (x as i32).max(y as i32) as u32),
        _ => return None,
    })
}

fn signs(mnemonic: Mnemonic) -> Option<Binary> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Psignb => |a, b| map8(a, b, |x, y| sign(x as i8, y as i8, i8::wrapping_neg) as u8),
        M::Psignw => |a, b| map16(a, b, |x, y| sign(x as i16, y as i16, i16::wrapping_neg) as u16),
        M::Psignd => |a, b| map32(a, b, |x, y| sign(x as i32, y as i32, i32::wrapping_neg) as u32),
        M::Pabsb => |_, b| map8(b, b, |x, _| (x as i8).unsigned_abs()),
        M::Pabsw => |_, b| map16(b, b, |x, _| (x as i16).unsigned_abs()),
        M::Pabsd => |_, b| map32(b, b, |x, _| (x as i32).unsigned_abs()),
        _ => return None,
    })
}

/// The function of a packed integer or bitwise instruction.
pub fn binary(mnemonic: Mnemonic) -> Option<Binary> {
    logical(mnemonic)
        .or_else(|| add_subtract(mnemonic))
        .or_else(|| compare(mnemonic))
        .or_else(|| multiply(mnemonic))
        .or_else(|| signs(mnemonic))
}

/// Shifts by a count common to all lanes: bits of the source's low quadword or an immediate.
pub fn shift(mnemonic: Mnemonic, a: u128, count: u64) -> Option<u128> {
    use Mnemonic as M;
    let n = count.min(255) as u32;
    Some(match mnemonic {
        M::Psllw => map16(a, 0, |x, _| x.checked_shl(n).unwrap_or(0)),
        M::Pslld => map32(a, 0, |x, _| x.checked_shl(n).unwrap_or(0)),
        M::Psllq => map64(a, 0, |x, _| x.checked_shl(n).unwrap_or(0)),
        M::Psrlw => map16(a, 0, |x, _| x.checked_shr(n).unwrap_or(0)),
        M::Psrld => map32(a, 0, |x, _| x.checked_shr(n).unwrap_or(0)),
        M::Psrlq => map64(a, 0, |x, _| x.checked_shr(n).unwrap_or(0)),
        M::Psraw => map16(a, 0, |x, _| (x as i16 >> n.min(15)) as u16),
        M::Psrad => map32(a, 0, |x, _| (x as i32 >> n.min(31)) as u32),
        M::Pslldq => a.checked_shl(8 * n).unwrap_or(0),
        M::Psrldq => a.checked_shr(8 * n).unwrap_or(0),
        _ => return None,
    })
}
