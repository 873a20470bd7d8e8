//! How much host memory a mapping or a file holds.
//!
//! /proc/self/smaps has the same of mappings, at twenty times the price, and nothing of files that are not mapped. A
//! guest_memfd counts no blocks (Linux 6.12 and 7.2 virt/kvm/guest_memfd.c never touch `i_blocks`), but its pages are in its
//! page cache like any file's, and cachestat(2) counts those (mm/filemap.c `filemap_cachestat`).
//!
//! UNSAFETY: mincore(2), cachestat(2) and fstat(2) fill buffers of ours.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

/// Who counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// mincore(2): pages that are mapped or could be without a fault.
    Mincore,
    /// cachestat(2): pages in the page cache of a file.
    Cachestat,
    /// fstat(2): blocks of a file.
    Blocks,
}

impl Source {
    /// As reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Mincore => "mincore",
            Source::Cachestat => "cachestat",
            Source::Blocks => "st_blocks",
        }
    }
}

const PAGE: usize = 4096;

/// Bytes of a mapping of ours that are in memory.
pub(super) fn of_mapping(address: u64, len: u64) -> Option<u64> {
    let mut pages = [0u8; PAGE];
    let most = (pages.len() * PAGE) as u64;
    let mut resident = 0;
    let mut done = 0;
    while done < len {
        let part = most.min(len - done);
        // SAFETY: the buffer has a byte for each page of the part; what is no mapping is ENOMEM.
        let result = unsafe {
            let begin = (address + done) as *mut libc::c_void;
            libc::mincore(begin, part as usize, pages.as_mut_ptr())
        };
        if result != 0 {
            return None;
        }
        let looked_at = part.div_ceil(PAGE as u64) as usize;
        resident += pages[..looked_at].iter().map(|page| u64::from(page & 1)).sum::<u64>();
        done += part;
    }
    Some(resident * PAGE as u64)
}

/// Bytes of files that are in memory.
pub fn of_files(files: &[File]) -> Option<(u64, Source)> {
    let sum = |of: fn(&File) -> Option<u64>| files.iter().map(of).sum::<Option<u64>>();
    sum(cached).map(|bytes| (bytes, Source::Cachestat)).or_else(|| {
        // Blocks that nobody counts are no answer.
        sum(blocks).filter(|bytes| *bytes > 0).map(|bytes| (bytes, Source::Blocks))
    })
}

/// struct cachestat_range and struct cachestat (Linux 7.2 include/uapi/linux/mman.h).
#[repr(C)]
struct CacheRange {
    off: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct CacheStat {
    cache: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// cachestat(2), which the C library does not know (Linux 7.2 scripts/syscall.tbl).
const SYS_CACHESTAT: libc::c_long = 451;

fn cached(file: &File) -> Option<u64> {
    // No length: to the end.
    let range = CacheRange { off: 0, len: 0 };
    let mut stat = CacheStat::default();
    // SAFETY: both structures are the kernel's, and live until the call returns.
    let result = unsafe {
        let (range, stat) = (&raw const range, &raw mut stat);
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range, stat, 0)
    };
    (result == 0).then_some(stat.cache * PAGE as u64)
}

fn blocks(file: &File) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    // A block is 512 bytes, whatever the file system says.
    file.metadata().ok().map(|metadata| metadata.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::FromRawFd;

    fn memory_file() -> File {
        // SAFETY: a descriptor that was just made for us.
        unsafe { File::from_raw_fd(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC)) }
    }

    #[test]
    fn what_was_written_to_files_is_counted_and_their_holes_are_not() {
        let files = [memory_file(), memory_file()];
        files.iter().for_each(|file| file.set_len(64 << 20).unwrap());
        let empty = of_files(&files);
        assert!(matches!(empty, Some((0, Source::Cachestat)) | None), "{empty:?}");
        (&files[0]).write_all(&[1; 3 * PAGE + 1]).unwrap();
        (&files[1]).write_all(&[1]).unwrap();
        assert_eq!(of_files(&files).unwrap().0, 5 * PAGE as u64);
        assert_eq!(blocks(&files[0]), Some(4 * PAGE as u64));
    }

    #[test]
    fn a_guest_memfd_of_this_hosts_kvm_is_counted_by_its_page_cache() {
        use crate::recorder::{Recorder, Started};
        use crate::sys::{system::System, vm::punch_private};
        let mut recorder = Recorder::new(Started::now(), false);
        let system = System::open(&mut recorder);
        let vm = system.and_then(|system| system.create_vm(&mut recorder, 0));
        let Ok((memfd, _vm)) = vm
            .and_then(|vm| vm.create_guest_memfd(&mut recorder, 16 << 20).map(|memfd| (memfd, vm)))
        else {
            eprintln!("skipped: this host has no KVM that makes a guest_memfd for any VM");
            return;
        };
        // SAFETY: no memory of ours is passed.
        let made =
            unsafe { libc::fallocate(memfd.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, 4 << 20) };
        assert_eq!(made, 0);
        punch_private(&memfd, 0, 1 << 20).unwrap();
        assert_eq!(of_files(&[memfd]), Some((3 << 20, Source::Cachestat)));
    }

    #[test]
    fn what_was_touched_of_a_mapping_is_counted() {
        let len = 80 << 20;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a mapping of our own, and writes inside it.
        let address = unsafe {
            let both = libc::PROT_READ | libc::PROT_WRITE;
            let map = libc::mmap(std::ptr::null_mut(), len, both, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED);
            libc::madvise(map, len, libc::MADV_NOHUGEPAGE);
            map as u64
        };
        assert_eq!(of_mapping(address, len as u64), Some(0));
        for at in [0, PAGE, len - 1] {
            // SAFETY: as above.
            unsafe { *((address + at as u64) as *mut u8) = 1 };
        }
        assert_eq!(of_mapping(address, len as u64), Some(3 * PAGE as u64));
        // SAFETY: nobody uses it any more.
        unsafe { libc::munmap(address as *mut libc::c_void, len) };
        assert_eq!(of_mapping(address, len as u64), None);
    }
}
