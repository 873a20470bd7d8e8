//! The CMOS clock, for firmware: OVMF starts no kernel where it does not know the time (edk2
//! OvmfPkg/QemuKernelLoaderFsDxe). It does not know the host's time: the guest's clock counts from a date of ours, so that
//! equal runs are equal. Layout: Motorola MC146818A.

/// 2026-01-01, a Thursday; both as the registers want them.
const YEAR: u8 = 26;
const CENTURY: u8 = 20;
const WEEKDAY: u64 = 4;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY_OF_WEEK: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR_REGISTER: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_D: u8 = 0x0d;
const CENTURY_REGISTER: u8 = 0x32;

/// The usual divider and rate; no update in progress.
const A: u8 = 0x26;
/// Numbers are decimal digits, hours go to 24.
const B: u8 = 1 << 1;
/// The clock has power.
const D: u8 = 1 << 7;

/// A register, when the guest's clock stands at `ns`. After the first month, days count no further.
pub fn read(register: u8, ns: u64) -> u8 {
    let seconds = ns / 1_000_000_000;
    let days = seconds / 86_400;
    match register {
        SECONDS => digits(seconds % 60),
        MINUTES => digits(seconds / 60 % 60),
        HOURS => digits(seconds / 3600 % 24),
        DAY_OF_WEEK => digits((WEEKDAY + days) % 7 + 1),
        DAY => digits((days + 1).min(31)),
        MONTH => 1,
        YEAR_REGISTER => digits(YEAR.into()),
        CENTURY_REGISTER => digits(CENTURY.into()),
        REGISTER_A => A,
        REGISTER_B => B,
        REGISTER_D => D,
        _ => 0,
    }
}

/// Two decimal digits.
fn digits(number: u64) -> u8 {
    (number / 10 % 10 * 16 + number % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_its_date() {
        let at = |register, seconds: u64| read(register, seconds * 1_000_000_000);
        let date = [CENTURY_REGISTER, YEAR_REGISTER, MONTH, DAY, HOURS, MINUTES, SECONDS];
        assert_eq!(date.map(|r| at(r, 0)), [0x20, 0x26, 1, 1, 0, 0, 0]);
        let later = 11 * 86_400 + 23 * 3600 + 59 * 60 + 58;
        assert_eq!(date.map(|r| at(r, later)), [0x20, 0x26, 1, 0x12, 0x23, 0x59, 0x58]);
        assert_eq!((at(DAY_OF_WEEK, 0), at(DAY_OF_WEEK, 3 * 86_400)), (5, 1), "Sunday is 1");
        assert_eq!(at(DAY, 40 * 86_400), 0x31);
    }
}
