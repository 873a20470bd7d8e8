//! Descriptors: every object that an ioctl returns is a real memory file, recognised later by its
//! inode. `close`, `dup` and `mmap` then work by themselves.
//!
//! UNSAFETY: system calls on descriptors, and mappings whose lifetime is [`Mapping`]'s.
#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::Mutex;

use super::errno::{Answer, Errno};

/// Device and inode of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode(u64, u64);

/// The inode behind a descriptor.
pub fn inode(fd: RawFd) -> Option<Inode> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `stat` is a buffer of the right size, filled on success.
    unsafe {
        (libc::fstat(fd, stat.as_mut_ptr()) == 0).then(|| {
            let stat = stat.assume_init();
            Inode(stat.st_dev, stat.st_ino)
        })
    }
}

/// Makes a memory file of `size` bytes, closed on exec.
pub fn memory_file(name: &CStr, size: u64) -> Answer<RawFd> {
    // SAFETY: plain system calls; the descriptor is closed again if it cannot be given out.
    unsafe {
        let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(Errno::last());
        }
        if libc::ftruncate(fd, size as i64) != 0 {
            let errno = Errno::last();
            libc::close(fd);
            return Err(errno);
        }
        Ok(fd)
    }
}

/// A descriptor of the same file that can be passed around and looked at, but neither read, written nor mapped.
pub fn bare(fd: RawFd) -> Answer<RawFd> {
    reopen(fd, libc::O_PATH)
}

fn reopen(fd: RawFd, how: libc::c_int) -> Answer<RawFd> {
    let path = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).map_err(|_| Errno::EINVAL)?;
    // SAFETY: plain system call with a string that ends.
    let other = unsafe { libc::open(path.as_ptr(), how | libc::O_CLOEXEC) };
    if other < 0 { Err(Errno::last()) } else { Ok(other) }
}

/// Makes a memory file that reads as a text, closed on exec.
pub fn text_file(text: &str) -> Answer<RawFd> {
    let fd = memory_file(c"softkvm-text", 0)?;
    // SAFETY: writes from a buffer of ours into a file of ours, which has room for it at its beginning.
    let written = unsafe { libc::pwrite(fd, text.as_ptr().cast(), text.len(), 0) };
    if usize::try_from(written) == Ok(text.len()) {
        return Ok(fd);
    }
    close(fd);
    Err(Errno::EIO)
}

/// Closes a descriptor of ours.
pub fn close(fd: RawFd) {
    // SAFETY: closing a number; the caller owns it.
    unsafe { libc::close(fd) };
}

/// A descriptor that we own.
#[derive(Debug)]
pub struct Owned(RawFd);

impl Owned {
    /// A descriptor that has just been made.
    pub(super) fn from_new(fd: RawFd) -> Self {
        Self(fd)
    }

    /// A duplicate of the caller's descriptor.
    pub fn duplicate(fd: RawFd) -> Answer<Self> {
        // SAFETY: plain system call.
        let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
        if copy < 0 { Err(Errno::last()) } else { Ok(Self(copy)) }
    }

    /// The file behind a bare descriptor, to be read, written and mapped.
    pub fn writable(fd: RawFd) -> Answer<Self> {
        reopen(fd, libc::O_RDWR).map(Self)
    }

    /// The same file, to be read only.
    pub fn readable(&self) -> Answer<Self> {
        reopen(self.0, libc::O_RDONLY).map(Self)
    }

    /// Hands the descriptor over: whoever has the number closes it.
    pub fn give(self) -> RawFd {
        let fd = self.0;
        std::mem::forget(self);
        fd
    }

    /// An empty file: what is mapped of it can be touched nowhere.
    pub fn empty_file() -> Answer<Self> {
        memory_file(c"kvm-gmem-private", 0).map(Self)
    }

    /// A new, non-blocking eventfd.
    pub fn eventfd() -> Answer<Self> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 { Err(Errno::last()) } else { Ok(Self(fd)) }
    }

    /// The number.
    pub fn number(&self) -> RawFd {
        self.0
    }

    /// The kernel's name for an eventfd (Linux fs/eventfd.c `eventfd_show_fdinfo`); `None` for any other file.
    pub fn eventfd_id(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0)).ok()?;
        let id = text.lines().find_map(|line| line.strip_prefix("eventfd-id:"))?;
        id.trim().parse().ok()
    }

    /// Adds one to an eventfd.
    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: writes eight bytes from a local.
        unsafe { libc::write(self.0, std::ptr::from_ref(&one).cast(), 8) };
    }

    /// Takes an eventfd's count without waiting; 0 if there is nothing.
    pub fn drain(&self) -> u64 {
        let mut poll = libc::pollfd { fd: self.0, events: libc::POLLIN, revents: 0 };
        let mut count = 0u64;
        // SAFETY: reads eight bytes into a local, after a poll that says it will not block.
        unsafe {
            if libc::poll(&mut poll, 1, 0) == 1 && poll.revents & libc::POLLIN != 0 {
                let got = libc::read(self.0, std::ptr::from_mut(&mut count).cast(), 8);
                if got != 8 {
                    return 0;
                }
            }
        }
        count
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        close(self.0);
    }
}

/// A shared mapping of a memory file.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping is memory of the process; who may touch it when is decided by its owner.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps all of a file.
    pub fn of(fd: RawFd, len: usize) -> Answer<Self> {
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Errno::ENOMEM);
        }
        Ok(Self { base: base.cast(), len })
    }

    /// First byte.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Bytes.
    pub fn size(&self) -> usize {
        self.len
    }

    /// Lets the host find memory for a range at once, which costs less than a fault for every page. Only a hint.
    pub fn populate(&self, offset: usize, len: usize) {
        let len = len.min(self.len.saturating_sub(offset));
        // SAFETY: inside our own mapping; nothing in it changes.
        unsafe {
            libc::madvise(self.base.wrapping_add(offset).cast(), len, libc::MADV_POPULATE_WRITE)
        };
    }

    /// Frees the pages of a range; they read as zeros afterwards.
    pub fn punch(&self, offset: usize, len: usize) {
        if offset >= self.len || len == 0 {
            return;
        }
        let len = len.min(self.len - offset);
        // SAFETY: inside our own mapping of a memory file.
        unsafe { libc::madvise(self.base.add(offset).cast(), len, libc::MADV_REMOVE) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: unmaps what `of` mapped.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// Objects by the inode of their descriptor.
pub struct Registry<T> {
    objects: Mutex<BTreeMap<Inode, T>>,
}

impl<T: Clone> Default for Registry<T> {
    fn default() -> Self {
        Self { objects: Mutex::new(BTreeMap::new()) }
    }
}

impl<T: Clone> Registry<T> {
    /// Makes a memory file for an object and remembers it. `make` gets the file before anybody
    /// else sees it.
    pub fn publish(
        &self,
        name: &CStr,
        size: u64,
        make: impl FnOnce(RawFd) -> Answer<T>,
    ) -> Answer<RawFd> {
        let fd = memory_file(name, size)?;
        match make(fd).and_then(|object| Ok((inode(fd).ok_or(Errno::EBADF)?, object))) {
            Ok((inode, object)) => {
                self.lock().insert(inode, object);
                Ok(fd)
            }
            Err(errno) => {
                close(fd);
                Err(errno)
            }
        }
    }

    /// The object behind a descriptor.
    pub fn find(&self, fd: RawFd) -> Option<T> {
        let inode = inode(fd)?;
        self.lock().get(&inode).cloned()
    }

    /// Whether there is any object, without a system call.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Gives up the objects whose descriptors have all been closed.
    pub fn sweep(&self) {
        let mut objects = self.lock();
        let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
        let open: BTreeSet<Inode> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok())
            .filter_map(inode)
            .collect();
        let mut dead = Vec::new();
        objects.retain(|inode, object| {
            let alive = open.contains(inode);
            if !alive {
                dead.push(object.clone());
            }
            alive
        });
        // Dropped without the lock: an object may own others.
        drop(objects);
        drop(dead);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Inode, T>> {
        self.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
