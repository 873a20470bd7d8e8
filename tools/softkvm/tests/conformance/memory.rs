//! Rows 22 to 28: guest memory descriptors, slots, attributes.

use std::os::fd::AsRawFd;

use abi::kvm::{KVM_PRE_FAULT_MEMORY, KVM_SET_MEMORY_ATTRIBUTES, MemoryAttributes, PreFaultMemory};
use kvm_bindings::kvm_clock_data;
use libc::{EBADF, EEXIST, EINVAL, ENODEV, ENOENT, EOPNOTSUPP};
use softkvm::kvm::front;

use crate::harness::{Host, PRIVATE, Pages};

const GET_CLOCK: u64 = 0x8030_ae7c;
const LOG_DIRTY: u32 = 1;
const READONLY: u32 = 2;
const GUARDED: u32 = 4;

#[test]
fn row_22_guest_memory_descriptors() {
    let host = Host::new();
    let vm = host.ready();
    for (size, flags) in [(0, 0), (100, 0), (0x1000, 4), (0x1000, 2)] {
        assert_eq!(vm.memfd(size, flags), Err(EINVAL), "{size} {flags}");
    }
    let (plain, mappable) = (vm.memfd(0x1000, 0).unwrap(), vm.memfd(0x1000, 1).unwrap());
    let refuses = |fd, private| front().mapped(fd, private).unwrap().err().map(|errno| errno.0);
    assert_eq!(refuses(plain, false), Some(ENODEV));
    assert_eq!(refuses(mappable, true), Some(EINVAL));
    assert_eq!(refuses(mappable, false), None);
}

#[test]
fn row_23_guarded_slots_are_plain() {
    let host = Host::new();
    let vm = host.ready();
    let pages = Pages::new(4);
    let memfd = vm.memfd(0x4000, 0).unwrap();
    for flags in [GUARDED | READONLY, GUARDED | LOG_DIRTY, READONLY] {
        assert_eq!(vm.region(0, flags, 0, 4, pages.address(), memfd, 0), Err(EINVAL), "{flags}");
    }
    assert_eq!(vm.region(0, GUARDED, 0, 4, pages.address(), memfd, 0), Ok(()));
}

#[test]
fn row_24_slots_name_memory_of_their_own_vm() {
    let host = Host::new();
    let (vm, other) = (host.ready(), host.ready());
    let pages = Pages::new(8);
    let at = pages.address();
    let memfd = vm.memfd(0x4000, 0).unwrap();
    let foreign = other.memfd(0x4000, 0).unwrap();
    let file = tempfile::tempfile().unwrap();
    let slot = |fd, pages, offset| vm.region(0, GUARDED, 0, pages, at, fd, offset);
    assert_eq!(slot(file.as_raw_fd(), 4, 0), Err(EINVAL));
    assert_eq!(slot(foreign, 4, 0), Err(EINVAL));
    assert_eq!(slot(memfd, 2, 0x800), Err(EINVAL));
    assert_eq!(slot(memfd, 4, 0x1000), Err(EINVAL));
    assert_eq!(slot(9999, 4, 0), Err(EBADF));
    assert_eq!(slot(memfd, 2, 0), Ok(()));
    assert_eq!(vm.region(1, GUARDED, 16, 2, at, memfd, 0x1000), Err(EEXIST), "file range");
    assert_eq!(vm.region(1, GUARDED, 1, 2, at, memfd, 0x2000), Err(EEXIST), "addresses");
    assert_eq!(vm.region(1, GUARDED, 16, 2, at, memfd, 0x2000), Ok(()));
}

#[test]
fn row_25_guarded_slots_do_not_change() {
    let host = Host::new();
    let vm = host.ready();
    let pages = Pages::new(8);
    let at = pages.address();
    let memfd = vm.memfd(0x4000, 0).unwrap();
    vm.region(0, GUARDED, 0, 4, at, memfd, 0).unwrap();
    assert_eq!(vm.region(0, GUARDED, 0, 4, at + 0x1000, memfd, 0), Err(EINVAL));
    assert_eq!(vm.region(0, GUARDED, 8, 4, at, memfd, 0), Err(EINVAL));
    assert_eq!(vm.region(0, GUARDED | LOG_DIRTY, 0, 4, at, memfd, 0), Err(EINVAL));
    assert_eq!(vm.region(0, 0, 0, 0, 0, 0, 0), Ok(()));
    assert_eq!(vm.region(0, GUARDED, 8, 4, at, memfd, 0), Ok(()));
}

#[test]
fn row_26_attributes_are_checked_but_need_no_slot() {
    let host = Host::new();
    let vm = host.ready();
    let mut flags = MemoryAttributes { address: 0, size: 0x1000, attributes: PRIVATE, flags: 1 };
    assert_eq!(vm.with(KVM_SET_MEMORY_ATTRIBUTES, &mut flags), Err(EINVAL));
    assert_eq!(vm.attributes(0, 0x1000, 1), Err(EINVAL));
    assert_eq!(vm.attributes(0, 0, PRIVATE), Err(EINVAL));
    assert_eq!(vm.attributes(0x800, 0x1000, PRIVATE), Err(EINVAL));
    assert_eq!(vm.attributes(0, 0x800, PRIVATE), Err(EINVAL));
    assert_eq!(vm.attributes(!0xfff, 0x2000, PRIVATE), Err(EINVAL));
    assert_eq!(vm.attributes(0x1234_5000, 0x3000, PRIVATE), Ok(()));
    assert_eq!(vm.attributes(0x1234_5000, 0x3000, 0), Ok(()));
}

#[test]
fn row_27_allocating_and_punching() {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE;
    let host = Host::new();
    let memfd = host.ready().memfd(0x4000, 0).unwrap();
    let fallocate = |mode, offset, len| {
        front().fallocate(memfd, mode, offset, len).unwrap().map_err(|errno| errno.0)
    };
    assert_eq!(fallocate(0, 0, 0x1000), Err(EOPNOTSUPP));
    assert_eq!(fallocate(PUNCH, 0, 0x1000), Err(EOPNOTSUPP));
    assert_eq!(fallocate(KEEP | PUNCH, 0x800, 0x1000), Err(EINVAL));
    assert_eq!(fallocate(KEEP | PUNCH, 0, 0x800), Err(EINVAL));
    assert_eq!(fallocate(KEEP, 0x4000, 0x1000), Err(EINVAL));
    assert_eq!(fallocate(KEEP | PUNCH, 0x1000, 0x1000), Ok(()));
    assert_eq!(fallocate(KEEP, 0x1000, 0x1000), Ok(()));
}

#[test]
fn row_28_pre_fault_waits_for_finish() {
    let host = Host::new();
    let launch = host.started();
    let pre_fault = |gpa, size| {
        let mut request = PreFaultMemory { gpa, size, ..Default::default() };
        let answer = host.with(launch.vcpus[0], KVM_PRE_FAULT_MEMORY, &mut request);
        (answer, request.gpa, request.size)
    };
    assert_eq!(pre_fault(0x1000, 0x2000).0, Err(EOPNOTSUPP));
    launch.vm.finish(&Default::default()).unwrap();
    assert_eq!(pre_fault(0x1000, 0x2000), (Ok(0), 0x3000, 0));
    let past = 256 << 12;
    assert_eq!(pre_fault(past, 0x1000), (Err(ENOENT), past, 0x1000));
    assert_eq!(pre_fault(past - 0x1000, 0x2000), (Ok(0), past, 0x1000), "partial progress");
}

#[test]
fn to_fault_a_page_in_ahead_takes_the_time_of_assigning_it() {
    /// Of the profile, in nanoseconds: RMPUPDATE.
    const ASSIGN: u64 = 500;
    let host = Host::new();
    let launch = host.started();
    launch.vm.finish(&Default::default()).unwrap();
    let now = || {
        let mut clock = kvm_clock_data::default();
        launch.vm.with(GET_CLOCK, &mut clock).unwrap();
        clock.clock
    };
    let pre_fault = |size| {
        let mut request = PreFaultMemory { gpa: 0x1000, size, ..Default::default() };
        host.with(launch.vcpus[0], KVM_PRE_FAULT_MEMORY, &mut request).unwrap();
    };
    let begin = now();
    pre_fault(0x8000);
    assert_eq!(now() - begin, 8 * ASSIGN);
    pre_fault(0x9000);
    assert_eq!(now() - begin, 9 * ASSIGN, "what is assigned is assigned");
}
