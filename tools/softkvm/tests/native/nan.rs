//! Which NaNs a dot product may come to.

/// The bits of an element of four or eight bytes.
pub fn element(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Every NaN that the sum of the products that `mask` selects may be: those among the factors, made
/// quiet, and the default one, which an invalid product or sum gives.
pub fn of_dot_product(size: usize, mask: u8, a: [u8; 16], b: [u8; 16]) -> Vec<u64> {
    let (infinity, quiet, sign) = match size {
        4 => (0x7f80_0000, 0x40_0000, 1 << 31),
        _ => (0x7ff0 << 48, 8 << 48, 1 << 63),
    };
    let mut found = vec![sign | infinity | quiet];
    for i in (0..16 / size).filter(|i| mask >> (4 + i) & 1 != 0) {
        let factors = [&a, &b].map(|vector| element(&vector[i * size..][..size]));
        found.extend(factors.iter().filter(|&f| f & !sign > infinity).map(|f| f | quiet));
    }
    found
}
