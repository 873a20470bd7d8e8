//! The TD that was measured, and others.

use abi::shim::Termination;
use abi::tdx::TdAttributes;

use crate::tdx::info::{VpInfo, check};

const GOOD: VpInfo = VpInfo { width: 48, attributes: TdAttributes::SEPT_VE_DISABLE, vcpus: 4 };

#[test]
fn the_shared_bit_is_the_highest_of_an_address() {
    assert_eq!(check(GOOD, 48, 4), Ok(1 << 47));
    assert_eq!(check(VpInfo { width: 52, ..GOOD }, 52, 1), Ok(1 << 51));
    // Only six bits are the width.
    assert_eq!(check(VpInfo { width: 0x1_0000 | 48, ..GOOD }, 0xFFC0 | 48, 1), Ok(1 << 47));
}

#[test]
fn another_td_is_refused() {
    let cases = [
        (GOOD, 52, 4),
        (VpInfo { width: 52, ..GOOD }, 48, 4),
        (VpInfo { width: 0, ..GOOD }, 0, 4),
        (VpInfo { width: 57, ..GOOD }, 57, 4),
        (GOOD, 48, 5),
        (VpInfo { vcpus: 0, ..GOOD }, 48, 1),
    ];
    for (info, width, vcpus) in cases {
        let outcome = check(info, width, vcpus);
        assert_eq!(outcome, Err(Termination::TD_INFO), "{info:?}, {width}, {vcpus}");
    }
    for attributes in [TdAttributes(0), TdAttributes(!TdAttributes::SEPT_VE_DISABLE.0)] {
        let outcome = check(VpInfo { attributes, ..GOOD }, 48, 1);
        assert_eq!(outcome, Err(Termination::TD_ATTRIBUTES));
    }
}
