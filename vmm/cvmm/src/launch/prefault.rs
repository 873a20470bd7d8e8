//! `--accept prefault`: the host finds and maps a guest's private memory before the guest runs, so that accepting a page takes
//! no nested page fault.
//!
//! In two steps. Threads allocate the pages of every guest_memfd while the launch pages are measured: that takes no lock of the VM,
//! and of the file only in pieces, between which measuring goes on (Linux 7.2 virt/kvm/guest_memfd.c kvm_gmem_allocate). What maps
//! them, KVM_PRE_FAULT_MEMORY, is refused before the guest is sealed; it is a call on a vCPU, so that there is a thread for each.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::Guest;
use crate::error::Error;
use crate::plan::Plan;
use crate::plan::layout::Range;
use crate::recorder::{Op, Recorder};
use crate::sys::SysError;
use crate::sys::memory::RamRegion;
use crate::sys::system::{Capability, System};
use crate::sys::vm;

/// What one call is about. Measuring a page waits for no longer a call than that.
const PIECE: u64 = 2 << 20;

/// What was done ahead of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefaulted {
    /// Bytes of private memory that were allocated.
    pub allocated: u64,
    /// By so many threads.
    pub threads: usize,
    /// Bytes that KVM has mapped; nothing where it has no KVM_PRE_FAULT_MEMORY.
    pub mapped: Option<u64>,
}

/// Allocates pages of the files, one for each region: of these ranges. Ends early, without an error, when told to stop.
pub(super) fn allocate(
    regions: &[RamRegion],
    files: &[File],
    ranges: &[Range],
    stop: &AtomicBool,
) -> Result<Prefaulted, SysError> {
    // By their place in the file.
    let inside = |region: &RamRegion| {
        let (begin, end) = (region.gpa(), region.gpa() + region.len());
        let parts = ranges.iter().map(move |range| (range.gpa.max(begin), range.end().min(end)));
        let parts = parts.filter(|(from, to)| from < to);
        parts.map(move |(from, to)| Range { gpa: from - begin, len: to - from })
    };
    let of = |(file, region)| inside(region).flat_map(cut).map(move |piece| (file, piece));
    let pieces: Vec<(&File, Range)> = files.iter().zip(regions).flat_map(of).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(pieces.len().max(1));
    let one = |(file, piece): &(&File, Range)| match stop.load(Ordering::Relaxed) {
        true => Ok(()),
        false => vm::allocate(file, piece.gpa, piece.len),
    };
    in_threads(&vec![(); threads], &pieces, |(), piece| one(piece))?;
    let allocated = pieces.iter().map(|(_, piece)| piece.len).sum();
    Ok(Prefaulted { allocated, threads, mapped: None })
}

/// Has KVM map what is private, and what waits in shared memory for the guest to read it.
pub(super) fn map(
    guest: &Guest,
    plan: &Plan,
    system: &System,
    recorder: &mut Recorder,
) -> Result<Option<u64>, Error> {
    if system.check(recorder, Capability::PRE_FAULT_MEMORY)? == 0 {
        return Ok(None);
    }
    let private = plan.accepted_by_shim(&plan.private);
    let ranges = private.iter().chain(&guest.memory.written);
    let pieces: Vec<Range> = ranges.copied().flat_map(cut).collect();
    let bytes = pieces.iter().map(|piece| piece.len).sum();
    let clock = || guest.vm.clock();
    recorder.record_both(Op::PreFault, "private", bytes, clock, || {
        in_threads(&guest.vcpus, &pieces, |vcpu, piece| vcpu.pre_fault(piece.gpa, piece.len))
    })?;
    Ok(Some(bytes))
}

/// The pages of a range, in pieces that do not lie across multiples of [`PIECE`].
fn cut(range: Range) -> impl Iterator<Item = Range> {
    const PAGE: u64 = abi::shim::PAGE;
    let (begin, end) = (range.gpa - range.gpa % PAGE, range.end().next_multiple_of(PAGE));
    let pieces = (begin / PIECE..end.div_ceil(PIECE)).map(move |piece| {
        let gpa = begin.max(piece * PIECE);
        Range { gpa, len: end.min((piece + 1) * PIECE) - gpa }
    });
    pieces.filter(|piece| piece.len > 0)
}

/// Does `work` on every piece: a thread for each of `workers`, whoever is free takes the next. The first failure ends it.
fn in_threads<W: Sync, P: Sync>(
    workers: &[W],
    pieces: &[P],
    work: impl Fn(&W, &P) -> Result<(), SysError> + Sync,
) -> Result<(), SysError> {
    let next = AtomicUsize::new(0);
    let take = |worker: &W| {
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(worker, piece) {
                next.store(pieces.len(), Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    };
    let Some((first, others)) = workers.split_first() else { return Ok(()) };
    thread::scope(|scope| {
        let builder = |name: &str| thread::Builder::new().name(name.into());
        // With fewer threads it only takes longer.
        let others: Vec<_> = others
            .iter()
            .filter_map(|worker| builder("prefault").spawn_scoped(scope, || take(worker)).ok())
            .collect();
        let own = take(first);
        let results = others.into_iter().map(|other| {
            // Nothing in it panics; if it did, this thread is to panic as well.
            other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        results.fold(own, Result::and)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_where_large_pages_end() {
        let cut = |gpa, len| cut(Range { gpa, len }).map(|r| (r.gpa, r.len)).collect::<Vec<_>>();
        assert_eq!(cut(0, 2 * PIECE), [(0, PIECE), (PIECE, PIECE)]);
        assert_eq!(cut(0x1f_f001, 0x1000), [(0x1f_f000, 0x1000), (PIECE, 0x1000)]);
        assert_eq!(cut(0x20_0000, 1), [(PIECE, 0x1000)]);
        assert_eq!(cut(0x5000, 0), []);
    }

    #[test]
    fn every_piece_is_taken_once_and_a_failure_ends_it() {
        let done: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        let places: Vec<usize> = (0..100).collect();
        let count = |(): &(), place: &usize| {
            done[*place].fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        in_threads(&[(); 3], &places, count).expect("nothing fails");
        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));

        let tried = AtomicUsize::new(0);
        let fail = |(): &(), place: &usize| {
            tried.fetch_add(1, Ordering::Relaxed);
            match place {
                5 => Err(SysError::Missing { what: "a page".into(), cure: "none" }),
                _ => Ok(()),
            }
        };
        assert!(in_threads(&[()], &places, fail).is_err());
        assert_eq!(tried.load(Ordering::Relaxed), 6);
    }
}
