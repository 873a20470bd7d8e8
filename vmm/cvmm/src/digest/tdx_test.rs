//! MRTD against digests that were computed from the specification with another program, and against bytes by hand.

use super::*;

const RESET: u64 = 0xffff_f000;

fn measured(gpas: &[u64]) -> String {
    let mut fold = Mrtd::default();
    for gpa in gpas {
        fold.add(*gpa);
        fold.extend(*gpa, &[0; PAGE]);
    }
    fold.finish().to_string()
}

#[test]
fn the_known_digests_come_out() {
    assert_eq!(
        Mrtd::default().finish().to_string(),
        "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b"
    );
    let mut unmeasured = Mrtd::default();
    unmeasured.add(RESET);
    assert_eq!(
        unmeasured.finish().to_string(),
        "8d411e4377a0da03b249acbe9a7939b44b4483b5a6c81341f00d60c1f417257f9a5c1c03f2f223c59f010f4933f238b8"
    );
    assert_eq!(
        measured(&[RESET]),
        "07f08f558c5e2593b33452cf00c12a165c07b027a36424ecfa15ebf39b5415e0ed62418458e4bfd77f16fec0f1568dc9"
    );
    assert_eq!(
        measured(&[RESET - 0x1000, RESET]),
        "da27a8c2adaae377d7170841582c1cce16f4350399078c8cd60753736eea0a8cadf3014d5a0a03e86fa21fd392dc0bf2"
    );
}

#[test]
fn adding_all_before_extending_any_is_another_digest() {
    let mut fold = Mrtd::default();
    fold.add(RESET - 0x1000);
    fold.add(RESET);
    fold.extend(RESET - 0x1000, &[0; PAGE]);
    fold.extend(RESET, &[0; PAGE]);
    assert_eq!(
        fold.finish().to_string(),
        "c5bf7eaa77cb32114dcbce2637c0037628a35699b5d565fb1d19ddb75f4bd5e4607e6a7ce995ae00a4883311c39d5712"
    );
}

#[test]
fn a_page_is_what_the_specification_says_byte_by_byte() {
    let contents: Vec<u8> = (0..PAGE).map(|at| (at / 7) as u8).collect();
    let mut fold = Mrtd::default();
    fold.add(0x1_2000);
    fold.extend(0x1_2000, &contents);

    let block = |name: &str, gpa: u64| {
        let mut block = name.as_bytes().to_vec();
        block.resize(16, 0);
        block.extend(gpa.to_le_bytes());
        block.resize(128, 0);
        block
    };
    let mut stream = block("MEM.PAGE.ADD", 0x1_2000);
    for at in (0..PAGE).step_by(256) {
        stream.extend(block("MR.EXTEND", 0x1_2000 + at as u64));
        stream.extend(&contents[at..at + 256]);
    }
    assert_eq!(stream.len(), 6272);
    assert_eq!(fold.finish().0[..], Sha384::digest(&stream)[..]);
}
