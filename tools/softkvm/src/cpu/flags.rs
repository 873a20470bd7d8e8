//! Lazy arithmetic flags.
//!
//! An arithmetic instruction stores its sign-extended result and the carries it produced; each of
//! the six flags is derived from those two words without knowing which operation made them.

/// CF, PF, AF, ZF, SF and OF in RFLAGS.
pub const ARITH_MASK: u64 = 0x8d5;
/// Carry.
pub const CF: u64 = 1 << 0;
/// Parity of the low result byte.
pub const PF: u64 = 1 << 2;
/// Carry out of bit 3.
pub const AF: u64 = 1 << 4;
/// Zero.
pub const ZF: u64 = 1 << 6;
/// Sign.
pub const SF: u64 = 1 << 7;
/// Trap (single step).
pub const TF: u64 = 1 << 8;
/// Interrupt enable.
pub const IF: u64 = 1 << 9;
/// Direction.
pub const DF: u64 = 1 << 10;
/// Signed overflow.
pub const OF: u64 = 1 << 11;
/// I/O privilege level, two bits.
pub const IOPL: u64 = 3 << 12;
/// Nested task.
pub const NT: u64 = 1 << 14;
/// Resume.
pub const RF: u64 = 1 << 16;
/// Virtual-8086.
pub const VM: u64 = 1 << 17;
/// Alignment check.
pub const AC: u64 = 1 << 18;
/// CPUID can be toggled.
pub const ID: u64 = 1 << 21;

/// `aux`: the carry out of the most significant bit.
const AUX_CARRY: u32 = 1 << 31;
/// `aux`: SF differs from the sign of `res`.
const AUX_SIGN: u32 = 1;
/// `aux`: first bit of the byte that is folded into the parity of `res`.
const AUX_PARITY_SHIFT: u32 = 8;

/// The six arithmetic flags, unevaluated.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Flags {
    /// Sign-extended result: gives ZF, SF and PF.
    pub res: u64,
    /// Bit 31 carry out, bit 30 carry into the most significant bit, bit 3 carry out of bit 3,
    /// bit 0 flips SF, bits 15:8 are folded into PF.
    pub aux: u32,
}

impl Flags {
    /// Records a result of `BITS` bits (8, 16, 32 or 64), already sign-extended, with the vector
    /// of carries out of every bit position.
    #[inline(always)]
    pub fn set<const BITS: u32>(&mut self, res_sext: u64, carries: u64) {
        self.res = res_sext;
        self.aux = match BITS {
            64 => ((carries >> 32) as u32 & 0xc000_0000) | (carries as u32 & 8),
            32 => carries as u32 & 0xc000_0008,
            _ => ((carries << (32 - BITS)) as u32 & 0xc000_0000) | (carries as u32 & 8),
        };
    }

    /// Records a logical result: CF, OF and AF are cleared.
    #[inline(always)]
    pub fn set_logic(&mut self, res_sext: u64) {
        self.res = res_sext;
        self.aux = 0;
    }

    /// CF.
    #[inline(always)]
    pub fn cf(&self) -> bool {
        self.aux & AUX_CARRY != 0
    }

    /// ZF.
    #[inline(always)]
    pub fn zf(&self) -> bool {
        self.res == 0
    }

    /// SF.
    #[inline(always)]
    pub fn sf(&self) -> bool {
        ((self.res >> 63) as u32 ^ self.aux) & AUX_SIGN != 0
    }

    /// OF.
    #[inline(always)]
    pub fn of(&self) -> bool {
        (self.aux ^ (self.aux << 1)) & AUX_CARRY != 0
    }

    /// AF.
    #[inline(always)]
    pub fn af(&self) -> bool {
        self.aux & 8 != 0
    }

    /// PF.
    #[inline(always)]
    pub fn pf(&self) -> bool {
        (self.res as u8 ^ (self.aux >> AUX_PARITY_SHIFT) as u8).count_ones() & 1 == 0
    }

    /// The six flags as they stand in RFLAGS.
    #[inline]
    pub fn bits(&self) -> u64 {
        u64::from(self.cf())
            | u64::from(self.pf()) << 2
            | u64::from(self.af()) << 4
            | u64::from(self.zf()) << 6
            | u64::from(self.sf()) << 7
            | u64::from(self.of()) << 11
    }

    /// Loads the six flags from an RFLAGS value; other bits are ignored.
    #[inline]
    pub fn load(&mut self, rflags: u64) {
        let cf = rflags & CF != 0;
        let of = rflags & OF != 0;
        // Bit 8 keeps the result non-zero without touching its low byte or sign.
        self.res = if rflags & ZF != 0 { 0 } else { 0x100 };
        self.aux = u32::from(cf) << 31
            | u32::from(cf ^ of) << 30
            | u32::from(rflags & AF != 0) << 3
            | u32::from(rflags & SF != 0)
            | u32::from(rflags & PF == 0) << AUX_PARITY_SHIFT;
    }

    /// Replaces CF and keeps the other five flags.
    #[inline]
    pub fn set_cf(&mut self, cf: bool) {
        let of = self.of();
        self.aux = (self.aux & 0x3fff_ffff) | u32::from(cf) << 31 | u32::from(cf ^ of) << 30;
    }

    /// Replaces CF and OF and keeps the other four flags.
    #[inline]
    pub fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.aux = (self.aux & 0x3fff_ffff) | u32::from(cf) << 31 | u32::from(cf ^ of) << 30;
    }
}
