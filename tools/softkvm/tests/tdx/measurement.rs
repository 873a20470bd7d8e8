//! MRTD and the run-time measurements, against digests computed from the specification by another program.

use softkvm::tdx::Td;

use crate::{params, td};

const TOP: u64 = 0xffff_f000;

enum Step {
    Add(u64),
    /// All sixteen chunks of a page of zeros.
    Extend(u64),
}

fn mrtd(steps: &[Step]) -> String {
    let mut td = td(&params());
    td.init_vcpu(0, 0).unwrap();
    for step in steps {
        match *step {
            Step::Add(gpa) => {
                td.sept_add(gpa).unwrap();
                td.page_add(gpa).unwrap();
            }
            Step::Extend(gpa) => {
                for chunk in 0..16 {
                    td.mr_extend(gpa + 256 * chunk, &[0; 256]).unwrap();
                }
            }
        }
    }
    assert_eq!(td.mrtd(), None);
    td.mr_finalize().unwrap();
    hex(&td.mrtd().unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn equals_the_specification() {
    use Step::{Add, Extend};
    for (steps, digest) in [
        (
            &[][..],
            "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
        ),
        (
            &[Add(TOP)],
            "8d411e4377a0da03b249acbe9a7939b44b4483b5a6c81341f00d60c1f417257f9a5c1c03f2f223c59f010f4933f238b8",
        ),
        (
            &[Add(TOP), Extend(TOP)],
            "07f08f558c5e2593b33452cf00c12a165c07b027a36424ecfa15ebf39b5415e0ed62418458e4bfd77f16fec0f1568dc9",
        ),
        (
            &[Add(TOP - 4096), Extend(TOP - 4096), Add(TOP), Extend(TOP)],
            "da27a8c2adaae377d7170841582c1cce16f4350399078c8cd60753736eea0a8cadf3014d5a0a03e86fa21fd392dc0bf2",
        ),
        (
            &[Add(TOP - 4096), Add(TOP), Extend(TOP - 4096), Extend(TOP)],
            "c5bf7eaa77cb32114dcbce2637c0037628a35699b5d565fb1d19ddb75f4bd5e4607e6a7ce995ae00a4883311c39d5712",
        ),
    ] {
        assert_eq!(mrtd(steps), digest);
    }
}

#[test]
fn contents_and_order_matter_only_where_they_are_measured() {
    let digest = |byte: u8, extend: bool| {
        let mut td = td(&params());
        td.init_vcpu(0, 0).unwrap();
        td.sept_add(TOP).unwrap();
        td.page_add(TOP).unwrap();
        if extend {
            td.mr_extend(TOP, &[byte; 256]).unwrap();
        }
        td.mr_finalize().unwrap();
        td.mrtd()
    };
    assert_ne!(digest(0, true), digest(1, true));
    assert_eq!(digest(0, false), digest(1, false));
}

#[test]
fn pages_of_the_running_td_are_not_measured() {
    let finish = |before: fn(&mut Td), after: fn(&mut Td)| {
        let mut td = td(&params());
        td.init_vcpu(0, 0).unwrap();
        td.sept_add(TOP).unwrap();
        before(&mut td);
        td.mr_finalize().unwrap();
        after(&mut td);
        td.mrtd().unwrap()
    };
    let empty = finish(|_| {}, |_| {});
    assert_eq!(empty, finish(|_| {}, |td| td.page_aug(TOP).unwrap()));
    assert_eq!(empty, finish(|td| td.page_aug(TOP).unwrap(), |_| {}));
    assert_ne!(empty, finish(|td| td.page_add(TOP).unwrap(), |_| {}));
}
