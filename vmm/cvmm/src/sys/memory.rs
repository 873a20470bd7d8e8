//! Guest memory as this process sees it: the shared half of every slot.
//!
//! `vm-memory` maps it and checks every access; private pages are not in this mapping at all.
//!
//! UNSAFETY: madvise(2) drops pages of a mapping that the guest may also be using.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{Ordering, fence};

use abi::shim::LARGE_PAGE;
use vm_memory::mmap::{FromRangesError, MmapRegionError};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::SysError;
use super::resident::{self, Source};
use super::target::Target;
use crate::device::fw_cfg::SharedMemory;
use crate::plan::layout::Range;
use crate::recorder::{Op, Recorder};

/// The guest's memory.
#[derive(Debug)]
pub struct GuestRam {
    memory: GuestMemoryMmap<()>,
    regions: Vec<RamRegion>,
}

/// One contiguous piece of it.
#[derive(Clone, Copy, Debug)]
pub struct RamRegion {
    gpa: u64,
    len: u64,
    hva: u64,
}

impl RamRegion {
    /// Where the guest sees it.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// How long it is.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// A region is never empty; clippy wants the question answered.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where this process sees it.
    pub fn host_address(&self) -> u64 {
        self.hva
    }

    /// The part of `[gpa, gpa + len)` that lies in this region, as (gpa, len).
    pub fn intersect(&self, gpa: u64, len: u64) -> Option<(u64, u64)> {
        let begin = gpa.max(self.gpa);
        let end = gpa.saturating_add(len).min(self.gpa + self.len);
        (begin < end).then(|| (begin, end - begin))
    }
}

impl GuestRam {
    /// Maps memory for the ranges (gpa, len); nothing is touched yet.
    ///
    /// # Errors
    /// The mapping's.
    pub fn map(recorder: &mut Recorder, ranges: &[(u64, u64)]) -> Result<GuestRam, SysError> {
        let total: u64 = ranges.iter().map(|r| r.1).sum();
        let fail = |source| SysError::MapMemory { mib: total >> 20, source };
        let wanted: Vec<(GuestAddress, usize)> = ranges
            .iter()
            .map(|(gpa, len)| usize::try_from(*len).map(|len| (GuestAddress(*gpa), len)))
            .collect::<Result<_, _>>()
            .map_err(|e| fail(io::Error::other(e)))?;
        let memory = recorder
            .record(Op::MapMemory, "mmap", total, || GuestMemoryMmap::<()>::from_ranges(&wanted))
            .map_err(|e| match e {
                FromRangesError::MmapRegion(MmapRegionError::Mmap(source)) => fail(source),
                other => fail(io::Error::other(other)),
            })?;
        let mut regions = Vec::new();
        for region in memory.iter() {
            let gpa = region.start_addr();
            let hva = memory.get_host_address(gpa).map_err(|e| fail(io::Error::other(e)))?;
            regions.push(RamRegion { gpa: gpa.0, len: region.len(), hva: hva as u64 });
        }
        Ok(GuestRam { memory, regions })
    }

    /// Its pieces, in address order; a piece's place is its slot number.
    pub fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    /// Is every byte of the range memory?
    pub fn covers(&self, gpa: u64, len: u64) -> bool {
        let inside: u64 =
            self.regions.iter().filter_map(|r| r.intersect(gpa, len)).map(|(_, len)| len).sum();
        inside == len
    }

    /// Is no byte of it memory?
    pub fn misses(&self, gpa: u64, len: u64) -> bool {
        self.regions.iter().all(|region| region.intersect(gpa, len).is_none())
    }

    /// Bytes of it that are in the host's memory.
    pub fn resident(&self) -> Option<(u64, Source)> {
        let regions =
            self.regions.iter().map(|region| resident::of_mapping(region.hva, region.len));
        regions.sum::<Option<u64>>().map(|bytes| (bytes, Source::Mincore))
    }

    /// The same, where nothing but the ranges has been touched: of these and, since the host may have given large pages, what
    /// is around them. A look at all of a large guest's memory takes longer than making the guest.
    pub fn resident_around(&self, ranges: &[Range]) -> Option<(u64, Source)> {
        let pieces = ranges.iter().filter(|range| range.len > 0);
        let pieces: BTreeSet<u64> = pieces
            .flat_map(|range| range.gpa / LARGE_PAGE..=(range.end() - 1) / LARGE_PAGE)
            .collect();
        let bytes = pieces.into_iter().flat_map(|piece| {
            self.regions.iter().filter_map(move |region| {
                let (gpa, len) = region.intersect(piece * LARGE_PAGE, LARGE_PAGE)?;
                Some(resident::of_mapping(region.hva + (gpa - region.gpa), len))
            })
        });
        bytes.sum::<Option<u64>>().map(|bytes| (bytes, Source::Mincore))
    }

    /// Writes what the host and the guest share.
    ///
    /// # Errors
    /// The range is not memory.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), SysError> {
        self.memory.write_slice(bytes, GuestAddress(gpa)).map_err(|e| SysError::WriteMemory {
            gpa,
            len: bytes.len(),
            problem: e.to_string(),
        })
    }

    /// Reads what the host and the guest share. The guest may change it at any time: read once, then check.
    ///
    /// # Errors
    /// The range is not memory.
    pub fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), SysError> {
        let len = bytes.len();
        self.memory.read_slice(bytes, GuestAddress(gpa)).map_err(|e| SysError::WriteMemory {
            gpa,
            len,
            problem: e.to_string(),
        })
    }

    /// Writes a number that the guest polls, after everything that was written before it.
    ///
    /// # Errors
    /// The address is not memory, or not aligned.
    pub fn publish(&self, gpa: u64, value: u64) -> Result<(), SysError> {
        self.memory
            .store(value, GuestAddress(gpa), Ordering::Release)
            .map_err(|e| SysError::WriteMemory { gpa, len: 8, problem: e.to_string() })
    }

    /// Reads an index that the guest publishes, before everything that is read after it.
    ///
    /// # Errors
    /// The address is not memory, or not aligned.
    pub fn load_index(&self, gpa: u64) -> Result<u16, SysError> {
        self.memory.load(GuestAddress(gpa), Ordering::Acquire).map_err(|e| SysError::WriteMemory {
            gpa,
            len: 2,
            problem: e.to_string(),
        })
    }

    /// Writes an index that the guest polls: after everything that was written before it, and before everything that is
    /// read after it.
    ///
    /// # Errors
    /// The address is not memory, or not aligned.
    pub fn publish_index(&self, gpa: u64, value: u16) -> Result<(), SysError> {
        self.memory
            .store(value, GuestAddress(gpa), Ordering::Release)
            .map_err(|e| SysError::WriteMemory { gpa, len: 2, problem: e.to_string() })?;
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Frees the shared pages of a range: the guest took them private.
    ///
    /// # Errors
    /// The system call's.
    pub fn discard_shared(&self, gpa: u64, len: u64) -> Result<(), SysError> {
        for region in &self.regions {
            let Some((begin, len)) = region.intersect(gpa, len) else { continue };
            let address = region.hva + (begin - region.gpa);
            // SAFETY: the range lies inside a mapping that we own and that holds no Rust object; the pages read as
            // zeros afterwards, which is what the guest was told.
            let result = unsafe {
                libc::madvise(address as *mut libc::c_void, len as usize, libc::MADV_DONTNEED)
            };
            if result != 0 {
                let target = Target::Range { gpa: begin, len, what: ", shared, to be freed" };
                return Err(SysError::on("madvise", target)(io::Error::last_os_error()));
            }
        }
        Ok(())
    }
}

impl SharedMemory for GuestRam {
    fn read(&self, gpa: u64, bytes: &mut [u8]) -> bool {
        GuestRam::read(self, gpa, bytes).is_ok()
    }

    fn write(&self, gpa: u64, bytes: &[u8]) -> bool {
        GuestRam::write(self, gpa, bytes).is_ok()
    }
}

/// Bytes on page boundaries, as LAUNCH_UPDATE wants its source.
#[derive(Debug)]
pub struct AlignedPages(Vec<AlignedPage>);

#[derive(
    Clone,
    Debug,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C, align(4096))]
struct AlignedPage([u8; 4096]);

impl AlignedPages {
    /// A copy, padded with zeros to whole pages.
    pub fn copy_of(bytes: &[u8]) -> AlignedPages {
        let pages = bytes.chunks(4096).map(|chunk| {
            let mut page = AlignedPage([0; 4096]);
            page.0[..chunk.len()].copy_from_slice(chunk);
            page
        });
        AlignedPages(pages.collect())
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        zerocopy::IntoBytes::as_mut_bytes(self.0.as_mut_slice())
    }
}
