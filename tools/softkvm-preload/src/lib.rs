//! The preload library: answers `/dev/kvm` and `/dev/sev` with softkvm in any dynamically linked
//! program, and the few files of `/sys` that say what such a host offers.
//!
//! It interposes `open` and its kin, `ioctl`, `mmap`, `madvise` and `fallocate`. softkvm's descriptors are
//! real memory files, so everything else on them (`close`, `dup`, `mmap` of a vCPU, `poll`) needs
//! no help. Whatever is not softkvm's goes on to the C library as it came.
//!
//! UNSAFETY: the functions replace C functions of the same signature and pass arguments on; the
//! real ones are found by `dlsym(RTLD_NEXT)`.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_ulong, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Once, OnceLock};

use libc::{mode_t, off_t, size_t};
use softkvm::kvm::coalesced::RING_PAGE;
use softkvm::kvm::fd::Owned;
use softkvm::kvm::number::RUN;
use softkvm::kvm::signals;
use softkvm::kvm::{Answer, Errno, Machine, Options, fd, files, front};

/// The C library's own function behind an interposed one.
struct Real {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Real {
    const fn new(name: &'static CStr) -> Self {
        Self { name, address: AtomicPtr::new(std::ptr::null_mut()) }
    }

    fn get(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: a lookup by name.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

/// Calls the real function; fails with ENOSYS if the C library has none.
macro_rules! real {
    ($name:literal, $failure:expr, fn($($arg:ident: $t:ty),* $(,)?) -> $ret:ty $(,)?) => {{
        static REAL: Real = Real::new($name);
        let address = REAL.get();
        if address.is_null() {
            fail(libc::ENOSYS);
            $failure
        } else {
            // SAFETY: the function of this name has this C signature.
            unsafe {
                let function: unsafe extern "C" fn($($t),*) -> $ret = std::mem::transmute(address);
                function($($arg),*)
            }
        }
    }};
}

fn fail(errno: c_int) {
    // SAFETY: the calling thread's errno.
    unsafe { *libc::__errno_location() = errno };
}

fn finish(answer: Answer<i32>) -> c_int {
    match answer {
        Ok(value) => value,
        Err(Errno(errno)) => {
            fail(errno);
            -1
        }
    }
}

/// The machine, powered on when it is first opened.
fn machine() -> Option<Arc<Machine>> {
    static MACHINE: OnceLock<Option<Arc<Machine>>> = OnceLock::new();
    static AT_EXIT: Once = Once::new();
    extern "C" fn at_exit() {
        if let Some(Some(machine)) = MACHINE.get() {
            machine.write_statistics();
        }
    }
    let machine = MACHINE.get_or_init(|| match Machine::new(Options::from_env()) {
        Ok(machine) => Some(machine),
        Err(error) => {
            softkvm::kvm::say(format_args!("{error}"));
            None
        }
    });
    AT_EXIT.call_once(|| {
        // SAFETY: registers a plain function.
        unsafe { libc::atexit(at_exit) };
    });
    machine.clone()
}

#[derive(Clone, Copy)]
enum Device<'a> {
    Kvm,
    Sev,
    /// A file of /sys.
    File(&'a str),
}

/// Which of our devices or files a path names.
fn device<'a>(path: *const c_char) -> Option<Device<'a>> {
    if path.is_null() {
        return None;
    }
    // SAFETY: the caller of open gives a C string, which lives until it has returned; so does what we make of it.
    match unsafe { CStr::from_ptr(path) }.to_str() {
        Ok("/dev/kvm") => Some(Device::Kvm),
        Ok("/dev/sev") => Some(Device::Sev),
        Ok(path) if files::concerns(path) => Some(Device::File(path)),
        _ => None,
    }
}

fn open_device(device: Device, flags: c_int) -> c_int {
    let Some(machine) = machine() else {
        fail(libc::ENODEV);
        return -1;
    };
    let writable = flags & libc::O_ACCMODE != libc::O_RDONLY;
    let fd = match device {
        Device::Kvm => front().open_kvm(machine),
        Device::Sev => front().open_sev(machine, writable),
        Device::File(_) if writable => Err(Errno::EACCES),
        Device::File(path) => files::read(&machine, path).and_then(|text| fd::text_file(&text)),
    };
    if let Ok(fd) = fd
        && flags & libc::O_CLOEXEC == 0
    {
        // SAFETY: a descriptor of ours.
        unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    }
    finish(fd)
}

/// `open(2)`.
///
/// # Safety
/// As the C function; a missing `mode` argument is never looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    match device(path) {
        Some(device) => open_device(device, flags),
        None => real!(c"open", -1, fn(path: *const c_char, flags: c_int, mode: mode_t) -> c_int),
    }
}

/// `open64`.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    match device(path) {
        Some(device) => open_device(device, flags),
        None => real!(c"open64", -1, fn(path: *const c_char, flags: c_int, mode: mode_t) -> c_int),
    }
}

/// `openat(2)`.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    match device(path) {
        Some(device) => open_device(device, flags),
        None => real!(
            c"openat",
            -1,
            fn(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int
        ),
    }
}

/// `openat64`.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    match device(path) {
        Some(device) => open_device(device, flags),
        None => real!(
            c"openat64",
            -1,
            fn(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int
        ),
    }
}

/// The fortified `open`.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open_2(path: *const c_char, flags: c_int) -> c_int {
    match device(path) {
        Some(device) => open_device(device, flags),
        None => real!(c"__open_2", -1, fn(path: *const c_char, flags: c_int) -> c_int),
    }
}

/// The fortified `open64`.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
    match device(path) {
        Some(device) => open_device(device, flags),
        None => real!(c"__open64_2", -1, fn(path: *const c_char, flags: c_int) -> c_int),
    }
}

/// The fortified `openat`.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __openat_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    match device(path) {
        Some(device) => open_device(device, flags),
        None => {
            real!(c"__openat_2", -1, fn(dir: c_int, path: *const c_char, flags: c_int) -> c_int)
        }
    }
}

/// The fortified `openat64`.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __openat64_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    match device(path) {
        Some(device) => open_device(device, flags),
        None => {
            real!(c"__openat64_2", -1, fn(dir: c_int, path: *const c_char, flags: c_int) -> c_int)
        }
    }
}

/// Whether a device or file of the modelled host is there for the caller.
fn accessible(device: Device) -> Answer {
    // A machine that does not start says so when it is opened.
    let Some(machine) = machine() else {
        return if matches!(device, Device::Kvm) { Ok(()) } else { Err(Errno::ENOENT) };
    };
    match device {
        Device::Kvm => machine.faults.open_kvm(),
        // An Intel part has no security processor.
        Device::Sev if machine.xeon.is_some() => Err(Errno::ENOENT),
        Device::Sev => machine.faults.open_sev(),
        Device::File(path) => files::read(&machine, path).map(|_| ()),
    }
}

/// `access(2)`: monitors look for the devices before they open them.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn access(path: *const c_char, mode: c_int) -> c_int {
    match device(path) {
        Some(device) => finish(accessible(device).map(|()| 0)),
        None => real!(c"access", -1, fn(path: *const c_char, mode: c_int) -> c_int),
    }
}

/// `ioctl(2)`.
///
/// # Safety
/// As the C function; a missing argument is passed on as it lies in its register.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
    let result = forward_ioctl(fd, request, arg);
    if request & 0xffff_ffff == RUN {
        // If the thread has been cancelled meanwhile, it is unwound from here; this frame has nothing to clean up.
        signals::release_internal();
    }
    result
}

extern "C" fn forward_ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
    /// The type byte of KVM's and of the SEV driver's requests.
    const KVM: c_ulong = 0xae;
    const SEV: c_ulong = 0x53;
    if matches!(request >> 8 & 0xff, KVM | SEV)
        && !front().objects.is_empty()
        && let Some(answer) = front().ioctl(fd, request, arg as u64)
    {
        return finish(answer);
    }
    real!(c"ioctl", -1, fn(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int)
}

/// The descriptor to map in the place of a guest memory descriptor (kept open by the second value), or the failure.
fn mapped(fd: c_int, flags: c_int) -> Result<(c_int, Option<Owned>), *mut c_void> {
    if fd < 0 || flags & libc::MAP_ANONYMOUS != 0 || front().objects.is_empty() {
        return Ok((fd, None));
    }
    let private = flags & libc::MAP_TYPE == libc::MAP_PRIVATE;
    match front().mapped(fd, private) {
        None => Ok((fd, None)),
        Some(Ok(file)) => Ok((file.number(), Some(file))),
        Some(Err(Errno(errno))) => {
            fail(errno);
            Err(libc::MAP_FAILED)
        }
    }
}

const PAGE: size_t = 4096;

/// Where in a fresh mapping of a vCPU the ring belongs that all vCPUs of a VM share, and its file.
fn ring_of(
    whole: *mut c_void,
    len: size_t,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> Option<(*mut c_void, c_int)> {
    if whole == libc::MAP_FAILED || fd < 0 || flags & libc::MAP_ANONYMOUS != 0 {
        return None;
    }
    let at = (RING_PAGE * PAGE).checked_sub(usize::try_from(offset).ok()?)?;
    if at.checked_add(PAGE)? > len || front().objects.is_empty() {
        return None;
    }
    let ring = front().coalesced_ring(fd)?;
    Some((whole.wrapping_byte_add(at), ring))
}

/// The C library's `mmap`.
fn real_mmap(
    address: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    real!(
        c"mmap",
        libc::MAP_FAILED,
        fn(
            address: *mut c_void,
            len: size_t,
            prot: c_int,
            flags: c_int,
            fd: c_int,
            offset: off_t,
        ) -> *mut c_void
    )
}

/// `mmap(2)`: a guest memory descriptor without the MMAP flag cannot be mapped.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    let (fd, _open) = match mapped(fd, flags) {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let whole = real_mmap(address, len, prot, flags, fd, offset);
    let Some((address, ring)) = ring_of(whole, len, flags, fd, offset) else { return whole };
    real_mmap(address, PAGE, prot, flags | libc::MAP_FIXED, ring, 0);
    whole
}

/// `mmap64`.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    address: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the same function, as offsets have 64 bits.
    unsafe { mmap(address, len, prot, flags, fd, offset) }
}

/// `madvise(2)`: memory of a guest memory descriptor cannot be collapsed into huge pages.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(address: *mut c_void, len: size_t, advice: c_int) -> c_int {
    const MADV_COLLAPSE: c_int = 25;
    if advice == MADV_COLLAPSE && maps_guest_memory(address as usize) {
        fail(libc::EINVAL);
        return -1;
    }
    real!(c"madvise", -1, fn(address: *mut c_void, len: size_t, advice: c_int) -> c_int)
}

/// Whether a guest memory descriptor is mapped at an address.
fn maps_guest_memory(address: usize) -> bool {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return false };
    let range = |line: &str| -> Option<(usize, usize)> {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
    };
    let guest = maps.lines().filter(|line| line.contains("memfd:kvm-gmem"));
    guest.filter_map(range).any(|(start, end)| (start..end).contains(&address))
}

fn punch(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> Option<c_int> {
    if front().objects.is_empty() {
        return None;
    }
    Some(finish(front().fallocate(fd, mode, offset, len)?.map(|()| 0)))
}

/// `fallocate(2)`: a hole punched into a guest memory descriptor gives its pages back.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int {
    match punch(fd, mode, offset, len) {
        Some(result) => result,
        None => {
            real!(c"fallocate", -1, fn(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int)
        }
    }
}

/// `fallocate64`.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate64(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int {
    match punch(fd, mode, offset, len) {
        Some(result) => result,
        None => real!(
            c"fallocate64",
            -1,
            fn(fd: c_int, mode: c_int, offset: off_t, len: off_t) -> c_int
        ),
    }
}

/// Tells a monitor that looks for it (by `dlsym`) that this library answers its `/dev/kvm`.
#[unsafe(no_mangle)]
pub extern "C" fn softkvm_is_loaded() -> c_int {
    1
}

/// What operations cost on the profile in use, and how sure that is, as JSON; null without a machine.
#[unsafe(no_mangle)]
pub extern "C" fn softkvm_profile_costs() -> *const c_char {
    static COSTS: OnceLock<CString> = OnceLock::new();
    let Some(machine) = machine() else { return std::ptr::null() };
    let costs = || machine.profile.costs_as_json().to_string();
    COSTS.get_or_init(|| CString::new(costs()).unwrap_or_default()).as_ptr()
}

/// CPUID of the modelled host, as a program on it would see it: the processor that executes this program is another one.
/// Writes EAX, EBX, ECX and EDX; returns 0, or -1 without a machine.
///
/// # Safety
/// `out` is valid for writes of four words.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn softkvm_cpuid(leaf: u32, subleaf: u32, out: *mut [u32; 4]) -> c_int {
    let Some(machine) = machine() else { return -1 };
    // SAFETY: the caller's promise.
    unsafe { out.write(machine.host_cpuid(leaf, subleaf)) };
    0
}
