//! What becomes of the module's answers.

use abi::tdx::{TdxStatus, operand};

use crate::platform::Validation;
use crate::tdx::accept::{BUSY_MAX, accept};

#[test]
fn the_operand_is_address_and_level() {
    for (large, expected) in [(false, 0x4020_0000), (true, 0x4020_0001)] {
        let mut seen = Vec::new();
        accept(0x4020_0000, large, |rcx| {
            seen.push(rcx);
            TdxStatus::SUCCESS
        });
        assert_eq!(seen, [expected]);
    }
}

#[test]
fn every_answer_has_its_meaning_whatever_its_details() {
    let cases = [
        (TdxStatus::SUCCESS, Validation::Done),
        (TdxStatus::PAGE_ALREADY_ACCEPTED, Validation::Already),
        (TdxStatus::PAGE_ALREADY_ACCEPTED.with(1), Validation::Already),
        (TdxStatus::PAGE_SIZE_MISMATCH.with(1), Validation::SizeMismatch),
        (TdxStatus::OPERAND_INVALID.with(operand::RCX), Validation::Failed),
        (TdxStatus::EPT_WALK_FAILED, Validation::Failed),
        // A warning that nobody knows is no success.
        (TdxStatus(0x0000_0B0B_0000_0000), Validation::Failed),
        (TdxStatus(u64::MAX), Validation::Failed),
    ];
    for (status, expected) in cases {
        assert_eq!(accept(0, false, |_| status), expected, "{status:?}");
    }
}

#[test]
fn a_busy_module_is_asked_again_but_not_for_ever() {
    for (busy, expected) in [(BUSY_MAX - 1, Validation::Done), (BUSY_MAX, Validation::Failed)] {
        let mut calls = 0;
        let outcome = accept(0x1000, false, |_| {
            calls += 1;
            if calls <= busy {
                TdxStatus::OPERAND_BUSY.with(operand::RCX)
            } else {
                TdxStatus::SUCCESS
            }
        });
        assert_eq!(outcome, expected);
        assert!(calls <= BUSY_MAX);
    }
}
