//! softkvm's front end as tests use it: by descriptors and ioctls, without the preload library.
#![allow(unsafe_code, dead_code, missing_docs, clippy::unwrap_used)]

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use abi::kvm::UserMemoryRegion2;
use softkvm::kvm::{Answer, Machine, Options, front, number as nr};

/// Anonymous memory.
pub struct Ram {
    pub base: *mut u8,
    pub len: usize,
}

impl Ram {
    pub fn new(len: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        Self { base: base.cast(), len }
    }

    pub fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        // SAFETY: inside the mapping, as just checked.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), bytes.len()) };
    }

    pub fn get(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.len);
        // SAFETY: inside the mapping, as just checked.
        unsafe { std::slice::from_raw_parts(self.base.add(at), len) }.to_vec()
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// A descriptor of ours.
pub struct Fd(pub RawFd);

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: a descriptor of ours.
        unsafe { libc::close(self.0) };
    }
}

impl Fd {
    pub fn value(&self, request: u64, arg: u64) -> Answer<i32> {
        front().ioctl(self.0, request, arg).expect("a descriptor of softkvm")
    }

    pub fn with<T>(&self, request: u64, arg: &mut T) -> Answer<i32> {
        self.value(request, std::ptr::from_mut(arg) as u64)
    }
}

pub fn machine() -> Arc<Machine> {
    Machine::new(Options::default()).unwrap()
}

pub fn kvm(machine: &Arc<Machine>) -> Fd {
    Fd(front().open_kvm(machine.clone()).unwrap())
}

pub fn sev(machine: &Arc<Machine>) -> Fd {
    Fd(front().open_sev(machine.clone(), true).unwrap())
}

pub fn vm(kind: u64) -> Fd {
    vm_on(&machine(), kind)
}

pub fn vm_on(machine: &Arc<Machine>, kind: u64) -> Fd {
    Fd(kvm(machine).value(nr::CREATE_VM, kind).unwrap())
}

pub fn region(slot: u32, gpa: u64, ram: &Ram) -> UserMemoryRegion2 {
    UserMemoryRegion2 {
        slot,
        guest_phys_addr: gpa,
        memory_size: ram.len as u64,
        userspace_addr: ram.base as u64,
        ..Default::default()
    }
}

/// A timer that interrupts the thread that has set it.
pub struct Alarm(libc::timer_t);

impl Alarm {
    /// Interrupts once.
    pub fn after(time: Duration) -> Self {
        Self::set(time, Duration::ZERO)
    }

    /// Interrupts again and again.
    pub fn every(time: Duration) -> Self {
        Self::set(time, time)
    }

    fn set(first: Duration, then: Duration) -> Self {
        extern "C" fn ignore(_: i32) {}
        let timespec = |time: Duration| libc::timespec {
            tv_sec: time.as_secs() as libc::time_t,
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        // SAFETY: the handler does nothing, the structures are locals, and the timer is ours.
        unsafe {
            libc::signal(libc::SIGUSR2, ignore as *const () as libc::sighandler_t);
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGUSR2;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer = std::mem::zeroed();
            assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer), 0);
            let times = libc::itimerspec { it_value: timespec(first), it_interval: timespec(then) };
            assert_eq!(libc::timer_settime(timer, 0, &times, std::ptr::null_mut()), 0);
            Self(timer)
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer is ours.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// A vCPU with its run page.
pub struct Cpu {
    pub fd: Fd,
    pub page: *mut u8,
}

impl Drop for Cpu {
    fn drop(&mut self) {
        // SAFETY: unmaps what `new` mapped.
        unsafe { libc::munmap(self.page.cast(), nr::VCPU_MMAP_SIZE) };
    }
}

// SAFETY: the page is only read and written by volatile accesses.
unsafe impl Send for Cpu {}
// SAFETY: as above.
unsafe impl Sync for Cpu {}

impl Cpu {
    pub fn new(vm: &Fd, id: u64) -> Self {
        let fd = Fd(vm.value(nr::CREATE_VCPU, id).unwrap());
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let page = unsafe {
            libc::mmap(std::ptr::null_mut(), nr::VCPU_MMAP_SIZE, prot, libc::MAP_SHARED, fd.0, 0)
        };
        assert_ne!(page, libc::MAP_FAILED);
        Self { fd, page: page.cast() }
    }

    /// KVM_RUN, ended by a signal (EINTR) if it takes too long.
    pub fn run(&self) -> Answer<i32> {
        let _limit = Alarm::after(Duration::from_secs(60));
        self.fd.value(nr::RUN, 0)
    }

    pub fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        // SAFETY: tests stay inside the mapped pages.
        std::array::from_fn(|i| unsafe { self.page.add(at + i).read_volatile() })
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.read(at))
    }

    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.read(at))
    }

    pub fn put(&self, at: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: tests stay inside the mapped pages.
            unsafe { self.page.add(at + i).write_volatile(*byte) };
        }
    }

    pub fn reason(&self) -> u32 {
        self.u32(8)
    }

    /// Real mode, flat from address 0, at `rip`.
    pub fn real_mode(&self, rip: u64) {
        let mut sregs: kvm_bindings::kvm_sregs = Default::default();
        self.fd.with(nr::GET_SREGS, &mut sregs).unwrap();
        sregs.cs.base = 0;
        sregs.cs.selector = 0;
        self.fd.with(nr::SET_SREGS, &mut sregs).unwrap();
        let mut regs = kvm_bindings::kvm_regs { rip, rflags: 2, rsp: 0x800, ..Default::default() };
        self.fd.with(nr::SET_REGS, &mut regs).unwrap();
    }

    pub fn regs(&self) -> kvm_bindings::kvm_regs {
        let mut regs = Default::default();
        self.fd.with(nr::GET_REGS, &mut regs).unwrap();
        regs
    }
}

/// A CPUID table of everything that is offered.
pub fn set_supported_cpuid(kvm: &Fd, cpu: &Cpu) {
    let mut table = vec![0u8; 8 + 64 * 40];
    table[..4].copy_from_slice(&64u32.to_le_bytes());
    kvm.value(nr::GET_SUPPORTED_CPUID, table.as_mut_ptr() as u64).unwrap();
    cpu.fd.value(nr::SET_CPUID2, table.as_ptr() as u64).unwrap();
}
