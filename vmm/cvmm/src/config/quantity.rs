//! Sizes and counts of the command line.

use std::fmt;
use std::str::FromStr;

/// Guest memory in bytes: a whole number of MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySize(u64);

impl MemorySize {
    /// The largest guest: what one 4 KiB page-table level of the shim maps.
    pub const MAX: u64 = 256 << 30;

    /// From bytes that are known to be right.
    pub const fn from_mib(mib: u64) -> MemorySize {
        MemorySize(mib << 20)
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<MemorySize, String> {
        let (digits, shift) = match text.char_indices().last() {
            Some((at, 'K' | 'k')) => (&text[..at], 10),
            Some((at, 'M' | 'm')) => (&text[..at], 20),
            Some((at, 'G' | 'g')) => (&text[..at], 30),
            _ => (text, 0),
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| format!("'{text}' is not a size; write for instance 512M or 2G"))?;
        let bytes =
            number.checked_mul(1 << shift).filter(|b| *b <= MemorySize::MAX).ok_or_else(|| {
                format!("{text} is more than the largest guest, {} GiB", MemorySize::MAX >> 30)
            })?;
        if bytes == 0 || bytes % (1 << 20) != 0 {
            return Err(format!(
                "{text} is not a whole number of MiB (a bare number counts bytes)"
            ));
        }
        Ok(MemorySize(bytes))
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}M", self.0 >> 20)
    }
}

/// How many vCPUs a guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuCount(u16);

impl CpuCount {
    /// One.
    pub const ONE: CpuCount = CpuCount(1);
    /// As many as 8-bit APIC ids address beside the broadcast id.
    pub const MAX: CpuCount = CpuCount(254);

    /// As a number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// From a number in range.
    pub fn new(count: u16) -> Option<CpuCount> {
        (1..=CpuCount::MAX.0).contains(&count).then_some(CpuCount(count))
    }
}

impl FromStr for CpuCount {
    type Err = String;

    fn from_str(text: &str) -> Result<CpuCount, String> {
        text.parse().ok().and_then(CpuCount::new).ok_or_else(|| {
            format!("'{text}' is not a number of vCPUs; a guest has 1 to {}", CpuCount::MAX.0)
        })
    }
}

/// One count, or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuRange {
    /// The smallest.
    pub first: CpuCount,
    /// The largest.
    pub last: CpuCount,
}

impl CpuRange {
    /// Every count in it.
    pub fn counts(self) -> impl Iterator<Item = CpuCount> {
        (self.first.0..=self.last.0).map(CpuCount)
    }
}

impl FromStr for CpuRange {
    type Err = String;

    fn from_str(text: &str) -> Result<CpuRange, String> {
        let (first, last) = match text.split_once("..") {
            Some((first, last)) => (first.parse()?, last.trim_start_matches('=').parse()?),
            None => {
                let count = text.parse()?;
                (count, count)
            }
        };
        if first > last {
            return Err(format!("'{text}' is an empty range"));
        }
        Ok(CpuRange { first, last })
    }
}
