//! Rows 26 to 33 and 37: slots, attributes, guest memory, and the pages that a TD starts with.

use abi::kvm::{
    CreateGuestMemfd, GUEST_MEMFD_FLAG_INIT_SHARED, KVM_PRE_FAULT_MEMORY, MemoryAttributes,
    PreFaultMemory, UserMemoryRegion2,
};
use abi::kvm_tdx::{MEASURE_MEMORY_REGION, TdxInitMemRegion, cmd};
use iced_x86::code_asm::*;
use libc::{EEXIST, EFAULT, EINTR, EINVAL, EIO, ENOENT, EOPNOTSUPP};
use softkvm::kvm::{Errno, number as nr};
use std::time::Duration;

use crate::common::{Alarm, Cpu, Fd, Ram, region};
use crate::harness::*;
use crate::td::{
    self, FATAL, FRESH, Left, PRIVATE, RAM, SHARED, TdGuest, TdVm, accept, add, end, init_vcpu,
    report,
};

fn memfd(vm: &TdVm, size: u64, flags: u64) -> Result<Fd, Errno> {
    let mut request = CreateGuestMemfd { size, flags, ..Default::default() };
    vm.fd.with(nr::CREATE_GUEST_MEMFD, &mut request).map(Fd)
}

fn errno_of(answer: Result<i32, Errno>) -> Result<i32, i32> {
    answer.map_err(|errno| errno.0)
}

#[test]
fn row_26_slots_with_guest_memory_are_plain_and_stay() {
    let vm = initialised();
    let ram = Ram::new(0x4000);
    let memfd = memfd(&vm, 0x4000, 0).unwrap();
    let good = UserMemoryRegion2 {
        flags: nr::MEM_GUEST_MEMFD,
        guest_memfd: memfd.0 as u32,
        ..region(0, 0, &ram)
    };
    let set = |region: UserMemoryRegion2| {
        errno_of(vm.fd.with(nr::SET_USER_MEMORY_REGION2, &mut { region }))
    };
    for flag in [nr::MEM_READONLY, nr::MEM_LOG_DIRTY] {
        assert_eq!(set(UserMemoryRegion2 { flags: good.flags | flag, ..good }), Err(EINVAL));
    }
    assert_eq!(set(UserMemoryRegion2 { slot: 1 << 16, ..good }), Err(EINVAL));
    assert_eq!(set(good), Ok(0));
    let moved = UserMemoryRegion2 { userspace_addr: good.userspace_addr + 0x1000, ..good };
    assert_eq!(set(moved), Err(EINVAL));
    assert_eq!(set(UserMemoryRegion2 { guest_phys_addr: 0x8000, ..good }), Err(EINVAL));
    let plain = Ram::new(0x1000);
    assert_eq!(set(region(1, 0x3000, &plain)), Err(EEXIST));
    let twice = UserMemoryRegion2 { slot: 1, guest_phys_addr: 0x8000, ..good };
    assert_eq!(set(twice), Err(EEXIST), "the same guest memory");
    assert_eq!(set(UserMemoryRegion2 { memory_size: 0, ..good }), Ok(0));
    assert_eq!(set(twice), Ok(0));
}

#[test]
fn row_27_guest_memory_is_private() {
    let vm = initialised();
    let refused = |size, flags| memfd(&vm, size, flags).map(drop).unwrap_err().0;
    assert_eq!(refused(0x1000, GUEST_MEMFD_FLAG_INIT_SHARED), EINVAL);
    assert_eq!(refused(1, 0), EINVAL);
    assert_eq!(refused(0, 0), EINVAL);
}

#[test]
fn row_28_attributes_are_checked_but_need_no_slot() {
    let vm = TdVm::bare(&td::machine());
    let set = |address, size, attributes, flags| {
        let mut request = MemoryAttributes { address, size, attributes, flags };
        errno_of(vm.fd.with(nr::SET_MEMORY_ATTRIBUTES, &mut request))
    };
    assert_eq!(set(0, 0x1000, 1, 0), Err(EINVAL));
    assert_eq!(set(0x800, 0x1000, PRIVATE, 0), Err(EINVAL));
    assert_eq!(set(0, 0x800, PRIVATE, 0), Err(EINVAL));
    assert_eq!(set(0, 0, PRIVATE, 0), Err(EINVAL));
    assert_eq!(set(0, 0x1000, PRIVATE, 1), Err(EINVAL));
    assert_eq!(set(!0xfff, 0x2000, PRIVATE, 0), Err(EINVAL));
    assert_eq!(set(0x4000_0000, 0x1000, PRIVATE, 0), Ok(0));
}

/// A TD of one vCPU with 256 pages of memory, private, and source pages.
struct Launch {
    vm: TdVm,
    cpu: Cpu,
    source: Ram,
    _ram: Ram,
    _memfd: Fd,
}

const PAGES: u64 = 256;

impl Launch {
    fn new() -> Self {
        let vm = initialised();
        let ram = Ram::new((PAGES << 12) as usize);
        let memfd = vm.slot(0, 0, &ram);
        vm.attributes(0, PAGES << 12, PRIVATE).unwrap();
        let cpu = vm.vcpu(0);
        init_vcpu(&cpu, 0).unwrap();
        Self { vm, cpu, source: Ram::new((PAGES << 12) as usize), _ram: ram, _memfd: memfd }
    }

    fn at(&self) -> u64 {
        self.source.base as u64
    }

    /// INIT_MEM_REGION of one page that must not change its structure when it is refused.
    fn page(&self, gpa: u64) -> Result<i32, i32> {
        let (answer, left) = add(&self.cpu, gpa, self.at(), 1, false);
        let expected = TdxInitMemRegion { source_addr: self.at(), gpa, nr_pages: 1 };
        assert!(answer.is_ok() || left == expected, "{left:?}");
        errno_of(answer)
    }

    /// Makes a source page unreadable.
    fn hide(&self, page: usize) {
        // SAFETY: a page of our own mapping that nothing borrows.
        let done = unsafe {
            libc::mprotect(self.source.base.add(page << 12).cast(), 4096, libc::PROT_NONE)
        };
        assert_eq!(done, 0);
    }
}

#[test]
fn row_29_launch_pages_have_their_conditions() {
    let launch = Launch::new();
    let (vm, at) = (&launch.vm, launch.at());
    let plain = Ram::new(0x1000);
    vm.fd.with(nr::SET_USER_MEMORY_REGION2, &mut region(1, PAGES << 12, &plain)).unwrap();
    vm.attributes(PAGES << 12, 0x2000, PRIVATE).unwrap();
    vm.attributes(0x5000, 0x1000, 0).unwrap();
    assert_eq!(launch.page(0x5000), Err(EINVAL), "shared");
    assert_eq!(launch.page(PAGES << 12), Err(EINVAL), "no guest memory");
    assert_eq!(launch.page((PAGES + 1) << 12), Err(EINVAL), "no slot");
    assert_eq!(launch.page(0x800), Err(EINVAL), "unaligned");
    assert_eq!(launch.page(1 << 47), Err(EINVAL), "shared bit");
    let refused = |gpa, source, pages| errno_of(add(&launch.cpu, gpa, source, pages, false).0);
    assert_eq!(refused(0, at + 0x800, 1), Err(EINVAL));
    assert_eq!(refused(0, at, 0), Err(EINVAL));
    assert_eq!(refused(0, at, 1 << 52), Err(EINVAL));
    assert_eq!(refused((1 << 47) - 0x1000, at, 1), Err(EINVAL), "the end has the shared bit");
    assert_eq!(refused(0, 0, 1), Err(EOPNOTSUPP));
    launch.hide(0);
    assert_eq!(launch.page(0), Err(EFAULT));
    let mut region = TdxInitMemRegion { source_addr: at + 0x1000, gpa: 0, nr_pages: 1 };
    let data = std::ptr::from_mut(&mut region) as u64;
    let flags = |flags, data| td::command(&launch.cpu.fd, cmd::INIT_MEM_REGION, flags, data).0;
    assert_eq!(flags(2, data), Err(Errno(EINVAL)));
    assert_eq!(flags(0, 8), Err(Errno(EFAULT)));
    assert_eq!(flags(MEASURE_MEMORY_REGION, data), Ok(0));
}

#[test]
fn row_30_the_structure_tells_the_progress() {
    let launch = Launch::new();
    launch.hide(1);
    let at = launch.at();
    let (answer, left) = add(&launch.cpu, 0x4000, at, 3, true);
    assert_eq!(errno_of(answer), Err(EFAULT));
    let expected = TdxInitMemRegion { source_addr: at + 0x1000, gpa: 0x5000, nr_pages: 2 };
    assert_eq!(left, expected);
    let (answer, left) = add(&launch.cpu, 0x5000, at + 0x2000, 2, true);
    assert_eq!((answer, left.nr_pages), (Ok(0), 0));
}

#[test]
fn row_31_a_page_is_added_once() {
    let launch = Launch::new();
    assert_eq!(launch.page(0x4000), Ok(0));
    assert_eq!(launch.page(0x4000), Err(EIO));
    assert_eq!(launch.page(0x5000), Ok(0), "the VM lives");
    launch.vm.finalize().unwrap();
}

#[test]
fn row_32_a_signal_interrupts_between_pages() {
    let launch = Launch::new();
    let at = launch.at();
    let mut left = TdxInitMemRegion { source_addr: at, gpa: 0, nr_pages: PAGES };
    let mut interruptions = 0;
    let mut alarm = Some(Alarm::every(Duration::from_micros(200)));
    loop {
        let before = left;
        let (answer, after) =
            add(&launch.cpu, before.gpa, before.source_addr, before.nr_pages, true);
        left = after;
        let done = before.nr_pages - left.nr_pages;
        let progress = [left.gpa - before.gpa, left.source_addr - before.source_addr];
        assert_eq!(progress, [done << 12; 2]);
        match answer {
            Err(errno) => {
                assert_eq!(errno.0, EINTR);
                assert_ne!(left.nr_pages, 0);
                interruptions += 1;
                if interruptions == 3 {
                    alarm = None;
                }
            }
            Ok(_) => break,
        }
    }
    assert_eq!(left.nr_pages, 0);
    assert!(interruptions > 0, "adding 256 pages takes longer than a fifth of a millisecond");
    drop(alarm);
    launch.vm.finalize().unwrap();
}

#[test]
fn row_33_launch_pages_come_through_an_initialised_vcpu() {
    let launch = Launch::new();
    let other = launch.vm.vcpu(1);
    let through = |cpu| errno_of(add(cpu, 0, launch.at(), 1, false).0);
    assert_eq!(through(&other), Err(EINVAL));
    launch.vm.finalize().unwrap();
    assert_eq!(through(&launch.cpu), Err(EINVAL));
}

fn pre_fault(cpu: &Cpu, gpa: u64, size: u64) -> (Result<i32, i32>, [u64; 2]) {
    let mut range = PreFaultMemory { gpa, size, flags: 0, padding: [0; 5] };
    let answer = errno_of(cpu.fd.with(KVM_PRE_FAULT_MEMORY, &mut range));
    (answer, [range.gpa, range.size])
}

#[test]
fn row_37_pages_that_are_mapped_early_still_need_acceptance() {
    let launch = Launch::new();
    assert_eq!(pre_fault(&launch.cpu, 0, 0x1000).0, Err(EOPNOTSUPP));
    let guest = TdGuest::new(|a| {
        accept(a, FRESH, 0);
        report(a, rax);
        a.mov(rax, qword_ptr(FRESH)).unwrap();
        report(a, rax);
        a.mov(rax, qword_ptr(FRESH + 0x1000)).unwrap();
        end(a, 0);
    });
    let cpu = &guest.cpus[0];
    assert_eq!(pre_fault(cpu, FRESH, 0x2000), (Ok(0), [FRESH + 0x2000, 0]));
    assert_eq!(pre_fault(cpu, FRESH, 0x1000), (Ok(0), [FRESH + 0x1000, 0]), "again");
    let end = RAM as u64;
    assert_eq!(pre_fault(cpu, end - 0x1000, 0x3000), (Ok(0), [end, 0x2000]));
    assert_eq!(pre_fault(cpu, end, 0x2000), (Err(ENOENT), [end, 0x2000]));
    assert_eq!(pre_fault(cpu, FRESH | SHARED, 0x1000).0, Err(EINVAL));
    assert_eq!(pre_fault(cpu, FRESH + 1, 0x1000).0, Err(EINVAL));
    assert_eq!(pre_fault(cpu, FRESH, 0).0, Err(EINVAL));
    assert_eq!(guest.run(), Left::Report(0), "pending, not accepted already");
    assert_eq!(guest.run(), Left::Report(0));
    assert_eq!(guest.run(), Left::Failed(Errno(EIO)));
    assert_ne!(guest.run(), FATAL);
}
