//! Acceptance by several processors: threads that come in through the gate, as the entry code of an image does.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use abi::marks::MarkId;
use abi::shim::{Extent, Flags, LARGE_PAGE, LoadMode, PAGE, Technology, Termination};

use crate::gate::Gate;
use crate::mock::{Guest, KERNEL_LOAD, MEMORY};
use crate::platform::Validation;
use crate::range::Range;
use crate::round::Round;
use crate::run_test::{count_everything, expected, number};

/// Accepts what others leave; says which pages that were.
fn help(gate: &Gate, round: &Round, over: &AtomicBool, small_pages: bool) -> Vec<u64> {
    let mut pages = Vec::new();
    while !over.load(Ordering::SeqCst) {
        if !gate.enter() {
            thread::yield_now();
            continue;
        }
        let worked = round.work(Termination::PAGE_ACCEPT, true, |gpa, large| {
            if large && small_pages {
                return Validation::SizeMismatch;
            }
            let size = if large { LARGE_PAGE } else { PAGE };
            pages.extend((gpa..gpa + size).step_by(PAGE as usize));
            Validation::Done
        });
        assert_eq!(worked, Ok(()));
        gate.leave();
    }
    pages
}

/// Runs a guest with so many helpers; every page it accepted, by whomever, in order, and what helpers accepted.
fn run_with(guest: &mut Guest, helpers: usize) -> (Vec<u64>, usize) {
    let gate: &'static Gate = Box::leak(Box::default());
    guest.mock.gate = Some(gate);
    let (round, small) = (guest.mock.round, guest.mock.small_pages);
    guest.mock.awaits_help = helpers > 0;
    let over = AtomicBool::new(false);
    let by_others: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..helpers).map(|_| scope.spawn(|| help(gate, round, &over, small))).collect();
        // What they accept is theirs to remember; the mock knows what the boot processor accepted.
        let run =
            crate::accept::Acceptor::new(&guest.mock, &guest.params).accept_ram(&mut guest.mock);
        over.store(true, Ordering::SeqCst);
        assert_eq!(run, Ok(()));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut all: Vec<u64> = guest.mock.validated.iter().copied().collect();
    all.extend(&by_others);
    all.sort_unstable();
    (all, by_others.len())
}

#[test]
fn every_page_is_accepted_by_exactly_one_processor() {
    for (small_pages, lazy) in [(true, false), (false, false), (true, true)] {
        for helpers in [0, 1, 3, 7] {
            let mut guest = Guest::bzimage(Technology::TDX, LoadMode::MEASURED);
            guest.mock.small_pages = small_pages;
            if lazy {
                guest.params.accepted[0] = Extent { addr: 0, size: LARGE_PAGE };
                guest.params.accepted[1] = Extent { addr: 8 * LARGE_PAGE, size: 16 * LARGE_PAGE };
            }
            // The blobs are launch pages of the mock's.
            let mut want = expected(&guest);
            if lazy {
                let ends = [0..LARGE_PAGE, 8 * LARGE_PAGE..24 * LARGE_PAGE];
                let blobs = guest.mock.validated.clone();
                want.retain(|page| blobs.contains(page) || ends.iter().any(|r| r.contains(page)));
            }
            let (all, by_others) = run_with(&mut guest, helpers);
            assert_eq!(all, want, "{helpers} helpers, small pages: {small_pages}, lazy: {lazy}");
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
            let counts = guest.mock.round.take_counts();
            assert_eq!((counts.helped > 0, by_others > 0), (helpers > 0, helpers > 0));
            assert_eq!(counts.large == 0, small_pages);
        }
    }
}

#[test]
fn a_boot_processor_that_nobody_helps_does_it_all() {
    let mut guest = Guest::bzimage(Technology::TDX, LoadMode::HASHED);
    guest.params.flags |= Flags::PARALLEL.bits();
    guest.mock.gate = Some(Box::leak(Box::default()));
    assert_eq!(guest.run(), Ok(KERNEL_LOAD + 0x200));
    let accepted: Vec<u64> = guest.mock.validated.iter().copied().collect();
    assert_eq!(accepted, expected(&guest));
    count_everything(&guest);
    assert_eq!(number(&guest, MarkId::ACCEPT_HELPED), 0);
}

#[test]
fn the_boot_processor_waits_for_who_is_in_and_lets_nobody_in_after_that() {
    let gate: &'static Gate = Box::leak(Box::default());
    assert!(!gate.enter());
    gate.open();
    assert!(gate.enter());
    let left = Mutex::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(std::time::Duration::from_millis(50));
            *left.lock().unwrap() = true;
            gate.leave();
        });
        gate.close();
        assert!(*left.lock().unwrap());
    });
    assert!(!gate.enter());
}

#[test]
fn what_a_helper_finds_ends_the_guest() {
    let round = Round::new();
    for (answer, reason) in [
        (Validation::Already, Termination::DOUBLE_VALIDATION),
        (Validation::Failed, Termination::PAGE_ACCEPT),
    ] {
        round.begin(Range { start: 0, end: MEMORY }, 0);
        let mut left = 5;
        let worked = round.work(Termination::PAGE_ACCEPT, true, |_, _| {
            left -= 1;
            if left == 0 { answer } else { Validation::Done }
        });
        assert_eq!(worked, Err(reason));
    }
}

#[test]
fn a_unit_is_cut_where_the_range_ends_and_moved_to_where_it_is_shown() {
    let round = Round::new();
    let range =
        Range { start: (5 << 30) + LARGE_PAGE - PAGE, end: (5 << 30) + 2 * LARGE_PAGE + PAGE };
    let base = 4 << 30;
    round.begin(range, u64::wrapping_sub(base, 5 << 30));
    let mut seen = Vec::new();
    let worked = round.work(Termination::PVALIDATE, false, |address, large| {
        seen.push((address, large));
        Validation::Done
    });
    assert_eq!(worked, Ok(()));
    let at = |offset| base + offset;
    let want =
        [(at(LARGE_PAGE - PAGE), false), (at(LARGE_PAGE), true), (at(2 * LARGE_PAGE), false)];
    assert_eq!(seen, want);
    let counts = round.take_counts();
    assert_eq!((counts.small, counts.large, counts.helped), (2, 1, 0));
}
