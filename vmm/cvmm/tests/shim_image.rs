//! The shim's two images: what stands where the contract says, and nothing of one technology in the other's.
#![allow(clippy::unwrap_used, missing_docs)]

use abi::shim::{PAGE, SHIM_CODE_GPA, SHIM_CODE_PAGES_MAX, tdx};
use cvmm::shim_image::{FIRST_STAGE, SHIM_CODE, TDX_SHIM_CODE};

const TDCALL: &[u8] = &[0x66, 0x0F, 0x01, 0xCC];
const VMGEXIT: &[u8] = &[0xF3, 0x0F, 0x01, 0xD9];
const PVALIDATE: &[u8] = &[0xF2, 0x0F, 0x01, 0xFF];
const WRMSR: &[u8] = &[0x0F, 0x30];

fn has(image: &[u8], instruction: &[u8]) -> bool {
    image.windows(instruction.len()).any(|bytes| bytes == instruction)
}

#[test]
fn images_fit_and_differ() {
    let first = FIRST_STAGE.code.len() + FIRST_STAGE.program.len();
    for (image, first) in [(SHIM_CODE, first), (TDX_SHIM_CODE, 0)] {
        assert!(image.len() as u64 <= SHIM_CODE_PAGES_MAX * PAGE);
        assert!(image.len() + first <= 16 << 10);
    }
    assert_ne!(SHIM_CODE, TDX_SHIM_CODE);
}

#[test]
fn each_technology_has_its_instructions_alone() {
    assert!(has(TDX_SHIM_CODE, TDCALL) && !has(SHIM_CODE, TDCALL));
    for instruction in [VMGEXIT, PVALIDATE, WRMSR] {
        assert!(
            has(SHIM_CODE, instruction) && !has(TDX_SHIM_CODE, instruction),
            "{instruction:x?}"
        );
        assert!(has(FIRST_STAGE.code, instruction), "{instruction:x?}");
    }
    assert!(!has(FIRST_STAGE.code, TDCALL) && !has(FIRST_STAGE.program, TDCALL));
}

#[test]
fn a_td_has_two_ways_in() {
    // A short jump over what stands at the second.
    let [0xEB, distance, ..] = *TDX_SHIM_CODE else { panic!("no short jump at the entry") };
    let second = usize::try_from(tdx::AP_RESET_VECTOR_GPA - SHIM_CODE_GPA).unwrap();
    assert!(usize::from(distance) + 2 > second && distance < 0x80);
    // ENDBR64: the kernel may come with indirect branch tracking.
    assert_eq!(TDX_SHIM_CODE[second..second + 4], [0xF3, 0x0F, 0x1E, 0xFA]);
}
