//! The module's CPUID table: which leaves it answers, and which of their bits are fixed (TDX module source, "CPUID
//! configurations", `fixed1` and `fixed0_or_dynamic`). A leaf that is not here raises #VE.

use crate::tdx::platform::CpuidConfig;

/// How a leaf is made of the processor's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub leaf: u32,
    pub subleaf: Option<u32>,
    /// Bits that are 1.
    pub ones: [u32; 4],
    /// Bits that are 0, or computed when the guest asks; a bit that the module's version lets a host configure is not
    /// meant.
    pub zeros: [u32; 4],
}

const fn mask(leaf: u32, subleaf: Option<u32>, zeros: [u32; 4]) -> Row {
    Row { leaf, subleaf, ones: [0; 4], zeros }
}

const fn native(leaf: u32, subleaf: Option<u32>) -> Row {
    mask(leaf, subleaf, [0; 4])
}

const fn zero(leaf: u32, subleaf: Option<u32>) -> Row {
    mask(leaf, subleaf, [!0; 4])
}

/// Every version answers these. Subleaves 2 to 18 of leaf 0xD are added by [`rows`].
const COMMON: &[Row] = &[
    Row { leaf: 0, subleaf: None, ones: [0x23, 0, 0, 0], zeros: [0xffff_ffdc, 0, 0, 0] },
    Row {
        leaf: 0x1,
        subleaf: None,
        ones: [0, 0, 0x8000_0000, 0x200],
        zeros: [0xf000_c000, 0xff00_00ff, 0x801_0060, 0x4012_0400],
    },
    zero(0x3, None),
    mask(0x4, Some(0), [0x3c00, 0, 0, 0x4]),
    mask(0x4, Some(0x1), [0x3c00, 0, 0, 0x4]),
    mask(0x4, Some(0x2), [0x3c00, 0, 0, 0x4]),
    mask(0x4, Some(0x3), [0x3c00, 0, 0, 0xffff_fff8]),
    zero(0x4, Some(0x4)),
    mask(0x5, None, [0xffff_0000, 0xffff_0000, 0xffff_fffc, 0]),
    mask(0x7, Some(0), [0, 0x40_4006, 0x643e_8010, 0x22_98c3]),
    mask(0x7, Some(0x1), [0xffff_e2cf, !0, !0, !0]),
    mask(0x7, Some(0x2), [!0, !0, !0, 0xffff_ffc0]),
    zero(0x8, None),
    mask(0xa, None, [0, 0, 0, 0xffff_6000]),
    mask(0xd, Some(0), [0xfff9_fd18, !0, 0, !0]),
    mask(0xd, Some(0x1), [0xffff_ffe0, !0, 0xffff_26ff, !0]),
    zero(0xe, None),
    zero(0x11, None),
    zero(0x12, None),
    zero(0x13, None),
    mask(0x14, Some(0), [0, 0xffff_fe00, 0x7fff_fff0, !0]),
    mask(0x14, Some(0x1), [0xfff8, 0, !0, !0]),
    Row {
        leaf: 0x15,
        subleaf: None,
        ones: [0x1, 0, 0x17d_7840, 0],
        zeros: [0xffff_fffe, 0, 0xfe82_87bf, !0],
    },
    mask(0x19, None, [0xffff_fff8, 0xffff_ffeb, 0xffff_fffd, !0]),
    native(0x1c, None),
    native(0x1d, Some(0)),
    native(0x1d, Some(0x1)),
    native(0x1e, None),
    zero(0x20, None),
    Row {
        leaf: 0x21,
        subleaf: Some(0),
        ones: [0, 0x6574_6e49, 0x2020_2020, 0x5844_546c],
        zeros: [!0, 0x9a8b_91b6, 0xdfdf_dfdf, 0xa7bb_ab93],
    },
    zero(0x22, None),
    mask(0x23, Some(0), [0xffff_fff0, 0, !0, !0]),
    mask(0x23, Some(0x1), [0, 0, !0, !0]),
    zero(0x23, Some(0x2)),
    mask(0x23, Some(0x3), [0, !0, !0, !0]),
    Row {
        leaf: 0x8000_0000,
        subleaf: None,
        ones: [0x8000_0008, 0, 0, 0],
        zeros: [0x7fff_fff7, !0, !0, !0],
    },
    mask(0x8000_0001, None, [!0, !0, 0xffff_fede, 0xd3ef_ffff]),
    mask(0x8000_0007, None, [!0, !0, !0, 0xffff_feff]),
    mask(0x8000_0008, None, [0xffff_0000, 0xffff_fdff, !0, !0]),
];

/// What younger modules answer as well.
const SINCE_1_5_05: &[Row] = &[native(0x1a, None)];

/// The states that leaf 0xD describes.
pub(super) const STATES: std::ops::RangeInclusive<u32> = 2..=18;

/// All rows, in the order of leaves and subleaves, but for the topology leaves.
pub(super) fn rows(since_1_5_05: bool) -> Vec<Row> {
    let mut rows: Vec<_> = COMMON.to_vec();
    rows.extend(STATES.map(|state| mask(0xd, Some(state), [0, 0, 0, !0])));
    if since_1_5_05 {
        rows.extend(SINCE_1_5_05);
    }
    rows.sort_by_key(|row| (row.leaf, row.subleaf));
    rows
}

impl Row {
    /// The virtual value: the processor's own, fixed bits, then what the host configured.
    pub fn value(&self, native: [u32; 4], config: Option<(&CpuidConfig, [u32; 4])>) -> [u32; 4] {
        std::array::from_fn(|i| {
            let (direct, allow, asked) = match config {
                Some((bits, asked)) => (bits.direct[i], bits.allow[i], asked[i]),
                None => (0, 0, 0),
            };
            let fixed = native[i] & !(self.zeros[i] & !(direct | allow)) | self.ones[i];
            (fixed & !direct | asked & direct) & (asked | !allow)
        })
    }
}

/// Bits of leaves 1, 7.0, 7.1, 0xD.0 and 0xD.1 that need states of XFAM: all of the second mask.
pub(super) const XFAM: &[(u32, u32, u64, [u32; 4])] = &[
    (1, 0, 1 << 2, [0, 0, 0x3000_1000, 0]),
    (7, 0, 1 << 2, [0, 0x20, 0x600, 0]),
    (7, 0, 0b111 << 5, [0, 0xdc23_0000, 0x5842, 0x80_010c]),
    (7, 0, 1 << 8, [0, 0x200_0000, 0, 0]),
    (7, 0, 1 << 9, [0, 0, 0x8, 0]),
    (7, 0, 0b11 << 11, [0, 0, 0x80, 0x10_0000]),
    (7, 0, 1 << 14, [0, 0, 0, 0x20]),
    (7, 0, 1 << 15, [0, 0, 0, 0x8_0000]),
    (7, 0, 0b11 << 17, [0, 0, 0, 0x340_0000]),
    (7, 1, 0b111 << 5, [0x30, 0, 0, 0]),
    (0xd, 0, 1 << 2, [0x4, 0, 0, 0]),
    (0xd, 0, 0b111 << 5, [0xe0, 0, 0, 0]),
    (0xd, 0, 1 << 9, [0x200, 0, 0, 0]),
    (0xd, 0, 0b11 << 17, [0x6_0000, 0, 0, 0]),
    (0xd, 1, 1 << 8, [0, 0, 0x100, 0]),
    (0xd, 1, 0b11 << 11, [0, 0, 0x1800, 0]),
    (0xd, 1, 1 << 14, [0, 0, 0x4000, 0]),
    (0xd, 1, 1 << 15, [0, 0, 0x8000, 0]),
];
