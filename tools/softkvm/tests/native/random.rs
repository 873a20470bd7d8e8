//! Seeded random values with a taste for corner cases.

/// xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    /// An integer operand: small, at a boundary, sparse or anything.
    pub fn operand(&mut self) -> u64 {
        match self.below(8) {
            0 => self.below(256),
            1 => self.below(256).wrapping_neg(),
            2 => {
                const EDGES: [u64; 10] = [
                    0,
                    1,
                    u64::MAX,
                    0x7f,
                    0x80,
                    0x7fff,
                    0x8000,
                    0x7fff_ffff,
                    0x8000_0000,
                    0x8000_0000_0000_0000,
                ];
                EDGES[self.below(10) as usize]
            }
            3 => 1 << self.below(64),
            4 => u64::from(self.next() as u32),
            _ => self.next(),
        }
    }

    fn single(&mut self) -> u32 {
        let sign = (self.next() as u32) & 0x8000_0000;
        sign | match self.below(12) {
            0 => 0,
            1 => 0x7f80_0000,
            2 => 0x7fc0_0000 | self.next() as u32 & 0x3f_ffff,
            3 => 0x7f80_0001 | self.next() as u32 & 0x3f_ffff,
            4 => self.next() as u32 & 0x7f_ffff,
            5 => 0x80_0000 + self.below(4) as u32,
            6 => 0x7f7f_ffff,
            7 => (self.below(1000) as f32).to_bits(),
            8 => ((self.below(1 << 40) as f32) / 256.0).to_bits(),
            _ => self.next() as u32 & 0x7fff_ffff,
        }
    }

    fn double(&mut self) -> u64 {
        let sign = self.next() & 1 << 63;
        sign | match self.below(12) {
            0 => 0,
            1 => 0x7ff << 52,
            2 => 0xfff << 51 | self.next() >> 13,
            3 => 0x7ff << 52 | 1 | self.next() >> 13,
            4 => self.next() >> 12,
            5 => (1 << 52) + self.below(4),
            6 => (0x7ff << 52) - 1,
            7 => (self.below(100_000) as f64).to_bits(),
            8 => f64::from(self.single() as i32).to_bits() & !(1 << 63),
            9 => ((self.below(u64::MAX) as f64) / 1024.0).to_bits(),
            _ => self.next() >> 1,
        }
    }

    /// 16 bytes: floats of either size or integers.
    pub fn vector(&mut self) -> u128 {
        match self.below(4) {
            0 => (0..4).fold(0, |v, _| v << 32 | u128::from(self.single())),
            1 => u128::from(self.double()) << 64 | u128::from(self.double()),
            2 => u128::from(self.operand()) << 64 | u128::from(self.operand()),
            _ => {
                // Small lanes, so that comparisons and string searches find something.
                (0..16).fold(0, |v, _| v << 8 | u128::from(self.below(4)))
            }
        }
    }

    /// An 80-bit value, often near one, sometimes not a supported number.
    pub fn extended(&mut self) -> u128 {
        let sign = u128::from(self.next() & 1) << 79;
        let integer = 1 << 63;
        let fraction = if self.below(3) == 0 { self.operand() } else { self.next() };
        let (exponent, mantissa) = match self.below(14) {
            0 => (0, 0),
            1 => (0x7fff, integer),
            2 => (0x7fff, integer | fraction),
            3 => (0, fraction & !integer),
            4 => (self.below(0x7fff), fraction & !integer),
            5 => (0x7fff, fraction),
            6 => (self.below(0x8000), fraction | integer),
            7 => (0x3fff, integer),
            8 | 9 => (0x3ff0 + self.below(80), fraction | integer),
            _ => (0x3ff8 + self.below(12), fraction | integer),
        };
        sign | u128::from(exponent) << 64 | u128::from(mantissa)
    }
}
