//! Integer arithmetic with its flags, as pure functions over [`Flags`].
//!
//! Where the manuals leave a flag undefined the value here is a fixed choice: AF is cleared by
//! shifts, OF follows the one-bit rule for every count, and multiplications set SF, ZF and PF from
//! the low half.

use super::flags::Flags;
use super::processor::Int;

/// An operand width.
pub trait Word: Int + PartialEq + Eq + std::fmt::Debug {
    /// Width in bits.
    const BITS: u32;
    /// Zero-extended.
    fn zext(self) -> u64;
    /// Sign-extended.
    fn sext(self) -> u64;
    /// The low bits.
    fn cut(value: u64) -> Self;
}

macro_rules! word {
    ($($u:ty, $i:ty);*) => {$(
        impl Word for $u {
            const BITS: u32 = <$u>::BITS;
            #[inline(always)]
            fn zext(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn sext(self) -> u64 {
                self as $i as i64 as u64
            }
            #[inline(always)]
            fn cut(value: u64) -> Self {
                value as $u
            }
        }
    )*};
}
word!(u8, i8; u16, i16; u32, i32; u64, i64);

#[inline(always)]
fn record<T: Word>(f: &mut Flags, res: T, carries: u64) {
    // `Flags::set` is generic over a constant, which `T::BITS` cannot be in a generic function.
    let res = res.sext();
    match T::BITS {
        8 => f.set::<8>(res, carries),
        16 => f.set::<16>(res, carries),
        32 => f.set::<32>(res, carries),
        _ => f.set::<64>(res, carries),
    }
}

/// ADD, and ADC with `carry`.
#[inline(always)]
pub fn add<T: Word>(f: &mut Flags, a: T, b: T, carry: bool) -> T {
    let (a, b) = (a.zext(), b.zext());
    let res = a.wrapping_add(b).wrapping_add(u64::from(carry));
    record(f, T::cut(res), (a & b) | ((a | b) & !res));
    T::cut(res)
}

/// SUB and CMP, and SBB with `borrow`.
#[inline(always)]
pub fn sub<T: Word>(f: &mut Flags, a: T, b: T, borrow: bool) -> T {
    let (a, b) = (a.zext(), b.zext());
    let res = a.wrapping_sub(b).wrapping_sub(u64::from(borrow));
    record(f, T::cut(res), (!a & b) | ((!a | b) & res));
    T::cut(res)
}

/// The flags of AND, OR, XOR and TEST.
#[inline(always)]
pub fn logic<T: Word>(f: &mut Flags, res: T) -> T {
    f.set_logic(res.sext());
    res
}

/// INC: CF is kept.
#[inline(always)]
pub fn inc<T: Word>(f: &mut Flags, a: T) -> T {
    let cf = f.cf();
    let res = add(f, a, T::cut(1), false);
    f.set_cf(cf);
    res
}

/// DEC: CF is kept.
#[inline(always)]
pub fn dec<T: Word>(f: &mut Flags, a: T) -> T {
    let cf = f.cf();
    let res = sub(f, a, T::cut(1), false);
    f.set_cf(cf);
    res
}

/// NEG.
#[inline(always)]
pub fn neg<T: Word>(f: &mut Flags, a: T) -> T {
    sub(f, T::cut(0), a, false)
}

#[inline(always)]
fn shifted<T: Word>(f: &mut Flags, res: T, cf: bool, of: bool) -> T {
    f.res = res.sext();
    f.aux = u32::from(cf) << 31 | u32::from(cf ^ of) << 30;
    res
}

/// The count a shift or rotation uses: five bits, or six for 64-bit operands.
#[inline(always)]
pub fn shift_count<T: Word>(count: u8) -> u32 {
    u32::from(count) & if T::BITS == 64 { 63 } else { 31 }
}

#[inline(always)]
fn msb<T: Word>(value: u64) -> bool {
    value >> (T::BITS - 1) & 1 != 0
}

/// SHL by a masked count.
#[inline(always)]
pub fn shl<T: Word>(f: &mut Flags, a: T, count: u32) -> T {
    if count == 0 {
        return a;
    }
    let before = a.zext() << (count - 1);
    let res = before << 1;
    let cf = msb::<T>(before);
    shifted(f, T::cut(res), cf, cf ^ msb::<T>(res))
}

/// SHR by a masked count.
#[inline(always)]
pub fn shr<T: Word>(f: &mut Flags, a: T, count: u32) -> T {
    if count == 0 {
        return a;
    }
    let before = a.zext() >> (count - 1);
    let res = before >> 1;
    shifted(f, T::cut(res), before & 1 != 0, msb::<T>(before))
}

/// SAR by a masked count.
#[inline(always)]
pub fn sar<T: Word>(f: &mut Flags, a: T, count: u32) -> T {
    if count == 0 {
        return a;
    }
    let before = a.sext() as i64 >> (count - 1);
    shifted(f, T::cut((before >> 1) as u64), before & 1 != 0, false)
}

/// ROL by a masked count.
#[inline(always)]
pub fn rol<T: Word>(f: &mut Flags, a: T, count: u32) -> T {
    if count == 0 {
        return a;
    }
    let by = count % T::BITS;
    let a = a.zext();
    let res = if by == 0 { a } else { a << by | a >> (T::BITS - by) };
    let cf = res & 1 != 0;
    f.set_cf_of(cf, cf ^ msb::<T>(res));
    T::cut(res)
}

/// ROR by a masked count.
#[inline(always)]
pub fn ror<T: Word>(f: &mut Flags, a: T, count: u32) -> T {
    if count == 0 {
        return a;
    }
    let by = count % T::BITS;
    let a = a.zext();
    let res = if by == 0 { a } else { a >> by | a << (T::BITS - by) };
    let cf = msb::<T>(res);
    f.set_cf_of(cf, cf ^ msb::<T>(res << 1));
    T::cut(res)
}

/// SHLD of a 32- or 64-bit operand by a masked count.
#[inline(always)]
pub fn shld<T: Word>(f: &mut Flags, a: T, b: T, count: u32) -> T {
    if count == 0 {
        return a;
    }
    let (a, b) = (a.zext(), b.zext());
    let res = a << count | b >> (T::BITS - count);
    let cf = a >> (T::BITS - count) & 1 != 0;
    shifted(f, T::cut(res), cf, cf ^ msb::<T>(res))
}

/// SHRD of a 32- or 64-bit operand by a masked count.
#[inline(always)]
pub fn shrd<T: Word>(f: &mut Flags, a: T, b: T, count: u32) -> T {
    if count == 0 {
        return a;
    }
    let (a, b) = (a.zext(), b.zext());
    let res = a >> count | b << (T::BITS - count);
    shifted(f, T::cut(res), a >> (count - 1) & 1 != 0, msb::<T>(res ^ res << 1))
}

/// Unsigned product: low half, high half.
#[inline(always)]
pub fn mul<T: Word>(f: &mut Flags, a: T, b: T) -> (T, T) {
    let full = u128::from(a.zext()) * u128::from(b.zext());
    let (low, high) = (T::cut(full as u64), T::cut((full >> T::BITS) as u64));
    f.set_logic(low.sext());
    let wide = high.zext() != 0;
    f.set_cf_of(wide, wide);
    (low, high)
}

/// Signed product: low half, high half.
#[inline(always)]
pub fn imul<T: Word>(f: &mut Flags, a: T, b: T) -> (T, T) {
    let full = i128::from(a.sext() as i64) * i128::from(b.sext() as i64);
    let low = T::cut(full as u64);
    f.set_logic(low.sext());
    let wide = i128::from(low.sext() as i64) != full;
    f.set_cf_of(wide, wide);
    (low, T::cut((full >> T::BITS) as u64))
}

/// Unsigned quotient and remainder; `None` is #DE.
#[inline(always)]
pub fn div<T: Word>(high: T, low: T, by: T) -> Option<(T, T)> {
    let by = by.zext();
    if by == 0 || high.zext() >= by {
        return None;
    }
    if T::BITS < 64 || high.zext() == 0 {
        let full = if T::BITS == 64 { low.zext() } else { high.zext() << T::BITS | low.zext() };
        return Some((T::cut(full / by), T::cut(full % by)));
    }
    let full = u128::from(high.zext()) << 64 | u128::from(low.zext());
    let by = u128::from(by);
    Some((T::cut((full / by) as u64), T::cut((full % by) as u64)))
}

/// Signed quotient and remainder; `None` is #DE.
#[inline(always)]
pub fn idiv<T: Word>(high: T, low: T, by: T) -> Option<(T, T)> {
    let by = i128::from(by.sext() as i64);
    let full = i128::from(high.sext() as i64) << T::BITS | i128::from(low.zext());
    if by == 0 {
        return None;
    }
    let quotient = if let (Ok(a), Ok(b)) = (i64::try_from(full), i64::try_from(by)) {
        i128::from(a.checked_div(b)?)
    } else {
        full.checked_div(by)?
    };
    let cut = T::cut(quotient as u64);
    if i128::from(cut.sext() as i64) != quotient {
        return None;
    }
    Some((cut, T::cut((full - quotient * by) as u64)))
}
