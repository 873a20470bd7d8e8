//! The second stage is taken as it was measured, or not at all.

use abi::shim::snp::SECOND_STAGE_PAGES;
use abi::shim::{PAGE, Termination};

use crate::second_stage::load;
use crate::sha256::digest;

const LEN: u64 = SECOND_STAGE_PAGES * PAGE;

/// Loads what waits; gives the copy, and whether it was taken.
fn loaded(waiting: &[u8], measured: &[u8; 32]) -> (Vec<u8>, Result<(), Termination>) {
    let pages: Vec<(u64, Vec<u8>)> =
        waiting.chunks(PAGE as usize).map(<[u8]>::to_vec).zip(0..).map(|(p, n)| (n, p)).collect();
    let copied = std::cell::RefCell::new(Vec::new());
    let outcome = load::<false>(measured, |offset, len| {
        let (_, page) = &pages[(offset / PAGE) as usize];
        assert_eq!((offset, len), (copied.borrow().len() as u64, PAGE), "in order, without a gap");
        copied.borrow_mut().extend_from_slice(page);
        page
    });
    (copied.into_inner(), outcome)
}

#[test]
fn every_bit_counts() {
    let honest: Vec<u8> = (0..LEN).map(|i| ((i * 7) >> 3) as u8).collect();
    let measured = digest(&honest, false);
    assert_eq!(loaded(&honest, &measured), (honest.clone(), Ok(())));
    for at in [0, PAGE - 1, PAGE, LEN / 2, LEN - 1] {
        let mut other = honest.clone();
        other[at as usize] ^= 0x10;
        assert_eq!(loaded(&other, &measured).1, Err(Termination::SHIM_HASH), "byte {at:#x}");
    }
    for byte in 0..32 {
        let mut other = measured;
        other[byte] ^= 1;
        assert_eq!(loaded(&honest, &other).1, Err(Termination::SHIM_HASH));
    }
}
