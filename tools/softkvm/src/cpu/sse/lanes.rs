//! Vectors as arrays of lanes.

macro_rules! lanes {
    ($split:ident, $join:ident, $map:ident, $t:ty, $n:literal) => {
        /// The lanes, lowest first.
        pub fn $split(v: u128) -> [$t; $n] {
            std::array::from_fn(|i| (v >> (i * (128 / $n))) as $t)
        }
        /// Lanes back to a vector.
        pub fn $join(lanes: [$t; $n]) -> u128 {
            let mut v = 0;
            for lane in lanes.iter().rev() {
                v = v << (128 / $n) | *lane as u128;
            }
            v
        }
        /// Lane-wise function of two vectors.
        pub fn $map(a: u128, b: u128, f: impl Fn($t, $t) -> $t) -> u128 {
            let (a, b) = ($split(a), $split(b));
            $join(std::array::from_fn(|i| f(a[i], b[i])))
        }
    };
}
lanes!(bytes, from_bytes, map8, u8, 16);
lanes!(words, from_words, map16, u16, 8);
lanes!(dwords, from_dwords, map32, u32, 4);
lanes!(qwords, from_qwords, map64, u64, 2);

/// Low 64 bits.
pub const LOW64: u128 = u64::MAX as u128;
/// Low 32 bits.
pub const LOW32: u128 = u32::MAX as u128;

/// `new` in the bits of `mask`, `old` elsewhere.
pub fn merge(old: u128, new: u128, mask: u128) -> u128 {
    old & !mask | new & mask
}

/// Signed saturation to 8 bits.
pub fn sat_i8(v: i32) -> u8 {
    v.clamp(i32::from(i8::MIN), i32::from(i8::MAX)) as u8
}
/// Unsigned saturation to 8 bits.
pub fn sat_u8(v: i32) -> u8 {
    v.clamp(0, 255) as u8
}
/// Signed saturation to 16 bits.
pub fn sat_i16(v: i32) -> u16 {
    v.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as u16
}
/// Unsigned saturation to 16 bits.
pub fn sat_u16(v: i32) -> u16 {
    v.clamp(0, 65535) as u16
}
