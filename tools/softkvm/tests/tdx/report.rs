//! TDREPORT by its bytes.

use abi::tdx::{TdAttributes, TdReport};
use sha2::{Digest, Sha384};
use softkvm::tdx::report::{make, verify};
use zerocopy::{FromBytes, IntoBytes};

use crate::{params, td};

fn report() -> TdReport {
    let mut params = params();
    params.mrconfigid = [0xc1; 48];
    params.mrowner = [0xc2; 48];
    params.mrownerconfig = [0xc3; 48];
    let mut td = td(&params);
    td.init_vcpu(0, 0).unwrap();
    td.mr_finalize().unwrap();
    make(&td, &std::array::from_fn(|i| i as u8))
}

#[test]
fn fields_lie_where_the_specification_has_them() {
    let report = report();
    let bytes = report.as_bytes();
    assert_eq!(bytes[..16], [0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[32..80], Sha384::digest(&bytes[256..495])[..]);
    assert_eq!(bytes[80..128], Sha384::digest(&bytes[512..])[..]);
    assert!((0..64).all(|i| bytes[128 + i] == i as u8));
    assert_eq!(bytes[192..224], [0; 32]);
    assert_eq!(bytes[512..520], TdAttributes::SEPT_VE_DISABLE.0.to_le_bytes());
    assert_eq!(bytes[520..528], 3u64.to_le_bytes());
    assert_eq!(bytes[528..576], Sha384::digest([])[..], "an empty launch");
    for (at, byte) in [(576, 0xc1), (624, 0xc2), (672, 0xc3), (720, 0), (912, 0), (960, 0)] {
        assert!(bytes[at..at + 48].iter().all(|b| *b == byte), "{at}");
    }
}

#[test]
fn whatever_changes_the_report_is_found() {
    assert!(verify(&report()));
    for at in (0..256).step_by(8).chain([256, 494, 512, 528, 576, 720, 1023]) {
        let mut bytes: [u8; 1024] = report().as_bytes().try_into().unwrap();
        bytes[at] ^= 1;
        assert!(!verify(&TdReport::read_from_bytes(&bytes).unwrap()), "{at}");
    }
}
